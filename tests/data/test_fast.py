"""The default reader gives the frames of decord, bit for bit, of all kinds of files."""

from __future__ import annotations

import csv
import pickle
import random
import shutil
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import Experiment
from simvtp.data.prepare.write_shards import write_shards
from simvtp.data.shards import read_shards
from simvtp.data.video.decord_compatible import FastReader
from simvtp.data.video.pyav_reader import KEPT_FRAMES
from simvtp.data.video.readers import fit_short_side, get_reader, probe, read_frames
from simvtp.errors import DataError, UserError
from tests.data.helpers import moving_square
from tests.data.test_bad_input import manifest_of
from tests.data.test_real_video import REAL_CLIPS

FRAMES = 60
KEYS = 5  # key frames of a film with groups of 12, each an entry of its table
OPEN_GROUPS = ("open-gop.mkv", "mpeg4.mp4")


def film(
    path: Path,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    size: tuple[int, int] = (90, 122),
    gop: int = 12,
    **how: Any,
) -> Path:
    """A film with what people's encoders put in.

    B-frames that others refer to, a group of so many frames, and if asked other things.
    """
    noise = np.random.default_rng(0).integers(0, 30, (7, *size, 3), dtype=np.uint8)
    options = {
        "x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes=3:b-pyramid=2",
        **how.get("options", {}),
    }
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(
            codec, rate=25, options=options if codec == "libx264" else how.get("options", {})
        )
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.codec_context.gop_size = gop
        if "times_ms" in how:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(moving_square(5, FRAMES, *size)):
            frame = av.VideoFrame.from_ndarray(
                picture ^ noise[number % 7], format="rgb24"
            ).reformat(format=pixels)
            if "times_ms" in how:
                frame.pts, frame.time_base = how["times_ms"][number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn(path: Path, degrees: int) -> Path:
    """Write a rotation into the display matrix, as phones do."""
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    raw = bytearray(path.read_bytes())
    matrix = raw.index(b"tkhd") + 44
    raw[matrix : matrix + 36] = struct.pack(
        ">9i", cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30
    )
    path.write_bytes(raw)
    return path


MADE: dict[str, dict[str, Any]] = {
    "gop12.mp4": {},
    "gop250.mp4": {"gop": 250},
    "open-gop.mkv": {
        "options": {
            "x264-params": "keyint=10:min-keyint=10:scenecut=0:bframes=3:b-pyramid=2:open-gop=1"
        }
    },
    "no-b.mp4": {"options": {"x264-params": "bframes=0"}},
    "variable.mp4": {"times_ms": [n * 40 + (n * n * 7) % 31 for n in range(FRAMES)]},
    "variable.mkv": {"times_ms": [n * 40 + (n // 9) * 300 for n in range(FRAMES)]},
    "odd.mp4": {"pixels": "yuv444p", "size": (71, 97)},
    "full-range.mp4": {"pixels": "yuvj420p"},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"bf": "2"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "motion.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
}


@pytest.mark.parametrize("name", MADE)
def test_frames_are_those_of_decord(name: str, tmp_path: Path) -> None:
    same_as_decord(film(tmp_path / name, **MADE[name]), 2)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_films_of_phones_too(degrees: int, tmp_path: Path) -> None:
    same_as_decord(turn(film(tmp_path / "phone.mp4"), degrees), 1)


def same_as_decord(path: Path, times: int) -> None:
    decord, kept, rng = get_reader("decord"), get_reader("fast"), random.Random(path.name)
    info = probe(path, decord)
    found = probe(path, kept)
    assert (info.frames, info.height, info.width) == (
        found.frames,
        found.height,
        found.width,
    ) and abs(info.fps - found.fps) < 0.01
    for side in (None, 2 * min(info.height, info.width) // 3):
        size = None if side is None else fit_short_side(info.height, info.width, side)
        whole = read_frames(path, range(info.frames), decord, size)
        for _ in range(times):
            start = rng.randrange(max(1, info.frames - 20))
            strided = [min(start + 4 * i, info.frames - 1) for i in range(6)]
            for indices in (strided, [rng.randrange(info.frames) for _ in range(4)]):
                expected = whole[indices]
                if (
                    path.name not in OPEN_GROUPS
                ):  # there decord gives other frames after a seek than in order
                    assert np.array_equal(read_frames(path, indices, decord, size), expected)
                for reader in (kept, get_reader("fast")):  # with a table of the file, and without
                    assert np.array_equal(read_frames(path, indices, reader, size), expected), (
                        path.name,
                        indices,
                        size,
                    )


def test_real_clips_too() -> None:
    if not REAL_CLIPS.is_file():
        pytest.skip("the folder of real captioned clips is not next to this checkout")
    with open(REAL_CLIPS, newline="") as file:
        paths = sorted({REAL_CLIPS.parent / row["path"] for row in csv.DictReader(file)})
    for path in paths[::20]:
        decord, fast = get_reader("decord"), get_reader("fast")
        info = probe(path, decord)
        size = fit_short_side(info.height, info.width, 128)
        for indices in (range(0, min(info.frames, 61), 4), [info.frames - 1, 0, info.frames // 2]):
            assert np.array_equal(
                read_frames(path, indices, fast, size), read_frames(path, indices, decord, size)
            ), path.name


def test_members_of_shards_too(tmp_path: Path) -> None:
    from simvtp.data.clips import Clip

    clip = Clip("a", film(tmp_path / "a.mp4"), ("words",))
    write_shards(
        manifest_of([clip], tmp_path / "m.csv"), tmp_path / "out", workers=0, say=lambda line: None
    )
    same_as_decord(read_shards(tmp_path / "out").clips[0].path, 2)


def test_a_table_of_a_file_that_was_replaced_is_not_used(tmp_path: Path) -> None:
    path, reader = film(tmp_path / "a.mp4"), FastReader()
    read_frames(path, [3], reader)
    shutil.copy(film(tmp_path / "b.mp4", times_ms=[n * 55 for n in range(FRAMES)], gop=30), path)
    assert np.array_equal(
        read_frames(path, [41, 3], reader), read_frames(path, [41, 3], get_reader("decord"))
    )
    path.unlink()
    with pytest.raises(DataError, match="does not decode"):
        read_frames(path, [3], reader)


def test_tables_are_bounded_and_stay_in_their_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert KEPT_FRAMES >= 1_000_000
    monkeypatch.setattr("simvtp.data.video.pyav_reader.KEPT_FRAMES", 3 * (FRAMES + KEYS))
    reader = FastReader()
    film(tmp_path / "0.mp4")
    for number in range(6):
        path = tmp_path / f"{number}.mp4"
        if number:
            shutil.copy(tmp_path / "0.mp4", path)
        for _ in range(2):
            read_frames(path, [0, 7], reader)
            probe(path, reader)
    assert [path.name for path in reader.tables] == [
        "3.mp4",
        "4.mp4",
        "5.mp4",
    ] and reader.tables.entries == 3 * (FRAMES + KEYS)
    again = pickle.loads(pickle.dumps(reader))
    assert not list(again.tables) and read_frames(tmp_path / "2.mp4", [1], again).shape == (
        1,
        90,
        122,
        3,
    )


def test_to_the_fingerprint_it_is_decord() -> None:
    prints = {
        name: Experiment(data=DataConfig(reader=name)).fingerprint
        for name in ("fast", "decord", "pyav", "torchcodec")
    }  # type: ignore[arg-type]
    assert Experiment().data.reader == "fast" and prints["fast"] == prints["decord"]
    assert len(set(prints.values())) == 3
    assert Experiment(data=replace(DataConfig(), repeat=2)).fingerprint != prints["fast"]


def test_torchcodec_is_read_alike_or_says_what_is_missing(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4")
    try:
        found = read_frames(path, [3, 50, 3], get_reader("torchcodec"))
    except UserError as error:
        assert (
            "torchcodec does not import" in str(error)
            and "data.reader=fast" in str(error)
            and "\n" not in str(error)
        )
    else:
        assert np.array_equal(found, read_frames(path, [3, 50, 3], get_reader("decord")))
