"""Worker processes.

They start from any kind of script, outlast signals that are meant for the main process, and never
outlive it.
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

from simvtp.data.prepare.encode import encode_h264
from simvtp.data.video.decode_workers import (
    DecodeWatchdog,
    DecodeWorker,
    SharedTexts,
    WorkerDied,
    map_in_workers,
)
from simvtp.errors import ConfigError, DataError, UserError
from tests.data.helpers import moving_square

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import signal, sys
from tests.data.test_workers import report_pid
from simvtp.data.video.decode_workers import DecodeWorker
if sys.argv[1:] == ["stay"]:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)
def start():
    return DecodeWorker(report_pid, 5.0)
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


LOADER_SCRIPT = """
import sys
from pathlib import Path
from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.config.model_config import SimVTPConfig
from simvtp.data.clips import Clip
from simvtp.data.loading.view_loader import ViewLoader
from simvtp.data.video.pyav_reader import PyavReader

class OwnReader(PyavReader):
    pass

def main(reader):
    print("main", flush=True)
    clip = Clip("one", Path(sys.argv[1]), ("a clip",))
    model = SimVTPConfig(frames=2, image_size=32)
    loader = ViewLoader([clip], data=DataConfig(), model=model, runtime=RuntimeConfig(workers=1),
                        segments=1, crops=1, batch_size=1, reader=reader)
    print([tuple(views.shape) for views, _ in loader.batches()])

"""
GUARD = 'if __name__ == "__main__":\n    '


def report_pid(job: int, watchdog: DecodeWatchdog) -> int:
    return os.getpid()


class DiesAtStart:
    """A task that ends the process that unpickles it."""

    def __call__(self, job: int, watchdog: DecodeWatchdog) -> int:
        return job

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


def misbehave(job: str, watchdog: DecodeWatchdog) -> str:
    if job == "user":
        raise DataError("this file is bad")
    if job == "defect":
        raise KeyError("oh")
    with watchdog.decoding(7):
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


def run_loader_script(folder: Path, call: str) -> subprocess.CompletedProcess[str]:
    encode_h264(moving_square(0), folder / "clip.mp4", 8)
    script = folder / "plain.py"
    script.write_text(LOADER_SCRIPT + call)
    return subprocess.run(
        [sys.executable, str(script), str(folder / "clip.mp4")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=120,
    )


@pytest.mark.parametrize("call", ["main(None)", GUARD + "main(OwnReader())"])
def test_a_script_that_uses_a_loader_runs_once(tmp_path: Path, call: str) -> None:
    """Without a main guard too, where the workers need nothing that the script defines."""
    done = run_loader_script(tmp_path, call)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "main\n[(1, 2, 32, 32, 3)]\n"


def test_a_script_whose_own_reader_needs_a_main_guard_says_so(tmp_path: Path) -> None:
    done = run_loader_script(tmp_path, "main(OwnReader())")
    assert done.returncode != 0
    message = done.stderr.strip().splitlines()[-1]
    assert f"a data worker could not start: it imports {tmp_path / 'plain.py'}" in message
    assert "which defines OwnReader" in message
    assert 'put the code that runs there under `if __name__ == "__main__":`' in message


def test_a_worker_that_dies_before_it_serves_did_not_start() -> None:
    worker = DecodeWorker(DiesAtStart(), 5.0)
    worker.send(0)
    with pytest.raises(UserError, match=r"could not start \(exit status 3\): see its error above"):
        worker.receive()
    worker.close()


def test_errors_come_back_as_what_they_are() -> None:
    worker = DecodeWorker(misbehave, 5.0)
    for job in ("user", "defect", "fine"):
        worker.send(job)
    with pytest.raises(DataError, match="this file is bad"):
        worker.receive()
    with pytest.raises(RuntimeError, match="KeyError: 'oh'"):
        worker.receive()
    assert worker.receive() == "FINE"
    worker.close()


@pytest.mark.parametrize(
    ("job", "clip", "reason"),
    [
        ("spin", 7, "took longer than 0.5 s"),
        ("killed", 7, "ended by SIGKILL"),
        ("outside", -1, "exit status 4"),
    ],
)
def test_a_dead_worker_says_what_it_was_at(job: str, clip: int, reason: str) -> None:
    worker = DecodeWorker(misbehave, 0.5)
    worker.send(job)
    with pytest.raises(WorkerDied, match=reason) as caught:
        worker.receive()
    assert caught.value.clip == clip
    worker.close()


@pytest.mark.parametrize("workers", [1, 3])
def test_a_map_in_workers_answers_every_job_once(workers: int) -> None:
    jobs = ["a", "spin", "b", "killed", "c", "d"]
    answers = dict(map_in_workers(misbehave, jobs, workers, 0.5))
    assert sorted(answers) == list(range(6))
    assert [answers[i] for i in (0, 2, 4, 5)] == ["A", "B", "C", "D"]
    assert isinstance(answers[1], WorkerDied) and isinstance(answers[3], WorkerDied)


@pytest.mark.parametrize("workers", [-1, -2])
def test_a_negative_number_of_workers_is_refused(workers: int) -> None:
    with pytest.raises(ConfigError, match=f"workers={workers}: must be 0"):
        list(map_in_workers(misbehave, ["a"], workers, 0.5))


def test_shared_texts_are_a_list_of_texts() -> None:
    texts = ["", "a/b.mp4", "ünïcode/日本.mp4", "x" * 1000]
    shared = SharedTexts(texts)
    assert len(shared) == 4 and [shared[i] for i in range(4)] == texts
    assert len(SharedTexts([])) == 0
