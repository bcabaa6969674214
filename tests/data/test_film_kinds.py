"""Films of all kinds: the right frames from every reader, in whole and in windows, and in shards.

Every film is made here; frames carry their number, so the right answer is known. `data check`, the
loader and `data shard` must agree on each, and the default reader must agree with FFmpeg.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.data.clips import Clip
from simvtp.data.loading.clip_source import open_source
from simvtp.data.prepare import check_manifest as check_manifest_module
from simvtp.data.prepare.check_manifest import check_manifest
from simvtp.data.prepare.transcode import TranscodeTarget
from simvtp.data.prepare.write_shards import write_shards
from simvtp.data.shards import read_shards
from simvtp.data.video import pyav_reader
from simvtp.data.video.decord_compatible import FastReader
from simvtp.data.video.readers import get_reader, probe, read_frames
from simvtp.errors import DataError
from tests.data.compared_readers import READERS
from tests.data.numbered_films import (
    FRAMES,
    HEIGHT,
    WIDTH,
    copied,
    film,
    joined,
    numbers,
    palette_film,
    with_matrix,
    with_sound_first,
    with_still_first,
)
from tests.data.test_bad_input import manifest_of

BFRAMES = {"bf": "2"}
ALL = list(range(FRAMES))
VARIABLE = [n * 40 if n < 30 else 1200 + (n - 30) * 200 for n in ALL]


@dataclass(frozen=True)
class Kind:
    """A kind of film: the name of the file, how it is made, and the numbers of its frames.

    Attributes:
        shown: how the film is to be turned before its numbers can be read.
        shard: the numbers in its shard, where the time of a film gives others.
    """

    name: str
    make: Callable[[Path], object]
    frames: list[int]
    shown: Callable[[np.ndarray], np.ndarray] = lambda frames: frames
    shard: list[int] | None = None


def _made(**how: object) -> Callable[[Path], object]:
    return lambda path: film(path, **how)  # type: ignore[arg-type]


def _joined(name: str, first: dict[str, object], second: dict[str, object]) -> Callable:
    def make(path: Path) -> None:
        parts = path.with_suffix(".one.ts"), path.with_suffix(".two.ts")
        film(parts[0], **first)  # type: ignore[arg-type]
        film(parts[1], **second)  # type: ignore[arg-type]
        joined(path, *parts)
        for part in parts:
            part.unlink()

    return make


def _copied(source: str, **how: object) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        whole = film(path.parent / source)
        copied(whole, path, **how)  # type: ignore[arg-type]
        whole.unlink()

    return make


def _still(attached: bool) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        whole = film(path.with_suffix(".whole.mp4"))
        with_still_first(whole, path, attached)
        path.with_suffix(".still.mkv").unlink()
        whole.unlink()

    return make


def _sound_first(path: Path) -> None:
    whole = film(path.with_suffix(f".whole{path.suffix}"))
    with_sound_first(whole, path)
    whole.unlink()


def _late(path: Path) -> None:
    """A recording whose clock does not begin at 0, and which was cut between key frames."""
    whole = film(path.with_suffix(".whole.mkv"))
    copied(whole, path, skip=5)
    whole.unlink()


MPEG4, MPEG2 = {"codec": "mpeg4"}, {"codec": "mpeg2video", "options": BFRAMES}
KINDS = [
    Kind("h264.mp4", _made(), ALL),
    Kind("h264.mkv", _made(), ALL),
    Kind("variable.mp4", _made(times_ms=VARIABLE), ALL, shard=[]),
    # 1: no true presentation times in the container
    Kind("h264-b.avi", _made(), ALL),
    Kind("mpeg4-b.avi", _made(**MPEG4, options=BFRAMES), ALL),
    Kind("mpeg4.avi", _made(**MPEG4), ALL),
    Kind("motion.avi", _made(codec="mjpeg", pixels="yuvj420p"), ALL),
    Kind("h264-b.asf", _made(), ALL),
    Kind("mpeg4-b.asf", _made(**MPEG4, options=BFRAMES), ALL),
    Kind("old.wmv", _made(codec="wmv2"), ALL),
    Kind("raw.h264", _made(), ALL),
    Kind("raw.m2v", _made(**MPEG2), ALL),
    Kind("shown-as-decoded.mp4", _copied("whole.mp4", made_up=True), ALL),
    # 5: beginnings, joints, orientation, palettes, several streams, changing size
    Kind("between-keys.mkv", _late, ALL[12:]),
    Kind("two-recordings.ts", _joined("", {"count": 24}, {}), [*ALL[:24], *ALL]),
    Kind("mirrored.mp4", lambda p: with_matrix(film(p), -1, 0, 0, 1), ALL, lambda f: f[:, :, ::-1]),
    Kind("upside.mp4", lambda p: with_matrix(film(p), 1, 0, 0, -1), ALL, lambda f: f[:, ::-1]),
    Kind(
        "transposed.mp4",
        lambda p: with_matrix(film(p), 0, 1, 1, 0),
        ALL,
        lambda f: f.transpose(0, 2, 1, 3),
    ),
    Kind(
        "turned.mp4",
        lambda p: with_matrix(film(p), 0, 1, -1, 0),
        ALL,
        lambda f: np.rot90(f, 1, (1, 2)),
    ),
    Kind("palette.avi", palette_film, ALL),
    Kind("palette.mov", palette_film, ALL),
    Kind("still-first.mp4", _still(attached=False), ALL),
    Kind("cover-first.mp4", _still(attached=True), ALL),
    Kind("sound-first.mp4", _sound_first, ALL),
    Kind("sound-first.mkv", _sound_first, ALL),
    Kind("sound-first.ts", _sound_first, ALL),
    Kind("new-size.ts", _joined("", {"count": 24}, {"size": (96, 144)}), [*ALL[:24], *ALL]),
    # 7: containers without a header, and old tags
    Kind("dvd.mpg", _made(**MPEG2), ALL),
    Kind("dvd.vob", _made(**MPEG2), ALL),
    Kind("h264.flv", _made(), ALL),
    Kind("sorenson.flv", _made(codec="flv"), ALL),
    Kind("flash.swf", _made(codec="flv"), ALL),
    Kind("mpeg2.ts", _made(**MPEG2), ALL),
    Kind("vp8.webm", _made(codec="libvpx", options={"auto-alt-ref": "1", "b": "1M"}), ALL),
]
BY_NAME = {kind.name: kind for kind in KINDS}
WINDOWS = ([31], [5, 6, 7], [20, 24, 28, 32], [13, 2, 40, 13])


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a film of each kind."""
    folder = tmp_path_factory.mktemp("films")
    for kind in KINDS:
        kind.make(folder / kind.name)
    return folder


