"""The user's shell, the job in which a sweep was started, clocks and other users of the cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.user import REAL, User, read, starts

pytestmark = pytest.mark.slurm

SHELL = {
    "SQUEUE_STATES": "RUNNING",
    "SQUEUE_PARTITION": "high",
    "SBATCH_TIMELIMIT": "7",
    "SBATCH_JOB_NAME": "mine",
    "SBATCH_NO_REQUEUE": "1",
    "SACCT_FORMAT": "JobID",
}
OUTER_JOB = {
    "SLURM_JOB_ID": "4000",
    "SLURM_ARRAY_JOB_ID": "4000",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_MEM_PER_CPU": "100",
    "SLURM_NTASKS": "7",
    "SLURM_RESTART_COUNT": "2",
    "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
    "SUBMITIT_EXECUTOR": "slurm",
}


@pytest.mark.parametrize("inherited", [SHELL, OUTER_JOB], ids=["shell", "outer job"])
def test_a_sweep_runs_whatever_it_inherits(
    cluster: Cluster, user: User, inherited: dict[str, str]
) -> None:
    """The job waits for a while, so that a queue that hides waiting jobs would call it lost."""
    user.pace(pause_s=0.0)
    options = ("--mem", "2.5", "--time", "30:00", "--sbatch", "begin=now+15")
    command = user.sweep(*options, "--sbatch", "export=NONE", **inherited)
    [point] = user.points
    job = user.wait_for_job(point)
    shown = cluster.show(job)
    assert (shown["TimeLimit"], shown["MinMemoryNode"]) == ("00:30:00", "2.50G")
    assert shown["JobName"].startswith("mask_ratio-") and shown["Requeue"] == "1"
    assert command.wait(300) == 0, user.details()
    assert len(starts(point.run_dir)) == 1, user.details()
    assert len(list(user.root.glob("sweeps/*/submissions/*.json"))) == 1
    assert "not passed to the jobs" in command.output or "ignored" in command.output


def test_a_failing_setup_line_ends_the_job_and_is_named(cluster: Cluster, user: User) -> None:
    command = user.sweep("--setup", "nosuchmodule load cuda", program=REAL)
    assert command.wait(120) == 1, user.details()
    assert "setup command failed: nosuchmodule load cuda" in command.output
    [point] = user.points
    assert starts(point.run_dir) == [] and not (point.run_dir / "results.json").exists()
    assert read(point.run_dir / "job.json")["ended"]["cause"] == "failed"


def outer_script(folder: Path) -> str:
    """Returns a batch script that runs the command that it is given."""
    script = folder / "outer.sh"
    script.write_text('#!/bin/bash\nexec "$@"\n')
    return str(script)


@pytest.mark.parametrize("outer", ["salloc", "array element"])
def test_a_sweep_started_inside_a_job_has_jobs_of_its_own(
    outer: str, cluster: Cluster, user: User, tmp_path: Path
) -> None:
    """The outer job has memory per CPU, a number of an array, and ends by itself."""
    inside = ("salloc", "-Q", "-c", "2", "--mem-per-cpu=100")
    if outer == "array element":
        log = str(tmp_path / "outer.log")
        batch = ("sbatch", "-Q", "--wait", "-c", "1", "--mem-per-cpu=200", "-t", "10")
        inside = (*batch, "--array=3", "-o", log, outer_script(tmp_path))
    user.pace(pause_s=0.0)
    command = user.sweep("--mem", "1", "--continue", "0", inside=inside)
    assert command.wait(400) == 0, user.details()
    [point] = user.points
    [attempt] = starts(point.run_dir)
    job = read(point.run_dir / "job.json")["job_id"]
    assert attempt.job == job and "_3" not in job
    assert read(point.run_dir / "status.json")["state"] == "finished"


@pytest.mark.parametrize("shift_s", [-600.0, 600.0])
def test_a_point_that_fails_on_a_node_with_another_clock_is_not_started_again(
    shift_s: float, cluster: Cluster, user: User
) -> None:
    user.pace(pause_s=0.0, diverges=True, clock_shift_s=shift_s)
    command = user.sweep("--mem", "1")
    assert command.wait(300) == 1, user.details()
    [point] = user.points
    assert len(starts(point.run_dir)) == 1, user.details()
    assert "the loss became NaN at step 12" in command.output
    assert "killed" not in command.output


def test_a_submission_that_another_user_put_in_its_place_is_not_loaded(
    cluster: Cluster, user: User
) -> None:
    command = user.sweep("--mem", "1", "--continue", "0", "--sbatch", "begin=now+20")
    [point] = user.points
    user.wait_for_job(point)
    (pickle,) = user.root.glob("sweeps/*/jobs/**/*_submitted.pkl")
    os.chown(pickle, 12_345, -1)
    assert command.wait(300) == 1, user.details()
    assert starts(point.run_dir) == []
    assert "belongs to user 12345: it is not loaded" in user.details()
