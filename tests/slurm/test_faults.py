"""Every fault of a cluster, each with a run that ends as if it had not happened.

That means: the same weights bit by bit, the same journal line by line, and the same results as
those of an undisturbed run.
"""

from __future__ import annotations

import json
import random
import re
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ablations.design import Point
from simvtp import tracking
from tests.slurm.cluster import Cluster
from tests.slurm.cluster_parts import SMALL_DISK_MB
from tests.slurm.processes import wait_until
from tests.slurm.user import Command, User, assert_same_run, read, starts

pytestmark = pytest.mark.slurm
Undisturbed = Callable[[Point], Path]
NewUser = Callable[..., User]
BEFORE = 12  # the step at which a fault comes; checkpoints lie at 5 and 10


def begin(user: User, *options: str, step: int = BEFORE) -> tuple[Command, Point, str]:
    """Runs the sweep command until its first point is in the middle of pre-training.

    Returns (command, point, job id).
    """
    point = user.points[0]
    command = user.sweep(*options)
    job = user.wait_for_job(point)
    user.wait_for_step(point, step)
    return command, point, job


def ends_well(
    user: User, command: Command, point: Point, undisturbed: Undisturbed, seconds: float = 180
) -> None:
    """From here on at full speed; the command reports success and the run is as it should be."""
    user.pace(pause_s=0.0)
    user.wait_for_end(point, seconds)
    assert command.wait(60) == 0, user.details()
    assert_same_run(point.run_dir, undisturbed(point))


def restarts(point: Point) -> list[int]:
    """Returns how often SLURM had started the job of each attempt before."""
    return [attempt.restart for attempt in starts(point.run_dir)]


# ---- asked to go, and come back ------------------------------------------------------------------


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
    """One minute is the shortest limit of SLURM, which checks limits twice a minute.

    Under the default --signal of two minutes the job must still make progress with each start.
    """
    user.pace(pause_s=2.0)
    command, point, job = begin(user, "--time", "1", step=2)
    user.wait_for_restart(point, 2, 150)
    ends_well(user, command, point, undisturbed, 300)
    assert restarts(point) == list(range(len(restarts(point)))) and user.job_id(point) == job


def test_preemption(cluster: Cluster, new_user: NewUser, undisturbed: Undisturbed) -> None:
    """The job has 20 s to leave, or none.

    Without any, SIGTERM comes together with USR2, and submitit writes a false result.
    """
    users = {partition: new_user(seeds=(seed,)) for seed, partition in enumerate(("grace", "main"))}
    commands = {
        partition: user.sweep("--partition", partition) for partition, user in users.items()
    }
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


# ---- killed --------------------------------------------------------------------------------------


def test_task_killed(cluster: Cluster, user: User, undisturbed: Undisturbed) -> None:
    command, point, job = begin(user)
    cluster.tasks(job)[0].kill()
    user.wait_for_restart(point, 2)
    ends_well(user, command, point, undisturbed)


def test_one_task_of_two_killed(cluster: Cluster, new_user: NewUser) -> None:
    """The other task must not wait for it for ever.

    Compared with two undisturbed tasks on this machine.
    """
    user, calm = new_user(), new_user()
    calm.pace(pause_s=0.0)
    command, point, job = begin(user, "--tasks", "2")
    undisturbed = calm.sweep("--tasks", "2", executor="local")
    tasks = cluster.tasks(job)
    assert [task.rank for task in tasks] == [0, 1]
    tasks[1].kill()
    wait_until(lambda: not tasks[0].alive, 30, "the end of the other task", details=user.details)
    user.wait_for_restart(point, 2)
    assert undisturbed.wait() == 0, calm.details()
    ends_well(user, command, point, lambda _: calm.points[0].run_dir)


def test_node_crash(cluster: Cluster, user: User, undisturbed: Undisturbed) -> None:
    """SLURM calls it NODE_FAIL and starts the job again.

    A controller that takes this for the end runs the point twice.
    """
    command, point, job = begin(user)
    node = cluster.node_of(job)
    cluster.crash(node)
    user.wait_for_restart(point, 2)
    cluster.boot(node)
    ends_well(user, command, point, undisturbed)
    first, second = starts(point.run_dir)
    assert first.host != second.host and first.job == second.job and restarts(point) == [0, 1]


