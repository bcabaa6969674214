"""`bench loader` of sources: it measures what it reports; speed itself is not tested."""

from pathlib import Path

import pytest

from simvtp.__main__ import main
from simvtp.bench.data_path.batch_speed import TURNS, bench_loader
from simvtp.config.data_config import DataConfig
from simvtp.config.model_config import SimVTPConfig
from simvtp.data.prepare.write_shards import write_shards
from tests.data.helpers import damage, make_clips
from tests.data.test_bad_input import manifest_of


def test_files_and_shards_take_turns(tmp_path: Path) -> None:
    clips = make_clips(tmp_path / "clips", 12)
    manifest = manifest_of(clips, tmp_path / "clips.csv")
    write_shards(manifest, tmp_path / "out", workers=0, say=lambda line: None)
    damage(clips[3].path)
    lines: list[str] = []
    model, data = SimVTPConfig(image_size=32, frames=4), DataConfig(stride=2, max_corrupt_ratio=0.5)
    speeds = bench_loader(
        [manifest, tmp_path / "out"],
        model,
        data,
        workers=0,
        batch_size=4,
        seconds=0.1,
        step_s=0.02,
        say=lines.append,
    )
    assert [speed.name for speed in speeds] == [str(manifest), str(tmp_path / "out")]
    for speed in speeds:
        assert len(speed.clip.wall) == len(speed.clip.cpu) == len(speed.waits) == TURNS
        least, most = speed.extremes
        assert 0 < least <= speed.rate <= most <= 4 / 0.02 and all(
            0 < wait < 1 for wait in speed.waits
        )
    assert speeds[0].replaced >= 1 and speeds[1].replaced == 0
    assert (
        len(lines) == 3
        and "x1.00" in lines[1]
        and "ms CPU a clip, x1.00" in lines[1]
        and "samples replaced" in lines[1]
        and "samples replaced" not in lines[2]
    )


def test_the_command_and_its_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = manifest_of(make_clips(tmp_path, 4), tmp_path / "clips.csv")
    small = [
        "--workers",
        "0",
        "--seconds",
        "0.05",
        "--batch-size",
        "2",
        "--size",
        "32",
        "--frames",
        "4",
        "--stride",
        "1",
    ]
    assert main(["bench", "loader", str(manifest), *small]) == 0
    assert "clips/s" in capsys.readouterr().out
    assert main(["bench", "loader", str(tmp_path / "none.csv"), *small]) == 2
    assert "there is no such file" in capsys.readouterr().err