@pytest.mark.parametrize("name", BY_NAME)
def test_every_reader_gives_the_frames_in_whole_and_in_windows(name: str, collection: Path) -> None:
    kind, path = BY_NAME[name], collection / name
    first = None
    for reader in READERS:
        info = probe(path, get_reader(reader))
        assert info.frames == len(kind.frames), reader
        frames = read_frames(path, range(info.frames), get_reader(reader))
        assert numbers(kind.shown(frames)) == kind.frames, reader
        assert frames.shape[1:3] == (info.height, info.width), reader
        first = frames if first is None else first
        if name != "new-size.ts":  # resized: each reader in its own way
            assert np.array_equal(frames, first), reader
        for window in WINDOWS:
            fresh = read_frames(path, window, get_reader(reader))
            assert np.array_equal(fresh, frames[window]), (reader, window)


@pytest.mark.parametrize("name", BY_NAME)
def test_the_default_reader_agrees_with_ffmpeg(name: str, collection: Path) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("the program ffmpeg is not on this machine")
    path = collection / name
    info = probe(path, FastReader())
    command = ["ffmpeg", "-v", "quiet", "-i", str(path), "-fps_mode", "passthrough"]
    if name == "still-first.mp4":  # left alone, FFmpeg takes the larger picture, though it is still
        command += ["-map", "0:1"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=False).stdout
    expected = np.frombuffer(raw, np.uint8).reshape(-1, info.height, info.width, 3)
    frames = read_frames(path, range(info.frames), FastReader())
    assert len(expected) == info.frames
    assert np.abs(frames.astype(int) - expected).mean() < 4  # chroma is scaled in other ways
    assert numbers(BY_NAME[name].shown(expected)) == BY_NAME[name].frames


