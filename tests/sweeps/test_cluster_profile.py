"""Cluster profiles and their options."""

from __future__ import annotations

from pathlib import Path

import pytest

from simvtp.errors import ConfigError
from sweeps.cli.command import main
from sweeps.cli.options import make_options
from sweeps.cli.sweep_parser import read_arguments
from sweeps.runner import JobOptions
from sweeps.runner.slurm import slurm_parameters
from tests.sweeps.conftest import ROOT
from tests.sweeps.ratio_grid import SWEEP


def profile(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def test_a_profile_gives_defaults_and_the_command_line_wins(tmp_path: Path) -> None:
    text = (
        'executor = "slurm"\npartition = "gpu"\ngpus = 4\ntime = "2:00:00"\n'
        'setup = ["module load x"]\n[sbatch]\nexclude = "n1"\n'
    )
    args = read_arguments(
        SWEEP, ["--cluster", profile(tmp_path, text), "--gpus", "2", "--setup", "echo"]
    )
    options = make_options(args)
    assert (options.executor, options.partition, options.gpus, options.minutes) == (
        "slurm",
        "gpu",
        2,
        120,
    )
    assert (
        options.setup == ("module load x", "echo")
        and options.slurm == {"exclude": "n1"}
        and options.continuations == 3
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('partitoin = "gpu"', "did you mean partition?"),
        ("gpus = [1]", "gpus is one value"),
        ('setup = "echo"', "setup is a list"),
        ('time = "soon"', "'soon' is not a time"),
        ('executor = "pbs"', "one of local, slurm, debug"),
        ("gpus = ", "is not TOML"),
        ('root = "x"', "there is no option root"),
    ],
)
def test_a_wrong_profile_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        read_arguments(SWEEP, ["--cluster", profile(tmp_path, text)])


def test_the_profiles_that_come_with_the_project_are_valid() -> None:
    for path in (ROOT / "sweeps" / "clusters").glob("*.toml"):
        options = make_options(read_arguments(SWEEP, ["--cluster", path.stem]))
        assert slurm_parameters(options, "name")["nodes"] == 1


@pytest.mark.parametrize(("minutes", "seconds"), [(1, 1), (3, 60), (10, 120), (0, 120)])
def test_the_warning_before_the_time_limit_leaves_half_of_it(minutes: int, seconds: int) -> None:
    assert (
        slurm_parameters(JobOptions("slurm", minutes=minutes), "name")["signal_delay_s"] == seconds
    )


def test_an_unknown_profile_names_those_that_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SWEEP, ["--cluster", "nowhere", "--dry-run"]) == 2
    assert "example" in capsys.readouterr().err
