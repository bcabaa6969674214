"""The test cluster itself: it is SLURM, and its faults are faults."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import CGROUPS, Cluster, remove_leftovers
from tests.slurm.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]


def test_nodes_have_names_and_gpus(cluster: Cluster) -> None:
    said = cluster.command(
        "srun",
        "-N4",
        "--ntasks-per-node=1",
        "--gpus-per-node=2",
        "bash",
        "-c",
        "echo $(cat /proc/sys/kernel/hostname) $CUDA_VISIBLE_DEVICES",
    )
    assert sorted(said.splitlines()) == ["n1 0,1", "n2 0,1", "n3 0,1", "n4 0,1"]
    one = cluster.command(
        "srun", "--gpus-per-node=1", "bash", "-c", "getent hosts n3 >&2; echo $CUDA_VISIBLE_DEVICES"
    )
    assert one.strip() in ("0", "1")


def test_an_array_runs_and_the_accounting_knows_it(cluster: Cluster) -> None:
    job = cluster.submit(
        "echo element $SLURM_ARRAY_TASK_ID; exit $SLURM_ARRAY_TASK_ID", "--array=0-2%2"
    )
    wait_until(
        lambda: not cluster.queue(),
        30,
        "the end of the array",
        details=lambda: str(cluster.queue()),
    )

    def states() -> dict[str, str]:
        return {line["JobID"]: f"{line['State']} {line['ExitCode']}" for line in cluster.sacct(job)}

    wanted = {f"{job}_0": "COMPLETED 0:0", f"{job}_1": "FAILED 1:0", f"{job}_2": "FAILED 2:0"}
    wait_until(
        lambda: states() == wanted, 15, f"{wanted} in the accounting", details=lambda: str(states())
    )
    assert (cluster.folder / "log" / f"job-{job}_1.log").read_text() == "element 1\n"
    assert cluster.show(f"{job}_2")["JobState"] == "FAILED"


def test_a_requeued_job_starts_again_under_its_id(cluster: Cluster) -> None:
    job = cluster.submit("echo start ${SLURM_RESTART_COUNT:-0}; srun sleep 300", "--requeue")
    first = wait_until(lambda: cluster.tasks(job), 20, "the first task")[0]
    cluster.command("scontrol", "requeue", job)
    again = wait_until(
        lambda: [task for task in cluster.tasks(job) if task != first],
        40,
        "the task again",
        details=lambda: str(cluster.show(job)),
    )
    assert not first.alive and again[0].job_id == job and cluster.show(job)["Restarts"] == "1"
    assert "start 1" in (cluster.folder / "log" / f"job-{job}_4294967294.log").read_text()


def test_a_job_of_higher_priority_drives_another_out(cluster: Cluster) -> None:
    script = (
        """srun --ntasks=8 bash -c 'trap "echo asked; exit 0" USR2; while :; do sleep 0.1; done'"""
    )
    low = cluster.submit(
        script, "-p", "grace", "-N4", "--ntasks-per-node=2", "--requeue", "--signal=USR2@10"
    )
    wait_until(lambda: len(cluster.tasks(low)) == 8, 20, "8 tasks")
    high = cluster.drive_out()
    log = cluster.folder / "log" / f"job-{low}_4294967294.log"
    wait_until(
        lambda: "asked" in log.read_text(), 15, "the signal", details=lambda: str(cluster.queue())
    )
    wait_until(
        lambda: cluster.show(high).get("JobState") == "COMPLETED",
        40,
        "the other job",
        details=lambda: str(cluster.queue()),
    )


def test_a_job_is_held_to_its_memory(cluster: Cluster) -> None:
    if not cluster.settings.memory_limits:
        pytest.skip("this machine has no control groups of version 1 that the nodes could use.")
    job = cluster.submit(
        "srun python3 -c \"import time; x = b'1' * 900_000_000; time.sleep(20)\"", "--mem=200M"
    )
    wait_until(
        lambda: cluster.show(job).get("JobState") in ("FAILED", "OUT_OF_MEMORY"),
        30,
        "the end of the job",
    )
    assert "Out Of Memory" in (cluster.folder / "log" / f"job-{job}_4294967294.log").read_text()


def test_a_crashed_node_is_noticed_and_its_job_moves(cluster: Cluster) -> None:
    job = cluster.submit("srun sleep 300", "--requeue")
    task = wait_until(lambda: cluster.tasks(job), 20, "the task")[0]
    cluster.crash(task.node)
    assert not task.alive
    again = wait_until(
        lambda: cluster.tasks(job),
        90,
        "the task on another node",
        details=lambda: str(cluster.show(job)),
    )
    assert again[0].node != task.node
    assert [line["State"] for line in cluster.sacct(job, lives=True)][:1] == ["NODE_FAIL"]


def test_a_lost_slurmd_leaves_its_task_running(cluster: Cluster) -> None:
    job = cluster.submit("srun sleep 300", "--requeue")
    task = wait_until(lambda: cluster.tasks(job), 20, "the task")[0]
    cluster.kill_slurmd(task.node)
    assert task.alive
    cluster.start_slurmd(task.node)
    wait_until(lambda: set(cluster.queue().values()) == {"RUNNING"}, 20, "the job running on")
    assert task.alive and cluster.tasks(job) == [task]


def test_the_controller_may_be_away(cluster: Cluster) -> None:
    job = cluster.submit("srun sleep 3")
    wait_until(lambda: cluster.tasks(job), 20, "the task")
    cluster.stop_controller()
    assert cluster.command("scontrol", "ping", check=False).count("is DOWN") == 1
    wait_until(lambda: not cluster.tasks(job), 20, "the end of the task")
    cluster.start_controller()
    wait_until(
        lambda: cluster.show(job).get("JobState") == "COMPLETED",
        60,
        "the end in the controller's books",
        details=lambda: str(cluster.show(job)),
    )


def test_accounting_can_be_switched_off(cluster: Cluster) -> None:
    cluster.change(accounting=False, min_job_age_s=5)
    job = cluster.submit("true")
    wait_until(lambda: cluster.show(job).get("JobState") == "COMPLETED", 20, "the end of the job")
    done = subprocess.run(
        ["sacct", "-j", job], env=cluster.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode and "accounting storage is disabled" in done.stderr


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path that everybody may enter, which pytest's own temporary folders are not."""
    path = Path(tempfile.mkdtemp(prefix="simvtp-slurm-"))
    path.chmod(0o755)
    yield path
    for folder in path.iterdir():
        Cluster(folder).stop()
    path.rmdir()


def test_what_a_killed_session_left_is_removed(cluster: Cluster, home: Path) -> None:
    program = f"""
import os
from pathlib import Path
from tests.slurm.cluster import Cluster
from tests.slurm.configuration import Settings
cluster = Cluster(Path({str(home / "left")!r}), Settings(nodes=1, accounting=False))
cluster.start(owner=os.getpid())
print(cluster.submit("srun sleep 300"), flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == -9 and done.stdout.strip() == "1", done.stderr
    left = Cluster(home / "left")
    task = wait_until(left.tasks, 20, "the task of the session that was killed")[0]
    assert remove_leftovers(home) == [left.folder]
    assert not task.alive and not left.folder.exists()
    assert not any((cgroup / "left").exists() for cgroup in CGROUPS)
    assert str(left.folder) not in Path("/proc/self/mounts").read_text()
    assert (
        cluster.command("sinfo", "--noheader", "--partition", "main", "--format", "%D %t")
        == "4 idle\n"
    ), "another cluster is not touched"