class Unwatched:
    """No watchdog."""

    @contextlib.contextmanager
    def decoding(self, clip: int) -> Iterator[None]:
        yield


def loaded(clip: Clip) -> np.ndarray:
    """Returns all frames of a clip as the loader gets them."""
    here = RuntimeConfig(workers=0, device="cpu")
    source = open_source([clip], DataConfig(), here, 1000)
    return source.read(0, range, Unwatched())  # type: ignore[arg-type]


def sharded(manifest: Path, out: Path) -> list[np.ndarray]:
    """Returns the frames of each clip after `data shard`."""
    write_shards(manifest, out, TranscodeTarget(crf=4), workers=0, say=lambda line: None)
    return [loaded(clip) for clip in read_shards(out).clips]


def test_check_loader_and_shards_agree_on_all_kinds(collection: Path, tmp_path: Path) -> None:
    clips = [Clip(kind.name, collection / kind.name, ("a film",)) for kind in KINDS]
    manifest = manifest_of(clips, tmp_path / "clips.csv")
    report = check_manifest(manifest, workers=0, say=lambda line: None)
    assert report.corrupt == report.missing == report.short == ()
    stored = sharded(manifest, tmp_path / "out")
    assert len(stored) == len(KINDS)
    for kind, clip, in_shard in zip(KINDS, clips, stored, strict=True):
        assert numbers(kind.shown(loaded(clip))) == kind.frames, kind.name
        if kind.shard is None:
            assert numbers(kind.shown(in_shard)) == kind.frames, kind.name


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ((0.4, 0.8), range(10, 20)),
        ((2, 4), range(34, 44)),
        ((1.09, 1.5), range(27, 32)),
        ((6, None), range(54, 60)),
        ((None, 0.12), range(3)),
        ((1.25, 1.35), range(30, 31)),
    ],
)
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_part_of_a_variable_frame_rate_is_what_its_stamps_say(
    part: tuple[float | None, float | None], expected: range, ending: str, tmp_path: Path
) -> None:
    """25 frames a second for 1.2 s, then 5 a second."""
    path = film(tmp_path / f"film.{ending}", times_ms=VARIABLE)
    clip = Clip("a", path, ("a part",), start_s=part[0], end_s=part[1])
    assert numbers(loaded(clip)) == list(expected)
    text = ",".join("" if second is None else str(second) for second in part)
    manifest = tmp_path / "clips.csv"
    manifest.write_text(f"videoid,path,caption,start_s,end_s\na,{path.name},a part,{text}\n")
    report = check_manifest(manifest, workers=0, frames=1, say=lambda line: None)
    assert report.ok
    (stored,) = sharded(manifest, tmp_path / "out")
    shown = numbers(stored)
    assert shown[0] == expected[0] and set(shown) <= set(expected)
    assert shown[-1] >= expected[-1] - 3  # the new grid of times may skip the last frames


