"""Every fault that a cluster offers, and each time a run that ends as if nothing had happened: the same weights bit by bit, the same
journal line by line, the same results as those of an undisturbed run."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ablations.design import Point
from tests.slurm.cluster import SMALL_DISK_MB, Cluster
from tests.slurm.processes import wait_until
from tests.slurm.user import Command, User, assert_same_run, starts

pytestmark = pytest.mark.slurm
Undisturbed = Callable[[Point], Path]
NewUser = Callable[..., User]
BEFORE = 12  # the step at which a fault comes; checkpoints lie at 5 and 10


def begin(user: User, *options: str, step: int = BEFORE) -> tuple[Command, Point, str]:
    """Give the sweep command and wait until its (first) point is in the middle of pre-training: (command, point, job id)."""
    point = user.points[0]
    command = user.sweep(*options)
    job = user.wait_for_job(point)
    user.wait_for_step(point, step)
    return command, point, job


def ends_well(user: User, command: Command, point: Point, undisturbed: Undisturbed, seconds: float = 180) -> None:
    """From here on at full speed; the command reports success and the run is as it should be."""
    user.pace(pause_s=0.0)
    user.wait_for_end(point, seconds)
    assert command.wait(60) == 0, user.told()
    assert_same_run(point.run_dir, undisturbed(point))


def restarts(point: Point) -> list[int]:
    """How often SLURM had started the job of each attempt before."""
    return [attempt.restart for attempt in starts(point.run_dir)]


# ---- asked to go, and come back -----------------------------------------------------------------------------------------------


def test_without_a_fault(user: User, undisturbed: Undisturbed) -> None:
    user.pace(pause_s=0.0)
    command = user.sweep()
    [point] = user.points
    ends_well(user, command, point, undisturbed)
    assert restarts(point) == [0]


def test_time_limit_again_and_again(cluster: Cluster, user: User, undisturbed: Undisturbed) -> None:
    """SLURM's warning before the limit is a USR2 to the tasks; here it comes when we want it."""
    command, point, job = begin(user)
    for attempt in (2, 3):
        cluster.signal(job, "USR2")
        user.wait_for_restart(point, attempt)
        user.wait_for_step(point, BEFORE * attempt)
    ends_well(user, command, point, undisturbed)
    assert restarts(point) == [0, 1, 2] and user.job_id(point) == job


@pytest.mark.slow
def test_real_time_limit(cluster: Cluster, user: User, undisturbed: Undisturbed) -> None:
    """One minute is the shortest limit that SLURM knows, and it looks at limits twice a minute."""
    user.pace(pause_s=2.0)
    command, point, job = begin(user, "--time", "1", step=2)
    user.wait_for_restart(point, 2, 120)
    user.wait_for_restart(point, 3, 120)
    ends_well(user, command, point, undisturbed)
    assert restarts(point) == list(range(len(restarts(point)))) and user.job_id(point) == job


def test_preemption(cluster: Cluster, new_user: NewUser, undisturbed: Undisturbed) -> None:
    """With 20 s to leave, and with none: then SIGTERM comes together with USR2, and a false result is written by submitit."""
    users = {partition: new_user(seeds=(seed,)) for seed, partition in enumerate(("grace", "main"))}
    commands = {partition: user.sweep("--partition", partition) for partition, user in users.items()}
    for user in users.values():
        user.wait_for_step(user.points[0], BEFORE)
    other = cluster.drive_out()
    for user in users.values():
        user.wait_for_restart(user.points[0], 2)
    assert cluster.show(other)["JobState"] == "COMPLETED"
    for partition, user in users.items():
        ends_well(user, commands[partition], user.points[0], undisturbed)
        assert restarts(user.points[0]) == [0, 1]


def test_requeued_from_outside(cluster: Cluster, user: User, undisturbed: Undisturbed) -> None:
    command, point, job = begin(user)
    cluster.command("scontrol", "requeue", job)
    user.wait_for_restart(point, 2)
    ends_well(user, command, point, undisturbed)
    assert restarts(point) == [0, 1]


def test_a_signal_inside_a_logging_call(user: User, undisturbed: Undisturbed) -> None:
    user.pace(signal_in_log=True, harm_at=BEFORE)
    command = user.sweep()
    [point] = user.points
    user.wait_for_restart(point, 2)
    ends_well(user, command, point, undisturbed)
    assert restarts(point) == [0, 1]


# ---- killed -------------------------------------------------------------------------------------------------------------------


