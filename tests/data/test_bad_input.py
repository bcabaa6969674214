"""People's files and captions are read rightly, replaced and counted, or refused."""

from __future__ import annotations

import csv
import itertools
import json
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.config.model_config import SimVTPConfig
from simvtp.data.clips import Clip
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.loading.view_loader import ViewLoader
from simvtp.data.prepare.check_manifest import check_manifest
from simvtp.data.prepare.encode import encode_h264
from simvtp.data.prepare.transcode import TranscodeTarget
from simvtp.data.prepare.write_shards import write_shards
from simvtp.data.shards import read_shards
from simvtp.data.text.tokenizer import load_tokenizer
from simvtp.data.video.pyav_reader import PyavReader
from simvtp.data.video.readers import fit_short_side, get_reader, probe, read_frames
from simvtp.errors import DataError
from tests.data.compared_readers import READERS
from tests.data.helpers import make_clips, moving_square

MODEL = SimVTPConfig(image_size=32, frames=4, patch_size=8, text_length=12)
DATA = DataConfig(stride=2, max_corrupt_ratio=0.5)
HERE = RuntimeConfig(workers=0, device="cpu")
SIZE = 72, 96  # height, width of the films below


def film(
    path: Path,
    times_ms: Sequence[int] = (),
    size: tuple[int, int] = SIZE,
    pixels: str = "yuv420p",
    faststart: bool = False,
) -> np.ndarray:
    """Returns a film of 20 frames as people's encoders make them (B-frames, long groups).

    It has 10 frames a second or the given times.
    """
    frames = moving_square(3, 20, *size)
    with av.open(
        str(path), "w", options={"movflags": "faststart"} if faststart else {}
    ) as container:
        stream: Any = container.add_stream("libx264", rate=10, options={"bf": "2"})
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, pixel in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixel, format="rgb24")
            frame.pts, frame.time_base = (
                times_ms[number] if times_ms else number * 100,
                Fraction(1, 1000),
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return frames


def truncated(path: Path) -> None:
    """An interrupted download of a file whose table of frames comes last."""
    film(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncated_behind_the_table(path: Path) -> None:
    """Puts the table first, as on the web.

    It opens, says it has 20 frames, and ends before the last ones.
    """
    film(path, faststart=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])


def zero_bytes(path: Path) -> None:
    path.touch()


def audio_only(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(
            np.zeros((1, 16000), np.float32), format="fltp", layout="mono"
        )
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))


def without_size(path: Path) -> None:
    """A container that says 0x0, of a codec that has no better knowledge."""
    with av.open(str(path), "w", format="mov") as container:
        stream: Any = container.add_stream("rawvideo", rate=10)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for pixel in moving_square(3, 4, *SIZE):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixel, format="rgb24")))
        container.mux(stream.encode(None))
    raw = path.read_bytes()
    stated = struct.pack(">HH", SIZE[1], SIZE[0])
    entry = raw.index(b"stsd")
    assert raw.index(stated, entry) - entry < 64
    path.write_bytes(raw[:entry] + raw[entry:].replace(stated, bytes(4), 1))


def html(path: Path) -> None:
    path.write_text(
        "<!DOCTYPE html><html><head><title>404 Not Found</title></head><body><h1>Not "
        "Found</h1></body></html>"
    )


def missing(path: Path) -> None:
    pass


BAD: dict[
    Callable[[Path], None], str
] = {  # how the file is made -> what becomes of it when shards are made
    truncated: "no_video",
    truncated_behind_the_table: "damaged",
    zero_bytes: "empty",
    audio_only: "no_video",
    without_size: "damaged",
    html: "no_video",
    missing: "missing",
}