def test_a_part_behind_the_end_is_refused_by_loader_check_and_shards(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4")
    clip = Clip("a", path, ("a part",), start_s=100, end_s=110)
    with pytest.raises(DataError, match=r"ends after 2.40 s, before the part that begins at 100 s"):
        loaded(clip)
    manifest = tmp_path / "clips.csv"
    manifest.write_text(
        "videoid,path,caption,start_s,end_s\na,film.mp4,a part,100,110\nb,film.mp4,fine,0,1\n"
    )
    report = check_manifest(manifest, workers=0, say=lambda line: None)
    assert len(report.outside) == 1 and "ends after 2.40 s" in report.outside[0] and not report.ok
    outcome = write_shards(manifest, tmp_path / "out", workers=0, say=lambda line: None)
    assert dict(outcome.failed) == {"outside": 1}


def test_a_film_that_is_trimmed_behind_a_key_frame_begins_where_it_is_shown(
    tmp_path: Path,
) -> None:
    """An edit list (phones write one when a film is trimmed) hides frames that are still needed."""
    from tests.data.edit_lists import trimmed

    path = trimmed(film(tmp_path / "film.mp4"), 17)
    with av.open(str(path)) as container:
        plainly = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for reader in READERS:
        frames = read_frames(path, range(FRAMES - 17), get_reader(reader))
        assert np.array_equal(frames, np.stack(plainly)) and numbers(frames) == ALL[17:]
        assert numbers(read_frames(path, [3, 9, 30], get_reader(reader))) == [20, 26, 47]


def test_a_film_turned_by_another_angle_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4")
    raw = bytearray(path.read_bytes())
    at = raw.index(b"tkhd") + 44
    import struct

    raw[at : at + 20] = struct.pack(">5i", 56756, 32768, 0, -32768, 56756)
    path.write_bytes(raw)
    for reader in READERS:
        with pytest.raises(DataError, match="no multiple of 90 degrees"):
            probe(path, get_reader(reader))
    manifest = manifest_of([Clip("a", path, ("x",))], tmp_path / "clips.csv")
    assert check_manifest(manifest, workers=0, say=lambda line: None).corrupt
    outcome = write_shards(manifest, tmp_path / "out", workers=0, say=lambda line: None)
    assert dict(outcome.failed) == {"damaged": 1}


def test_a_sound_file_with_a_cover_is_no_film(tmp_path: Path) -> None:
    cover = film(tmp_path / "cover.mkv", "mjpeg", "yuvj420p", count=1)
    from av.stream import Disposition

    with av.open(str(cover)) as source, av.open(str(tmp_path / "song.mp4"), "w") as out:
        copy = out.add_stream_from_template(source.streams.video[0])
        copy.disposition = Disposition.attached_pic
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                out.mux(packet)
    for reader in READERS:
        with pytest.raises(DataError, match="no video stream but a cover"):
            probe(tmp_path / "song.mp4", get_reader(reader))


def test_titles_in_any_encoding_are_no_obstacle(tmp_path: Path) -> None:
    path = film(tmp_path / "film.avi", "mpeg4", title="CAFEx summer")
    path.write_bytes(path.read_bytes().replace(b"CAFEx", b"CAF\xe9\x8c"))
    for reader in READERS:
        assert numbers(read_frames(path, ALL, get_reader(reader))) == ALL
    manifest = manifest_of([Clip("a", path, ("x",))], tmp_path / "clips.csv")
    assert [numbers(frames) for frames in sharded(manifest, tmp_path / "out")] == [ALL]


def test_without_options_for_streams_frames_are_the_same(
    collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some versions of PyAV crash on them, and a later one will not have them."""
    whole = read_frames(collection / "h264.mp4", ALL, FastReader())
    really = av.open

    def without(*args: object, **options: object) -> object:
        if "stream_options" in options:
            raise TypeError("open() got an unexpected keyword argument 'stream_options'")
        return really(*args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(av, "open", without)
    assert np.array_equal(read_frames(collection / "h264.mp4", ALL, FastReader()), whole)
    monkeypatch.undo()
    monkeypatch.setattr(av, "__version__", "17.1.0")
    assert np.array_equal(read_frames(collection / "h264.mp4", ALL, FastReader()), whole)


def test_the_check_decodes_a_raw_stream_a_fixed_number_of_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A raw stream can only be read from its beginning: windows of it would cost a square."""
    path, decoded = film(tmp_path / "raw.h264", count=240), 0
    really = pyav_reader.decode_in_order

    def counted(container: object, stream: object) -> Iterator[object]:
        nonlocal decoded
        for frame in really(container, stream):
            decoded += 1
            yield frame

    monkeypatch.setattr(pyav_reader, "decode_in_order", counted)
    monkeypatch.setattr(check_manifest_module, "CHECKED_AT_ONCE", 16)
    manifest = manifest_of([Clip("a", path, ("x",))], tmp_path / "clips.csv")
    assert check_manifest(manifest, workers=0, say=lambda line: None).ok
    assert decoded <= 3 * 240  # once for all frames, and for three that are sought


def test_the_order_of_stamps_is_trusted_only_where_they_are_true(collection: Path) -> None:
    counted = {
        kind.name: FastReader().frame_table(collection / kind.name).counted for kind in KINDS
    }
    assert not any(counted[name] for name in ("h264.mp4", "h264.mkv", "variable.mp4", "h264.flv"))
    assert not any(counted[name] for name in ("mpeg4.avi", "motion.avi", "old.wmv", "vp8.webm"))
    assert all(counted[name] for name in ("h264-b.avi", "shown-as-decoded.mp4", "dvd.mpg"))
    assert (HEIGHT, WIDTH) == (64, 96)