def test_task_killed(cluster: Cluster, user: User, undisturbed: Undisturbed) -> None:
    command, point, job = begin(user)
    cluster.tasks(job)[0].kill()
    user.wait_for_restart(point, 2)
    ends_well(user, command, point, undisturbed)


def test_node_crash(cluster: Cluster, user: User, undisturbed: Undisturbed) -> None:
    """SLURM calls it NODE_FAIL and starts the job again; who takes that word for the end runs the point twice."""
    command, point, job = begin(user)
    cluster.crash(cluster.node_of(job))
    user.wait_for_restart(point, 2)
    ends_well(user, command, point, undisturbed)
    first, second = starts(point.run_dir)
    assert first.host != second.host and first.job == second.job and restarts(point) == [0, 1]


def test_two_writers_after_a_lost_slurmd(cluster: Cluster, user: User, undisturbed: Undisturbed) -> None:
    """SLURM gives the node up and starts the job elsewhere, while the old process goes on and writes."""
    user.pace(pause_s=1.0)
    command, point, job = begin(user, step=6)
    old = cluster.tasks(job)[0]
    cluster.kill_slurmd(old.node)
    user.wait_for_restart(point, 2)
    assert old.alive, "both live"
    wait_until(lambda: not old.alive, 30, "the end of the replaced process", told=user.told)
    ends_well(user, command, point, undisturbed)
    first, second = starts(point.run_dir)
    assert first.host == old.node != second.host and first.ended is not None


# ---- SLURM itself is away -----------------------------------------------------------------------------------------------------


def test_controller_away_during_a_sweep(cluster: Cluster, user: User, undisturbed: Undisturbed) -> None:
    command, point, _job = begin(user)
    cluster.stop_controller()
    user.pace(pause_s=0.0)
    user.wait_for_end(point)  # the job needs no controller
    assert command.running or command.wait(1) == 0
    cluster.start_controller()
    ends_well(user, command, point, undisturbed)
    assert restarts(point) == [0]


def test_controller_away_when_a_job_is_to_be_requeued(cluster: Cluster, user: User, undisturbed: Undisturbed) -> None:
    command, point, job = begin(user)
    task = cluster.tasks(job)[0]
    cluster.stop_controller()
    task.kill(signal.SIGUSR2)
    wait_until(lambda: not task.alive, 120, "the end of the task", told=user.told)
    cluster.start_controller()
    user.wait_for_restart(point, 2)
    ends_well(user, command, point, undisturbed)


def test_accounting_off(cluster: Cluster, new_user: NewUser, undisturbed: Undisturbed) -> None:
    cluster.change(accounting=False)
    user = new_user()
    command, point, job = begin(user)
    cluster.tasks(job)[0].kill()
    user.wait_for_restart(point, 2)
    ends_well(user, command, point, undisturbed)


# ---- what the user should be told ---------------------------------------------------------------------------------------------


def test_out_of_memory(cluster: Cluster, user: User, undisturbed: Undisturbed) -> None:
    if not cluster.settings.memory_limits:
        pytest.skip("this machine has no control groups of version 1 that the nodes could use.")
    user.pace(eat_mb=4000, harm_at=BEFORE)
    command = user.sweep("--mem", "2")
    assert command.wait(120) == 1
    assert re.search("out of memory", command.output), command.output
    [point] = user.points
    ends_well(user, user.sweep("--mem", "2", "--retry"), point, undisturbed)


def test_cancelled_by_the_user(cluster: Cluster, user: User, undisturbed: Undisturbed) -> None:
    command, point, job = begin(user)
    cluster.command("scancel", job)
    assert command.wait(60) == 1
    assert "cancelled" in command.output, command.output
    again = user.sweep()
    assert again.wait(60) == 1 and "cancelled" in again.output and len(starts(point.run_dir)) == 1, "not tried again by itself"
    ends_well(user, user.sweep("--retry"), point, undisturbed)


def test_full_disk(cluster: Cluster, new_user: NewUser, undisturbed: Undisturbed) -> None:
    user = new_user(root=cluster.small_disk / "runs")
    command, point, _job = begin(user)
    filler = cluster.small_disk / "filler"
    with open(filler, "wb") as file, pytest.raises(OSError, match="No space"):
        for _ in range(SMALL_DISK_MB * 16):
            file.write(b"\0" * (1 << 16))
            file.flush()
    assert command.wait(120) == 1
    assert "No space left" in command.output and "free some space" in command.output, command.output
    filler.unlink()
    ends_well(user, user.sweep("--retry"), point, undisturbed)
