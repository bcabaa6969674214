"""The user's shell, or the job in which a sweep was started, does not reach its own jobs."""

from __future__ import annotations

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
