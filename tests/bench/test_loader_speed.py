"""`bench loader` without sources: all readers and stores are compared and reported."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from simvtp.__main__ import main
from simvtp.bench.data_path import loader_speed, sample_videos
from simvtp.bench.data_path.loader_page import loader_page
from simvtp.bench.data_path.loader_speed import H264, JOBS, RAW, LoaderSpeedOptions, measure_loader
from simvtp.data.prepare.write_shards import parse_target, write_shards
from simvtp.data.video.readers import get_reader, read_frames
from tests.data.helpers import make_clips
from tests.data.test_bad_input import manifest_of

ABSENT = ("decord", "av", "mlflow", "optuna", "submitit", "pandas", "psutil", "torchcodec")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sample_videos, loader_speed):
        monkeypatch.setattr(module, "FRAMES", 80)
    monkeypatch.setattr(sample_videos, "SIZES", ((48, 64),))
    monkeypatch.setattr(loader_speed, "SIDE", 32)


def test_all_readers_and_stores_are_measured(small: None, tmp_path: Path) -> None:
    settings = LoaderSpeedOptions(
        folder=tmp_path, rounds=2, opens=6, seconds=0.1, workers=0, batch_size=2
    )
    report = measure_loader(settings, say=lambda line: None)
    names = ["decord", "pyav", "fast", H264, RAW]
    assert [video for video, job in report.reading if job == JOBS[0]] == [
        "64x48 GOP 12",
        "64x48 GOP 250",
    ]
    for times in report.reading.values():
        assert [name for name in times if name != "torchcodec"] == names
        assert all(len(time.cpu) == 2 and min(time.wall) > 0 for time in times.values())
    assert set(names) <= set(report.memory) and report.disk[RAW] > report.disk[H264] > 0
    assert report.disk[RAW] >= 20 * 32 * 42 * 3  # every fourth frame, uncompressed
    assert (
        all(speed.rate > 0 and speed.replaced == 0 for speed in report.loading)
        and len(report.loading) == 6
    )
    page = loader_page(report, settings)
    for words in (
        "`python -m simvtp",
        "| commit |",
        "64x48 GOP 250 | 4 spread",
        "geometric mean",
        "TB a million such clips",
        "data.repeat=2",
    ):
        assert words in page


def test_candidates_see_the_same_moments(small: None, tmp_path: Path) -> None:
    path, info = sample_videos.make_videos(tmp_path)["64x48 GOP 12"]
    assert info.frames == 80
    reader = get_reader("pyav")
    for job in JOBS:
        own, store = (
            loader_speed._FromFile(path, reader, None, job, kept_every) for kept_every in (1, 4)
        )
        for moments, kept in itertools.islice(zip(own._moments, store._moments, strict=False), 20):
            assert len(moments) == (16 if job == JOBS[0] else 4) and max(moments) < 80
            assert kept == [min(19, moment // 4) for moment in moments]
    frames = read_frames(path, [0, 40], reader)
    # There is something to decode.
    assert frames.std() > 20 and np.abs(frames[0].astype(int) - frames[1]).mean() > 5


def test_a_store_is_measured_without_any_decoder(tmp_path: Path) -> None:
    """A machine may have torch and little else."""
    manifest = manifest_of(make_clips(tmp_path, 4), tmp_path / "clips.csv")
    write_shards(
        manifest,
        tmp_path / "raw",
        parse_target("32", store="raw"),
        workers=0,
        say=lambda line: None,
    )
    command = [
        "bench",
        "loader",
        str(tmp_path / "raw"),
        "--workers",
        "0",
        "--seconds",
        "0.05",
        "--batch-size",
        "2",
        "--size",
        "32",
    ]
    program = (
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {ABSENT!r}: raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "from simvtp.__main__ import main\n"
        f"sys.exit(main({[*command, '--frames', '4', '--stride', '1']!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "clips/s" in done.stdout, done.stderr


def test_impossible_options_are_refused_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "loader", "--rounds", "0"]) == 2
    assert "--rounds of at least 1" in capsys.readouterr().err
