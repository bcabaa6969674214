"""Promises of the sweep engine on a real cluster when nothing breaks.

Several ranks, code snapshots, detaching, profiles, a budget.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ablations.design import Point
from tests.slurm.cluster import Cluster
from tests.slurm.processes import wait_until
from tests.slurm.user import ROOT, User, assert_same_run, last_step, metric_lines, read, starts

pytestmark = pytest.mark.slurm
Undisturbed = Callable[[Point], Path]
NewUser = Callable[..., User]
SHORT = (
    "pretrain.max_steps=20",
    "losses.vtm=0",
)  # the wrong pairs of VTM are made of the samples of a rank


# ---- several ranks -------------------------------------------------------------------------------


def losses(run_dir: Path) -> dict[int, dict[str, float]]:
    return {
        line["step"]: {
            name: value for name, value in line["metrics"].items() if name.startswith("loss/")
        }
        for line in metric_lines(run_dir)
    }


def assert_same_losses(run_dir: Path, undisturbed: Path) -> None:
    """Each of 20 steps agrees to 1e-5.

    Other data, or the same in another order, would differ from the first step on.
    """
    ours, theirs = losses(run_dir), losses(undisturbed)
    assert list(ours) == list(theirs) == list(range(1, 21))
    for step, expected in theirs.items():
        assert expected and ours[step] == pytest.approx(expected, rel=1e-5, abs=1e-5), step


def test_two_nodes_with_two_tasks_are_as_one_process(
    cluster: Cluster, new_user: NewUser, undisturbed: Undisturbed
) -> None:
    user = new_user(settings=SHORT)
    user.pace(pause_s=0.0)
    assert user.sweep("--nodes", "2", "--tasks", "2").wait() == 0, user.details()
    [point] = user.points
    [attempt] = starts(point.run_dir)
    assert (attempt.slurm["SLURM_JOB_NUM_NODES"], attempt.slurm["SLURM_NTASKS"]) == ("2", "4")
    assert_same_losses(point.run_dir, undisturbed(point))


def test_other_ranks_go_on_with_the_same_data(
    cluster: Cluster, new_user: NewUser, undisturbed: Undisturbed
) -> None:
    user = new_user(settings=SHORT)
    [point] = user.points
    first = user.sweep("--nodes", "2")
    user.wait_for_step(point, 7)
    cluster.command("scancel", user.job_id(point))
    assert first.wait(60) == 1
    reached = last_step(point.run_dir)
    assert 7 <= reached < 20
    user.pace(pause_s=0.0)
    assert user.sweep("--retry").wait() == 0, user.details()
    assert [attempt.slurm["SLURM_NTASKS"] for attempt in starts(point.run_dir)] == ["2", "1"]
    assert_same_losses(point.run_dir, undisturbed(point))


# ---- the code of the submission ------------------------------------------------------------------


def copy_of_the_code(folder: Path) -> Path:
    """A repository of its own with one commit."""
    for package in ("simvtp", "ablations", "sweeps", "tests"):
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    (folder / ".gitignore").write_text("__pycache__/\n")
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def git(folder: Path, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "add", ".")
    git(
        folder,
        "-c",
        "user.name=Somebody",
        "-c",
        "user.email=somebody@example.org",
        "commit",
        "--quiet",
        "-m",
        "A change",
    )
    return git(folder, "rev-parse", "HEAD")


def test_a_waiting_job_runs_the_code_of_its_submission(
    cluster: Cluster, new_user: NewUser, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    code = copy_of_the_code(tmp_path / "code")
    old, changed = git(code, "rev-parse", "HEAD"), code / "simvtp" / "runs" / "journal.py"
    before = changed.read_text()
    changed.write_text(f"{before}\nprint('the code of the submission')\n")
    user = new_user(code=code)
    user.pace(pause_s=0.0)
    other = cluster.drive_out(600)
    command = user.sweep()
    [point] = user.points
    job = user.wait_for_job(point)
    wait_until(
        lambda: cluster.queue().get(job) == "PENDING", 20, "the job waiting", details=user.details
    )
    changed.write_text(f"{before}\nprint('what the tree has become')\n")
    commit(code)
    cluster.command("scancel", other)
    assert command.wait() == 0, user.details()
    log = Path(read(point.run_dir / "job.json")["stdout"]).read_text()
    assert "the code of the submission" in log and "what the tree has become" not in log
    assert read(point.run_dir / "provenance.json")["commit"] == old
    assert "+print('the code of the submission')" in (point.run_dir / "diff.patch").read_text()
    assert_same_run(point.run_dir, undisturbed(point))


# ---- without a controller, and with a budget -----------------------------------------------------


def test_detached_by_a_cluster_profile_and_watched_later(
    cluster: Cluster, user: User, undisturbed: Undisturbed
) -> None:
    profile = user.root / "here.toml"
    profile.write_text(
        'executor = "slurm"\npartition = "grace"\ntime = "0:37:00"\nmem = 3\n'
        '[sbatch]\ncomment = "of-the-profile"\n'
    )
    options = ("--cluster", str(profile))
    first = user.sweep(*options, "--detach", executor="")
    assert first.wait(60) == 0 and "Submitted" in first.output, first.output
    [point] = user.points
    job = user.job_id(point)
    shown = cluster.show(job)
    assert (shown["Partition"], shown["TimeLimit"], shown["MinMemoryNode"], shown["Comment"]) == (
        "grace",
        "00:37:00",
        "3G",
        "of-the-profile",
    )
    user.wait_for_step(point, 3)
    status = user.ask("sweeps/status.py", "--root", str(user.root))
    assert "running" in status and cluster.node_of(job) in status and job in status, status
    second = user.sweep(*options, executor="")
    wait_until(
        lambda: f"running already (job {job})" in second.output,
        30,
        "the adoption",
        details=user.details,
    )
    user.pace(pause_s=0.0)
    assert second.wait() == 0, user.details()
    assert len(starts(point.run_dir)) == 1
    assert_same_run(point.run_dir, undisturbed(point))


def test_a_budget_stops_and_a_larger_one_continues(
    cluster: Cluster, user: User, undisturbed: Undisturbed
) -> None:
    """0.02 GPU-hours are 36 seconds of two GPUs; the run would take more than 60."""
    user.pace(pause_s=1.0)
    command = user.sweep("--gpus", "2", "--tasks", "1", "--budget-gpu-hours", "0.02")
    [point] = user.points
    assert command.wait(120) == 1
    assert "the budget of 0.02 GPU-hours is used up" in command.output, command.output
    reached = last_step(point.run_dir)
    assert 0 < reached < 60 and starts(point.run_dir)[0].gpus == 2
    user.pace(pause_s=0.0)
    assert user.sweep("--gpus", "2", "--tasks", "1", "--budget-gpu-hours", "1").wait() == 0, (
        user.details()
    )
    assert len(starts(point.run_dir)) == 2
    assert_same_run(point.run_dir, undisturbed(point))
