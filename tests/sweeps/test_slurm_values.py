"""Options of SLURM: read as sbatch reads them, or refused in one sentence that states its rule."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from simvtp.config.experiment_config import Experiment
from simvtp.errors import ConfigError, UserError
from sweeps.cli.command import main
from sweeps.cli.options import make_options
from sweeps.cli.slurm_values import gpus, memory, minutes, one_line, sbatch_option
from sweeps.cli.sweep_parser import join_values, read_arguments
from sweeps.engine.retry_policy import RetryPolicy
from sweeps.engine.sweep_engine import run_sweep
from sweeps.runner import JobOptions
from sweeps.runner.local import LocalJobs
from sweeps.runner.slurm import SlurmJobs
from sweeps.runner.slurm_queue import SlurmQueue
from tests.sweeps import ratio_grid
from tests.sweeps.conftest import ENTRY
from tests.sweeps.ratio_grid import SWEEP
from tests.sweeps.recorded_runs import fake_programs


@pytest.fixture
def with_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts SLURM commands on the PATH that answer nothing."""
    tools = tmp_path / "bin"
    fake_programs(tools, squeue="exit 0", scontrol="exit 1", sbatch="exit 1", srun="exit 1")
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")


def script(tmp_path: Path, *words: str) -> list[str]:
    """Returns the lines of the batch script for a command line."""
    options = make_options(read_arguments(SWEEP, ["--executor", "slurm", *words]))
    return SlurmJobs(options, tmp_path / "sweep", "name", SlurmQueue()).preview(1).splitlines()


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("480", "480G"),
        ("2.5", "2560M"),
        ("0.3", "308M"),
        ("1000000", "1000000G"),
        ("500000M", "500000M"),
        ("1.5T", "1536G"),
        ("512k", "512K"),
        ("0", "0"),
    ],
)
def test_memory(text: str, written: str) -> None:
    assert memory(text) == written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("30:00", 30),
        ("0:37", 1),
        ("1:30:00", 90),
        ("1:00:01", 61),
        ("2-00", 2880),
        ("1-12:30", 2190),
        ("0-0:0:59", 1),
    ],
)
def test_times_mean_what_they_mean_to_sbatch(text: str, expected: int) -> None:
    assert minutes(text) == expected


def test_gpus_with_and_without_a_type() -> None:
    assert [(gpus(text).kind, gpus(text).count) for text in ("4", "0", "a100:4", "h100")] == [
        ("", 4),
        ("", 0),
        ("a100", 4),
        ("h100", 1),
    ]


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (memory, "nan"),
        (memory, "-1"),
        (memory, "1e3"),
        (memory, "lots"),
        (minutes, "0"),
        (minutes, "1:2:3:4"),
        (minutes, "-5"),
        (minutes, "soon"),
        (gpus, "-1"),
        (gpus, "a100:"),
        (gpus, "2:a100"),
        (one_line, "gpu\n#SBATCH --uid=0"),
        (one_line, "gpu\r"),
        (sbatch_option, "=3"),
        (sbatch_option, "comment=a\nb"),
        (sbatch_option, "output=/tmp/x"),
        (sbatch_option, "-J=mine"),
        (sbatch_option, "array=0-9"),
    ],
)
def test_other_values_are_refused(read: object, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        read(text)  # type: ignore[operator]


def test_the_dry_run_shows_the_final_header(with_slurm: None, tmp_path: Path) -> None:
    words = ["--mem", "2.5", "--time", "2-00", "--gpus", "a100:4", "--sbatch", "no-requeue"]
    words += [
        "--sbatch=--exclusive",
        "--sbatch",
        "cpus-per-task=3",
        "--srun",
        "--container-image=/a",
    ]
    lines = script(tmp_path, *words)
    for option in (
        "mem=2560M",
        "time=2880",
        "gpus-per-node=a100:4",
        "ntasks-per-node=4",
        "no-requeue",
        "exclusive",
        "cpus-per-task=3",
    ):
        assert lines.count(f"#SBATCH --{option}") == 1, option
    assert "#SBATCH --requeue" not in lines
    assert any(line.startswith("srun ") and " --container-image=/a " in line for line in lines)


def test_the_documented_forms_of_dashed_values_are_joined() -> None:
    words = ["--srun", "--container-image=/a", "--sbatch", "--exclusive", "--srun", "-v", "a=1"]
    assert join_values(words) == [
        "--srun=--container-image=/a",
        "--sbatch=--exclusive",
        "--srun=-v",
        "a=1",
    ]


def test_flags_in_a_profile(with_slurm: None, tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text("[sbatch]\nexclusive = true\nspread-job = false\nnice = 5\n")
    lines = script(tmp_path, "--cluster", str(profile))
    assert "#SBATCH --exclusive" in lines and "#SBATCH --nice=5" in lines
    assert not any("spread-job" in line for line in lines)
    profile.write_text('partition = "gpu\\n#SBATCH --uid=0"\n')
    with pytest.raises(ConfigError, match="line break"):
        script(tmp_path, "--cluster", str(profile))


def test_no_value_becomes_a_line_of_the_script(with_slurm: None, tmp_path: Path) -> None:
    folder = tmp_path / "runs\n#SBATCH --uid=0"
    with pytest.raises(UserError, match="line break"):
        SlurmJobs(JobOptions("slurm"), folder, "name", SlurmQueue())
    lines = script(tmp_path, "--setup", "#SBATCH --uid=0", "--setup", "echo a\n#SBATCH --uid=1")
    first = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any("uid" in line for line in lines[:first]), "sbatch reads up to the first command"


def test_a_type_of_gpu_is_refused_on_this_machine(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a100:4: a type of GPU is chosen by SLURM"):
        LocalJobs(JobOptions(gpus=4, gpu_kind="a100"), tmp_path, 1, SlurmQueue())


def test_bad_values_end_with_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--mem", "nan"], ["--time", "1:2:3:4"], ["--sbatch", "output=x"]):
        with pytest.raises(SystemExit) as leave:
            main(SWEEP, words)
        error = capsys.readouterr().err
        assert leave.value.code == 2 and len(error.splitlines()) == 1, error


# ---- setup commands ------------------------------------------------------------------------------


def test_a_failing_setup_line_ends_the_job_and_is_named(
    base: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ratio_grid.build(base, (0.9,), (0.75,))
    setup = ("echo preparing", "nosuchmodule load cuda", "echo never")
    options = JobOptions(entry=ENTRY, setup=setup, continuations=3)
    (outcome,) = run_sweep(grid, options, poll_s=0.02).outcomes
    assert outcome.reason == "setup command failed: nosuchmodule load cuda"
    out = capsys.readouterr().out
    assert "restarted" not in out, "it would end the same way"
    assert not RetryPolicy(3).wanted(outcome.point, outcome.state)
    assert "never" not in out.replace("echo never", "")


def test_a_failing_setup_line_ends_the_batch_script(with_slurm: None, tmp_path: Path) -> None:
    lines = script(tmp_path, "--setup", "module load cuda")
    text = "\n".join(lines)
    assert "{ module load cuda\n} || {" in text and "exit $status" in text
    assert text.index("module load cuda") < text.index("srun ")
