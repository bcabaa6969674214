"""Folders of pictures are clips: for every reader, the loader, `data check` and shards."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from simvtp.data.clips import Clip
from simvtp.data.manifest import read_manifest
from simvtp.data.prepare.check_manifest import check_manifest
from simvtp.data.prepare.write_shards import write_shards
from simvtp.data.video.readers import get_reader, probe, read_frames
from simvtp.errors import DataError
from tests.data.compared_readers import READERS
from tests.data.numbered_films import HEIGHT, WIDTH, film, numbered, numbers
from tests.data.test_film_kinds import loaded, sharded

COUNT = 24


def picture(path: Path, number: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    codec, pixels = ("png", "rgb24") if path.suffix == ".png" else ("mjpeg", "yuvj444p")
    context = av.CodecContext.create(codec, "w")
    context.height, context.width, context.pix_fmt = *size, pixels
    context.time_base = Fraction(1, 25)
    if codec == "mjpeg":
        context.qmin = context.qmax = 2
    frame = av.VideoFrame.from_ndarray(numbered(number, *size), format="rgb24")
    frame.pts = 0
    packets = [*context.encode(frame.reformat(format=pixels)), *context.encode(None)]
    path.write_bytes(b"".join(bytes(packet) for packet in packets))


@pytest.fixture(params=["img_%05d.jpg", "%d.jpg", "frame-%03d.png"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with pictures, and other files among them."""
    pictures = tmp_path / "frames"
    pictures.mkdir()
    for number in range(COUNT):
        picture(pictures / (request.param % (number + 1)), number)
    (pictures / "notes.txt").write_text("not a picture")
    (pictures / ".hidden.jpg").touch()
    (tmp_path / "pattern").write_text(request.param)
    return pictures


def test_a_folder_or_a_pattern_is_a_clip_for_all(folder: Path) -> None:
    pattern = folder / (folder.parent / "pattern").read_text()
    for path in (folder, pattern):
        first = None
        for name in READERS:
            info = probe(path, get_reader(name))
            assert (info.frames, info.height, info.width) == (COUNT, HEIGHT, WIDTH)
            frames = read_frames(path, range(COUNT), get_reader(name))
            assert numbers(frames) == list(range(COUNT))
            first = frames if first is None else first
            assert np.array_equal(frames, first)
            window = read_frames(path, [20, 3, 3], get_reader(name))
            assert np.array_equal(window, frames[[20, 3, 3]])
        assert numbers(loaded(Clip("a", path, ("x",)))) == list(range(COUNT))
    manifest = folder.parent / "clips.csv"
    manifest.write_text(f"videoid,path,caption\na,frames,one\nb,frames/{pattern.name},two\n")
    assert len(read_manifest(manifest).clips) == 2
    assert check_manifest(manifest, workers=0, say=lambda line: None).ok
    stored = sharded(manifest, folder.parent / "out")
    assert [numbers(frames) for frames in stored] == [list(range(COUNT))] * 2


def test_pictures_of_another_size_are_scaled_to_the_first(tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / f"{number}.png", number, (HEIGHT, WIDTH) if number < 2 else (96, 144))
    frames = read_frames(tmp_path, range(4), get_reader("fast"))
    assert frames.shape == (4, HEIGHT, WIDTH, 3) and numbers(frames) == [0, 1, 2, 3]


def test_a_part_of_a_folder_is_refused_for_it_has_no_clock(folder: Path) -> None:
    with pytest.raises(DataError, match="has no clock .*: leave start_s and end_s empty"):
        loaded(Clip("a", folder, ("x",), start_s=0.1))
    manifest = folder.parent / "clips.csv"
    manifest.write_text("videoid,path,caption,start_s\na,frames,one,0.1\n")
    report = check_manifest(manifest, workers=0, say=lambda line: None)
    assert len(report.outside) == 1
    result = write_shards(manifest, folder.parent / "out", workers=0, say=lambda line: None)
    assert dict(result.failed) == {"outside": 1}


