"""Nothing of the user's shell or of an outer job changes what SLURM answers or gets."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ablations.design import Ablation
from sweeps.cli.command import main
from sweeps.runner import JobOptions
from sweeps.runner.job_end import find_ends
from sweeps.runner.point import requeue
from sweeps.runner.slurm import SlurmJobs
from sweeps.runner.slurm_environment import describe_dropped, dropped_variables, slurm_environment
from sweeps.runner.slurm_queue import SlurmQueue, cancel_jobs
from tests.sweeps.ratio_grid import SWEEP
from tests.sweeps.recorded_runs import fake_programs

SHELL = {
    "SQUEUE_STATES": "RUNNING",
    "SQUEUE_PARTITION": "other",
    "SBATCH_TIMELIMIT": "7",
    "SBATCH_JOB_NAME": "mine",
    "SBATCH_EXPORT": "NONE",
    "SACCT_FORMAT": "JobID",
    "SCANCEL_INTERACTIVE": "1",
    "SLURM_TIME_FORMAT": "relative",
    "SLURM_CLUSTERS": "elsewhere",
}
OUTER_JOB = {
    "SLURM_JOB_ID": "77",
    "SLURM_MEM_PER_CPU": "100",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_RESTART_COUNT": "2",
    "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
    "SUBMITIT_EXECUTOR": "slurm",
    "CUDA_VISIBLE_DEVICES": "0",
}
STAYS = {"SLURM_CONF": "/etc/slurm.conf", "PATH": "/bin", "HOME": "/root", "MY_TOKEN": "x"}
COMMANDS = ("squeue", "sacct", "scontrol", "scancel", "sbatch")


def test_only_what_is_allowed_reaches_a_slurm_command() -> None:
    assert slurm_environment(SHELL | OUTER_JOB | STAYS) == STAYS
    assert dropped_variables(STAYS) == [] and describe_dropped(STAYS) == []
    devices = {"CUDA_VISIBLE_DEVICES": "0"}
    assert slurm_environment(devices) == devices, "the user's own choice outside of a job"


def test_dropped_variables_are_named_once_for_each_kind() -> None:
    options, others = describe_dropped(SHELL | STAYS)
    assert "SBATCH_TIMELIMIT=7" in options and "--sbatch" in options
    assert "SQUEUE_STATES" in others and "SBATCH" not in others
    (inside,) = describe_dropped(OUTER_JOB)
    assert "inside job 77" in inside


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts SLURM commands on the PATH that write their variables to a folder; returns it."""
    tools, out = tmp_path / "bin", tmp_path / "environments"
    out.mkdir()
    script = f"env > {out}/$(basename $0); echo 'Submitted batch job 12'"
    fake_programs(tools, srun=script, **dict.fromkeys(COMMANDS, script))
    fake_programs(tools, squeue=f"env > {out}/squeue")
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    for name, value in (SHELL | OUTER_JOB | {"SLURM_CONF": "/etc/slurm.conf"}).items():
        monkeypatch.setenv(name, value)
    return out


@pytest.mark.parametrize("points", [1, 3])
def test_every_slurm_command_gets_the_clean_environment(
    recorded: Path, tmp_path: Path, grid: Ablation, points: int
) -> None:
    executor = SlurmJobs(JobOptions("slurm"), tmp_path / "sweep", "name", SlurmQueue())
    executor.submit(grid.points()[:points])
    assert SlurmQueue().jobs() == {}
    find_ends(["12"])
    cancel_jobs(["12"])
    assert requeue(), "the job's own variables name it, but do not reach scontrol"
    for command in COMMANDS:
        text = (recorded / command).read_text()
        found = {line.partition("=")[0] for line in text.splitlines()}
        assert not found & (set(SHELL) | set(OUTER_JOB)), command
        assert "SLURM_CONF" in found and "PATH" in found


def test_what_the_command_line_overrides_is_in_the_dry_run(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dry-run", "--executor", "slurm", "--root", str(tmp_path / "runs"), "--time", "30"]
    assert main(SWEEP, words) == 0
    out = capsys.readouterr().out
    assert "ignored from the environment: SBATCH_EXPORT=NONE" in out
    assert "SBATCH_TIMELIMIT=7" in out and "#SBATCH --time=30" in out


def test_a_job_gets_its_exports_with_export_none(recorded: Path, tmp_path: Path) -> None:
    options = JobOptions("slurm", slurm={"export": "NONE"})
    script = SlurmJobs(options, tmp_path, "name", SlurmQueue()).preview(1)
    assert "#SBATCH --export=NONE" in script, "sbatch still gets what the user asked for"
    (srun,) = [line for line in script.splitlines() if line.startswith("srun ")]
    assert "--export=ALL" in srun, "the step gets what the batch script exports"


def test_the_submission_records_the_ids(recorded: Path, tmp_path: Path, grid: Ablation) -> None:
    executor = SlurmJobs(JobOptions("slurm"), tmp_path / "sweep", "name", SlurmQueue())
    jobs = executor.submit(grid.points())
    assert [job.id for job in jobs] == ["12_0", "12_1", "12_2", "12_3"]
    (record,) = (tmp_path / "sweep" / "submissions").iterdir()
    assert json.loads(record.read_text())["job_ids"] == [job.id for job in jobs]
