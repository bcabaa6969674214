"""Worker processes: they start from any kind of script, outlast signals that are meant for the main
process, and never outlive it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from simvtp.data.loading.decode_workers import (
    Guard,
    GuardedWorker,
    SharedTexts,
    WorkerDied,
    guarded_map,
)
from simvtp.errors import DataError

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import signal, sys
from tests.data.test_workers import report_pid
from simvtp.data.workers import GuardedWorker
if sys.argv[1:] == ["stay"]:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)
def start():
    return GuardedWorker(report_pid, 5.0)
workers = [start() for _ in range(2)]
for worker in workers:
    worker.send(0)
print(*[worker.receive() for worker in workers], flush=True)
if sys.argv[1:] == ["stay"]:
    for line in sys.stdin:
        workers[0].send(0)
        more = start()
        more.send(0)
        print(workers[0].receive(), more.receive(), flush=True)
        more.close()
"""


def report_pid(job: int, guard: Guard) -> int:
    return os.getpid()


def misbehave(job: str, guard: Guard) -> str:
    if job == "user":
        raise DataError("this file is bad")
    if job == "defect":
        raise KeyError("oh")
    with guard.decoding(7):
        if job == "spin":
            while True:  # holds the interpreter lock but for its switches
                pass
        if job == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
    if job == "outside":
        os._exit(4)
    return job.upper()


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"workers {pids} outlive their main process"
        time.sleep(0.05)


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        **options,
    )


@pytest.mark.parametrize("how", ["-c", "stdin"])
def test_workers_start_without_a_script_file_and_end_with_the_interpreter(how: str) -> None:
    process = start("-c", SCRIPT) if how == "-c" else start("-")
    output, _ = process.communicate(SCRIPT if how == "stdin" else None, timeout=60)
    assert process.returncode == 0
    pids = [int(pid) for pid in output.split()]
    assert len(pids) == 2
    wait_until_gone(pids)


def test_signals_to_the_group_leave_workers_at_work_and_kill_takes_them_along() -> None:
    process = start("-c", SCRIPT, "stay", start_new_session=True)
    assert process.stdout is not None and process.stdin is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        os.killpg(process.pid, number)  # as SLURM and Ctrl-C do
        process.stdin.write("go\n")
        process.stdin.flush()
        same, new = process.stdout.readline().split()
        assert int(same) == pids[0] and int(new) not in pids
    process.kill()
    process.communicate()
    wait_until_gone(pids)


def test_errors_come_back_as_what_they_are() -> None:
    worker = GuardedWorker(misbehave, 5.0)
    for job in ("user", "defect", "fine"):
        worker.send(job)
    with pytest.raises(DataError, match="this file is bad"):
        worker.receive()
    with pytest.raises(RuntimeError, match="KeyError: 'oh'"):
        worker.receive()
    assert worker.receive() == "FINE"
    worker.close()


@pytest.mark.parametrize(
    ("job", "mark", "reason"),
    [
        ("spin", 7, "took longer than 0.5 s"),
        ("killed", 7, "ended by SIGKILL"),
        ("outside", -1, "exit status 4"),
    ],
)
def test_a_dead_worker_says_what_it_was_at(job: str, mark: int, reason: str) -> None:
    worker = GuardedWorker(misbehave, 0.5)
    worker.send(job)
    with pytest.raises(WorkerDied, match=reason) as caught:
        worker.receive()
    assert caught.value.mark == mark
    worker.close()


@pytest.mark.parametrize("workers", [1, 3])
def test_a_guarded_map_answers_every_job_once(workers: int) -> None:
    jobs = ["a", "spin", "b", "killed", "c", "d"]
    answers = dict(guarded_map(misbehave, jobs, workers, 0.5))
    assert sorted(answers) == list(range(6))
    assert [answers[i] for i in (0, 2, 4, 5)] == ["A", "B", "C", "D"]
    assert isinstance(answers[1], WorkerDied) and isinstance(answers[3], WorkerDied)


def test_shared_texts_are_a_list_of_texts() -> None:
    texts = ["", "a/b.mp4", "ünïcode/日本.mp4", "x" * 1000]
    shared = SharedTexts(texts)
    assert len(shared) == 4 and [shared[i] for i in range(4)] == texts
    assert len(SharedTexts([])) == 0