def test_a_folder_without_pictures_and_a_broken_picture_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    picture(tmp_path / "broken" / "0.png", 0)
    (tmp_path / "broken" / "1.png").write_text("<html>404</html>")
    film(tmp_path / "fine.mp4")
    for name in READERS:
        with pytest.raises(DataError, match="the folder holds no pictures"):
            probe(tmp_path / "empty", get_reader(name))
    manifest = tmp_path / "clips.csv"
    manifest.write_text("videoid,path,caption\na,empty,one\nb,broken,two\nc,fine.mp4,three\n")
    report = check_manifest(manifest, workers=0, frames=1, say=lambda line: None)
    assert report.missing == (f"a: {tmp_path}/empty (the folder holds no pictures)",)
    assert len(report.corrupt) == 1 and "broken/1.png does not decode" in report.corrupt[0]
    result = write_shards(manifest, tmp_path / "out", workers=0, say=lambda line: None)
    assert result.written == 1 and sum(result.failed.values()) == 2


@pytest.mark.parametrize("part", [0.97, 0.6, 0.3])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_picture_that_is_cut_off_is_not_filled_up_with_grey(
    ending: str, part: float, tmp_path: Path
) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(4):
        picture(frames / f"{number}.{ending}", number)
    cut = frames / f"2.{ending}"
    cut.write_bytes(cut.read_bytes()[: int(cut.stat().st_size * part)])
    for reader in READERS:
        with pytest.raises(DataError, match="does not decode"):
            read_frames(frames, range(4), get_reader(reader))
    with pytest.raises(DataError, match="does not decode"):
        read_frames(cut, [0], get_reader("pyav"))
    (tmp_path / "clips.csv").write_text(
        f"videoid,path,caption\na,frames,one\nb,frames/2.{ending},two\nc,frames/1.{ending},x\n"
    )
    report = check_manifest(
        tmp_path / "clips.csv", workers=0, frames=1, reader="pyav", say=lambda line: None
    )
    assert len(report.corrupt) == 2
    result = write_shards(tmp_path / "clips.csv", tmp_path / "o", workers=0, say=lambda line: None)
    assert result.written == 1


def with_exif(path: Path, orientation: int) -> None:
    """Puts EXIF data behind the first marker of a JPEG, as cameras do."""
    entry = struct.pack("<HHHII", 1, 0x112, 3, 1, orientation)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + entry + bytes(4)
    raw = path.read_bytes()
    path.write_bytes(raw[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + raw[2:])


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_pictures_of_cameras_stand_upright(orientation: int, turns: int, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(3):
        picture(frames / f"{number}.jpg", number)
        with_exif(frames / f"{number}.jpg", orientation)
    for path, expected in ((frames, [0, 1, 2]), (frames / "2.jpg", [2])):
        for reader in ("fast", "pyav"):
            shown = read_frames(path, range(len(expected)), get_reader(reader))
            upright = np.rot90(shown, -turns, (1, 2))
            assert numbers(upright) == expected, reader


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (("cover.jpg",), r"pictures of several kinds \(cover, img_%d\)"),
        (("flow_x_1.jpg", "flow_x_2.jpg"), r"pictures of several kinds \(flow_x_%d, img_%d\)"),
        (("img_1.jpg",), r"two pictures with one number \(img_0*1.jpg, img_0*1.jpg\)"),
        (("img_00001.png",), r"two pictures with one number \(img_00001\.\w+, img_00001\.\w+\)"),
    ],
)
def test_a_folder_whose_order_is_not_clear_is_refused_by_all(
    others: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(3):
        picture(frames / f"img_{number:05d}.jpg", number)
    for name in others:
        picture(frames / name, 99)
    for reader in READERS:
        with pytest.raises(DataError, match=message):
            probe(frames, get_reader(reader))
    (tmp_path / "clips.csv").write_text("videoid,path,caption\na,frames,one\n")
    report = check_manifest(tmp_path / "clips.csv", workers=0, frames=1, say=lambda line: None)
    assert len(report.corrupt) == 1 and "name those that are meant" in report.corrupt[0]
    result = write_shards(
        tmp_path / "clips.csv", tmp_path / "out", workers=0, say=lambda line: None
    )
    assert dict(result.failed) == {"damaged": 1}
    if "img_1.jpg" not in others:  # a pattern says which are meant
        info = probe(frames / "img_%05d.jpg", get_reader("fast"))
        assert info.frames == 3