def test_two_writers_after_a_lost_slurmd(
    cluster: Cluster, user: User, undisturbed: Undisturbed
) -> None:
    """SLURM starts the job elsewhere, while the old process continues and writes."""
    user.pace(pause_s=1.0)
    command, point, job = begin(user, step=6)
    old = cluster.tasks(job)[0]
    cluster.kill_slurmd(old.node)
    user.wait_for_restart(point, 2)
    assert old.alive, "both live"
    wait_until(lambda: not old.alive, 30, "the end of the replaced process", details=user.details)
    cluster.start_slurmd(old.node)
    ends_well(user, command, point, undisturbed)
    first, second = starts(point.run_dir)
    assert first.host == old.node != second.host and first.ended is not None


# ---- SLURM itself is away ------------------------------------------------------------------------


def test_controller_away_during_a_sweep(
    cluster: Cluster, user: User, undisturbed: Undisturbed
) -> None:
    command, point, _job = begin(user)
    cluster.stop_controller()
    user.pace(pause_s=0.0)
    user.wait_for_end(point)  # the job needs no controller
    assert command.running or command.wait(1) == 0
    cluster.start_controller()
    ends_well(user, command, point, undisturbed)
    assert restarts(point) == [0]


@pytest.mark.parametrize("comes_back_in_time", [True, False])
def test_controller_away_when_a_job_is_to_be_requeued(
    cluster: Cluster, user: User, undisturbed: Undisturbed, comes_back_in_time: bool
) -> None:
    """The job asks again and again.

    If its time runs out first, the sweep command submits the point again.
    """
    slowly = {} if comes_back_in_time else {"requeue_for_s": 1.0}
    user.pace(**slowly)
    command, point, job = begin(user)
    task = cluster.tasks(job)[0]
    cluster.stop_controller()
    task.kill(signal.SIGUSR2)
    log = Path(read(point.run_dir / "job.json")["stdout"])
    wait_until(
        lambda: f"scontrol requeue {job}:" in log.read_text(),
        60,
        "a failed request",
        details=user.details,
    )
    if not comes_back_in_time:
        wait_until(lambda: not task.alive, 30, "the end of the task", details=user.details)
    cluster.start_controller()
    user.wait_for_restart(point, 2)
    ends_well(user, command, point, undisturbed)
    assert (user.job_id(point) == job) == comes_back_in_time


def test_accounting_off(cluster: Cluster, new_user: NewUser, undisturbed: Undisturbed) -> None:
    cluster.change(accounting=False)
    user = new_user()
    command, point, job = begin(user)
    cluster.tasks(job)[0].kill()
    user.wait_for_restart(point, 2)
    ends_well(user, command, point, undisturbed)


# ---- the sweep command and the tracker -----------------------------------------------------------


def test_the_sweep_command_killed_twenty_times(
    cluster: Cluster, new_user: NewUser, undisturbed: Undisturbed
) -> None:
    """Often right at the submission of one of the points, else at any moment."""
    user, moments = new_user(seeds=(0, 1, 2, 3)), random.Random(0)
    user.pace(pause_s=1.0)
    submissions = user.root / "sweeps"

    def count() -> int:
        return len(list(submissions.glob("*/submissions/*.json")))

    def submitted(seed: int, before: int, command: Command) -> bool:
        """Returns whether the point is submitted, or was found as a job of an earlier command."""
        # A kill may fall between the note of a submission and job.json of its point; the next
        # command then finds the job by the note and writes neither again.
        records = [
            json.loads(path.read_text()) for path in submissions.glob("*/submissions/*.json")
        ]
        wanted = user.points[seed].fingerprint
        noted = any(wanted in one["fingerprints"] and one["job_ids"] for one in records)
        known = noted or bool(user.job_id(user.points[seed]))
        return count() > before or known or not command.running

    for number in range(20):
        seed, before = number % 4, count()
        command = user.sweep("--cpus", "2", *(("--only", f"seed={seed}") if number < 12 else ()))
        if number < 12 and not user.job_id(user.points[seed]):
            ready = partial(submitted, seed, before, command)
            wait_until(ready, 60, "a submission", every=0.005)
            time.sleep(moments.uniform(0.0, 0.2))
        else:
            time.sleep(moments.uniform(0.0, 6.0))
        command.kill()
    user.pace(pause_s=0.0)
    assert user.sweep("--cpus", "2").wait(300) == 0, user.details()
    for point in user.points:
        assert len(starts(point.run_dir)) == 1, user.details()
        assert_same_run(point.run_dir, undisturbed(point))