def manifest_of(clips: Sequence[Clip], path: Path) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["videoid", "path", "caption"])
        writer.writerows(
            [clip.id, clip.path, caption] for clip in clips for caption in clip.captions
        )
    return path


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_a_file_that_is_no_video_is_named_replaced_and_counted(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.mp4"
    make(bad)
    for name in READERS:
        with pytest.raises(DataError, match="does not decode") as caught:
            read_frames(bad, range(20), get_reader(name))
        assert str(bad) in str(caught.value) and "\n" not in str(caught.value)
    clips = [*make_clips(tmp_path, 3), Clip("bad", bad, ("never seen",))]
    data = DataConfig(stride=5, max_corrupt_ratio=0.5)  # the window reaches the end of the film
    loader = TrainLoader(
        clips, load_tokenizer("builtin"), data=data, model=MODEL, runtime=HERE, batch_size=4, seed=0
    )
    batches = list(itertools.islice(loader.batches(), 3))
    assert all("bad" not in batch.sample_ids for batch in batches)
    assert (loader.counters.corrupt, loader.counters.replaced) == (1, 3)
    path = manifest_of(clips, tmp_path / "clips.csv")
    report = check_manifest(path, workers=0, say=lambda line: None)
    assert len(report.missing if make is missing else report.corrupt) == 1 and not report.ok
    outcome = write_shards(path, tmp_path / "out", workers=0, say=lambda line: None)
    assert (outcome.written, dict(outcome.failed)) == (3, {BAD[make]: 1})


def test_pyav_reads_what_is_left_of_a_file_that_still_opens(tmp_path: Path) -> None:
    """decord looks ahead and gives up sooner, but gives no wrong frame either."""
    film(tmp_path / "whole.mp4", faststart=True)
    whole = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 95 // 100])
    left = read_frames(tmp_path / "cut.mp4", range(12), get_reader("pyav"))
    assert np.array_equal(left, in_order(tmp_path / "whole.mp4")[:12])
    for name in READERS:
        with pytest.raises(DataError, match="does not decode"):
            read_frames(tmp_path / "cut.mp4", [19], get_reader(name))


def in_order(path: Path) -> np.ndarray:
    """All frames, by the plainest decoding there is."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def accepted(path: Path, shards: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The film as both readers give it, and what its shard says of it.

    The loader, the check and the shards have nothing to say.
    """
    frames = probe(path, PyavReader()).frames
    found = [read_frames(path, range(frames), get_reader(name)) for name in READERS]
    assert (
        all(np.array_equal(frames, found[0]) for frames in found)
        and probe(path, get_reader("decord")).frames == frames
    )
    assert all(
        (probe(path, get_reader(name)).height, probe(path, get_reader(name)).width)
        == found[0].shape[1:3]
        for name in READERS
    )
    clips = [Clip("film", path, ("a film",))]
    loader = TrainLoader(
        clips, load_tokenizer("builtin"), data=DATA, model=MODEL, runtime=HERE, batch_size=1, seed=0
    )
    (batch,) = itertools.islice(loader.batches(), 1)
    assert batch.clips.shape == (1, 4, 32, 32, 3) and loader.counters.corrupt == 0
    manifest = manifest_of(clips, path.with_suffix(".csv"))
    assert not check_manifest(manifest, workers=0, say=lambda line: None).corrupt
    assert (
        write_shards(
            manifest, shards, TranscodeTarget(crf=4), workers=0, say=lambda line: None
        ).written
        == 1
    )
    entry = json.loads((shards / "clips-000000.json").read_text())["clips"][0]
    return found[0], entry["video"]


def stored(shards: Path) -> np.ndarray:
    (clip,) = read_shards(shards).clips
    return read_frames(clip.path, range(probe(clip.path, PyavReader()).frames), PyavReader())


def test_a_film_of_one_frame_is_repeated(tmp_path: Path) -> None:
    encode_h264(moving_square(0, 1, *SIZE), tmp_path / "one.mp4", 8)
    frames, entry = accepted(tmp_path / "one.mp4", tmp_path / "out")
    assert len(frames) == 1 and entry["frames"] == 1
    views = ViewLoader(
        [Clip("one", tmp_path / "one.mp4", ("x",))],
        data=DATA,
        model=MODEL,
        runtime=HERE,
        segments=2,
        crops=1,
        batch_size=2,
    )
    ((shown, _),) = views.batches()
    assert (shown == shown[:1, :1]).all()
    assert check_manifest(tmp_path / "one.csv", workers=0, say=lambda line: None).short


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_variable_frame_rate_keeps_its_frames_and_shards_keep_its_time(
    tmp_path: Path, ending: str
) -> None:
    times = [
        0,
        40,
        80,
        120,
        520,
        560,
        600,
        640,
        1000,
        1040,
        1200,
        1240,
        1280,
        1320,
        1360,
        2000,
        2040,
        2080,
        2120,
        2160,
    ]
    path = tmp_path / f"film.{ending}"
    film(path, times)
    frames, entry = accepted(path, tmp_path / "out")
    assert np.array_equal(frames, in_order(path)) and len(frames) == 20
    made, rate = stored(tmp_path / "out").astype(int), entry["fps"]
    shown = [int(np.abs(frames.astype(int) - picture).mean((1, 2, 3)).argmin()) for picture in made]
    assert (
        2.1 < len(made) / rate < 2.7
    )  # an mp4 has its own opinion on how long the last frame stays
    for number, source in enumerate(
        shown
    ):  # what is seen at a time was seen then, give or take half a frame
        late, early = number / rate + 0.5 / rate + 1e-3, number / rate - 0.5 / rate - 1e-3
        assert times[source] / 1000 <= late and (source == 19 or times[source + 1] / 1000 >= early)


@pytest.mark.parametrize(("degrees", "turns"), [(90, 3), (180, 2), (270, 1)])
def test_a_film_of_a_phone_stands_upright(tmp_path: Path, degrees: int, turns: int) -> None:
    """A phone writes the picture as its sensor lies.

    And how to turn it into the track's display matrix.
    """
    path = tmp_path / "film.mp4"
    film(path)
    lying = in_order(path)
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    raw = bytearray(path.read_bytes())
    matrix = raw.index(b"tkhd") + 44
    raw[matrix : matrix + 36] = struct.pack(
        ">9i", cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30
    )
    path.write_bytes(raw)
    frames, entry = accepted(path, tmp_path / "out")
    assert np.array_equal(frames, np.rot90(lying, turns, (1, 2)))
    assert (entry["height"], entry["width"]) == frames.shape[1:3]
    assert np.abs(stored(tmp_path / "out").astype(int) - frames).mean() < 3
    size = fit_short_side(*frames.shape[1:3], 40)
    small = [read_frames(path, [5], get_reader(name), size).astype(int) for name in READERS]
    assert (
        small[0].shape == small[1].shape == (1, *size, 3) and np.abs(small[0] - small[1]).mean() < 4
    )
    assert np.array_equal(small[0], small[2])


@pytest.mark.parametrize("size", [(71, 97), (72, 97), (71, 96)])
def test_odd_sizes_are_read_and_lose_a_pixel_in_shards(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    film(tmp_path / "film.mp4", size=size, pixels="yuv444p")
    frames, entry = accepted(tmp_path / "film.mp4", tmp_path / "out")
    assert frames.shape == (20, *size, 3)
    assert (entry["height"], entry["width"]) == (size[0] // 2 * 2, size[1] // 2 * 2)
