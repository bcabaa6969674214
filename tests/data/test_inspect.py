"""`data check`: every fault is found, named and counted; a sound manifest passes."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from simvtp.data.prepare.check_manifest import check_manifest
from simvtp.data.prepare.encode import encode_h264
from simvtp.errors import DataError
from tests.data.helpers import TrickReader, damage, make_clips, moving_square


def audio_only(path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.rate, frame.time_base, frame.pts = 16000, Fraction(1, 16000), 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_clips(tmp_path / "clips", 4)
    return tmp_path


def write(folder: Path, rows: list[str]) -> Path:
    path = folder / "manifest.csv"
    path.write_text("videoid,path,caption\n" + "\n".join(rows) + "\n")
    return path


GOOD = [f"v{i},clips/clip{i}.mp4,a square" for i in range(4)]


@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_a_sound_manifest_passes(folder: Path, reader: str) -> None:
    said: list[str] = []
    report = check_manifest(
        write(folder, [*GOOD, "v0,clips/clip0.mp4,the same square"]), reader, 5, 1, 16, said.append
    )
    assert report.ok and (report.videos, report.captions) == (4, 5)
    assert said[-1].endswith("4 videos, 5 captions: all is well")


@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_every_fault_is_found(folder: Path, reader: str) -> None:
    encode_h264(moving_square(0, frames=60), folder / "clips/cut.mp4", 8)
    damage(folder / "clips/cut.mp4")
    (folder / "clips/empty.mp4").touch()
    audio_only(folder / "clips/audio.mp4")
    encode_h264(moving_square(1, frames=3), folder / "clips/brief.mp4", 8)
    rows = [
        *GOOD,
        "cut,clips/cut.mp4,x",
        "empty,clips/empty.mp4,x",
        "audio,clips/audio.mp4,x",
        "gone,clips/gone.mp4,x",
        "brief,clips/brief.mp4,x",
        "silent,clips/clip0.mp4,",
        "v1,clips/clip2.mp4,another path",
    ]
    said: list[str] = []
    report = check_manifest(write(folder, rows), reader, 5, 2, 16, said.append)
    assert not report.ok
    assert [entry.split(":")[0] for entry in report.corrupt] == ["cut", "empty", "audio"]
    assert [entry.split(":")[0] for entry in report.missing] == ["gone"]
    assert report.short == (f"brief: {folder}/clips/brief.mp4 has 3 frames, fewer than 16.",)
    assert report.uncaptioned == ("silent",) and report.duplicated == ("v1",)
    text = "\n".join(said)
    for name in ("cut", "empty", "audio", "gone", "brief"):
        assert f"{folder}/clips/{name}.mp4" in text
    assert said[-1].endswith(
        "1 missing, 3 corrupt, 1 too short, 1 uncaptioned, 1 duplicated id, 1 rows without a "
        "caption"
    )


def test_a_clip_that_hangs_or_crashes_the_decoder_is_corrupt(folder: Path) -> None:
    for name in ("hang", "crash"):
        shutil.copy(folder / "clips/clip0.mp4", folder / f"clips/{name}.mp4")
    report = check_manifest(
        write(folder, [*GOOD, "h,clips/hang.mp4,x", "c,clips/crash.mp4,x"]),
        TrickReader(),
        1.0,
        2,
        16,
        lambda line: None,
    )
    assert len(report.corrupt) == 2 and not report.missing
    assert "took longer than 1 s" in report.corrupt[0] and "exit status 3" in report.corrupt[1]


def test_a_manifest_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        check_manifest(tmp_path / "none.csv", say=lambda line: None)