def test_the_sweep_command_killed_between_slurms_answer_and_our_note_of_it(
    cluster: Cluster, new_user: NewUser, undisturbed: Undisturbed
) -> None:
    """No job.json names the jobs then.

    The next call finds them in the queue by the name of the submission.
    """
    user = new_user(seeds=(0, 1))
    user.pace(pause_s=1.0)
    killed = user.sweep("--cpus", "2", program=("-m", "tests.slurm.killed_sweep"))
    wait_until(lambda: not killed.running, 60, "the sweep command to be killed")
    assert not any(user.job_id(point) for point in user.points) and len(cluster.queue()) == 2, (
        user.details()
    )
    second = user.sweep("--cpus", "2")
    wait_until(
        lambda: second.output.count("that was not recorded: watching it") == 2,
        60,
        "both jobs to be found",
        details=user.details,
    )
    user.pace(pause_s=0.0)
    assert second.wait(300) == 0, user.details()
    for point in user.points:
        assert len(starts(point.run_dir)) == 1, user.details()
        assert_same_run(point.run_dir, undisturbed(point))


def test_tracker_away_for_the_whole_sweep(
    user: User, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    user.pace(pause_s=0.0)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        command = user.sweep("--tracking-uri", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        [point] = user.points
        ends_well(user, command, point, undisturbed)
    assert "simvtp sync" in command.output, command.output
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    user.ask("-m", "simvtp", "sync", str(user.root), "--tracking-uri", uri)
    [run] = tracking.read_runs(uri, [point.fingerprint])
    assert run.state == "finished"


# ---- what the user should see ----------------------------------------------------------------


def test_out_of_memory(cluster: Cluster, user: User, undisturbed: Undisturbed) -> None:
    if not cluster.settings.memory_limits:
        pytest.skip("this machine has no control groups of version 1 that the nodes could use.")
    user.pace(eat_mb=4000, harm_at=BEFORE)
    command = user.sweep("--mem", "2")
    assert command.wait(120) == 1
    assert re.search("out of memory", command.output), command.output
    [point] = user.points
    assert len(starts(point.run_dir)) == 1, "not tried again by itself"
    ends_well(user, user.sweep("--mem", "4"), point, undisturbed)


def test_cancelled_by_the_user(cluster: Cluster, user: User, undisturbed: Undisturbed) -> None:
    command, point, job = begin(user)
    cluster.command("scancel", job)
    assert command.wait(60) == 1
    assert "cancelled" in command.output, command.output
    again = user.sweep()
    assert (
        again.wait(60) == 1 and "cancelled" in again.output and len(starts(point.run_dir)) == 1
    ), "not tried again by itself"
    ends_well(user, user.sweep("--retry"), point, undisturbed)


def test_full_disk(
    cluster: Cluster, new_user: NewUser, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """The sweep's own files lie on that disk too."""
    user = new_user(root=cluster.small_disk / "runs", papers=tmp_path)
    command, point, _job = begin(user)
    log = Path(read(point.run_dir / "job.json")["stdout"])
    whole = {path.name for path in (point.run_dir / "checkpoints" / "pretrain").glob("step_*.pt")}
    filler = cluster.small_disk / "filler"
    # Unbuffered: a buffered file would try to write its rest when closed, and fail once more.
    with open(filler, "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        for _ in range(SMALL_DISK_MB * 16):
            file.write(b"\0" * (1 << 16))
    assert command.wait(120) in (1, 2)
    wait_until(lambda: not cluster.queue(), 60, "the end of the job", details=user.details)
    assert "No space left" in command.output and "free some space" in command.output, command.output
    assert re.search(
        r"failed: cannot write .*: No space left on device; free some space", log.read_text()
    ), user.details()
    assert whole <= {
        path.name for path in (point.run_dir / "checkpoints" / "pretrain").glob("step_*.pt")
    }
    filler.unlink()
    ends_well(user, user.sweep("--retry"), point, undisturbed)
    assert len(starts(point.run_dir)) == 2
