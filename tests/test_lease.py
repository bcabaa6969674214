"""One owner of a run directory: real processes, stopped and killed at bad moments."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from simvtp.errors import UserError
from simvtp.runs.attempts import attempts, owner
from simvtp.runs.journal import Journal, read_journal
from simvtp.runs.lease import Fenced, hold
from simvtp.runs.process_identity import is_frozen, process_start
from simvtp.runs.run_records import RunState, read_status
from simvtp.runs.rundir import StatusWriter, require_writable

# Holds the directory and writes a journal line now and then, as a run does; says "held" first and
# "fenced" if it was replaced.
WRITER = """
import sys, time
from pathlib import Path
from simvtp.runs.journal import Journal
from simvtp.runs.lease import Fenced, hold
folder, name, lines, wait = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "wait"
try:
    say = lambda text: print(text, flush=True)
    with hold(folder, wait=wait, say=say, beat_s=0.1, silent_s=2.0) as lease:
        journal = Journal(folder / "journal.jsonl", check_ownership=lease.check)
        print("held", flush=True)
        for number in range(lines):
            journal.write("event", message=name, number=number)
            time.sleep(0.05)
except Fenced:
    print("fenced", flush=True)
    sys.exit(3)
"""


def writer(
    folder: Path, name: str, lines: int, *, wait: bool = False, job: str = "", restart: int = 0
) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    if job:
        environment |= {"SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": str(restart)}
    command = [
        sys.executable,
        "-c",
        WRITER,
        str(folder),
        name,
        str(lines),
        "wait" if wait else "refuse",
    ]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def expect(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert word in line, f"expected {word}, got {line!r}"


def expect_frozen(process: subprocess.Popen[str]) -> None:
    """Waits until the process is stopped: a signal takes effect some time after it is sent."""
    deadline = time.monotonic() + 20
    while not is_frozen(process.pid):
        assert time.monotonic() < deadline, "the process was not stopped"
        time.sleep(0.01)


def lines_of(folder: Path) -> list[tuple[str, int]]:
    return [(line["message"], line["number"]) for _, line in read_journal(folder / "journal.jsonl")]


def test_a_later_start_of_the_same_job_takes_over_and_the_earlier_one_stops_itself(
    tmp_path: Path,
) -> None:
    old = writer(tmp_path, "old", 1000, job="7", restart=0)
    expect(old, "held")
    time.sleep(0.3)
    new = writer(tmp_path, "new", 10, job="7", restart=1)
    expect(new, "held")
    expect(old, "fenced")
    assert old.wait(10) == 3 and new.wait(10) == 0
    written = lines_of(tmp_path)
    first_new = written.index(("new", 0))
    assert [name for name, _ in written[first_new:]] == ["new"] * 10, (
        "the replaced attempt wrote after the takeover"
    )
    assert [a.restart for a in attempts(tmp_path)] == [0, 1] and owner(tmp_path) is None


def test_an_attempt_that_slept_through_the_takeover_changes_nothing_when_it_wakes(
    tmp_path: Path,
) -> None:
    old = writer(tmp_path, "old", 1000, job="7", restart=0)
    expect(old, "held")
    time.sleep(0.3)
    old.send_signal(signal.SIGSTOP)
    expect_frozen(old)
    new = writer(tmp_path, "new", 3, job="7", restart=1)
    expect(new, "held")
    assert new.wait(10) == 0
    before = (tmp_path / "journal.jsonl").read_bytes()
    old.send_signal(signal.SIGCONT)
    expect(old, "fenced")
    assert old.wait(10) == 3
    assert (tmp_path / "journal.jsonl").read_bytes() == before


def test_what_a_replaced_attempt_has_open_is_no_longer_the_journal(tmp_path: Path) -> None:
    stale = Journal(
        tmp_path / "journal.jsonl"
    )  # without a guard: the moment between its check and its write
    stale.write("event", message="early")
    mark = stale.position()
    with hold(tmp_path):
        pass
    with hold(tmp_path):
        stale.write("event", message="late")
        journal = Journal(tmp_path / "journal.jsonl")
        journal.write("event", message="new")
        assert journal.matches(mark) and not journal.matches(stale.position())
        stale.truncate(0)
    assert [line["message"] for _, line in read_journal(tmp_path / "journal.jsonl")] == [
        "early",
        "new",
    ]


def test_a_stale_start_does_not_take_back_what_a_later_one_owns(tmp_path: Path) -> None:
    new = writer(tmp_path, "new", 40, job="7", restart=2)
    expect(new, "held")
    old = writer(tmp_path, "old", 10, wait=True, job="7", restart=1)
    expect(old, "fenced")
    assert new.wait(10) == 0 and {name for name, _ in lines_of(tmp_path)} == {"new"}


def test_another_job_waits_or_is_refused_while_the_owner_lives(tmp_path: Path) -> None:
    first = writer(tmp_path, "first", 20, job="1")
    expect(first, "held")
    with pytest.raises(UserError, match="job 1 on .* works on this experiment"), hold(tmp_path):
        pass
    second = writer(tmp_path, "second", 2, wait=True, job="2")
    expect(second, "waiting")
    assert first.wait(10) == 0
    expect(second, "held")
    assert second.wait(10) == 0
    assert [name for name, _ in lines_of(tmp_path)] == ["first"] * 20 + ["second"] * 2


def test_a_killed_owner_is_replaced_at_once(tmp_path: Path) -> None:
    first = writer(tmp_path, "first", 1000)
    expect(first, "held")
    first.kill()
    first.wait()
    began = time.monotonic()
    with hold(tmp_path) as lease:
        assert time.monotonic() - began < 1 and lease.token == 2
    assert attempts(tmp_path)[0].ended is not None


def test_an_owner_on_another_machine_counts_as_dead_only_after_it_was_silent(
    tmp_path: Path,
) -> None:
    with hold(tmp_path) as lease:
        content = json.loads((tmp_path / "lease" / "00000001.json").read_text())
    elsewhere = tmp_path / "lease" / "00000002.json"
    elsewhere.write_text(json.dumps({**content, "token": 2, "host": "elsewhere"}))
    began = time.monotonic()
    with hold(tmp_path, wait=True, silent_s=1.0) as lease:
        assert 1.0 <= time.monotonic() - began < 5 and lease.token == 3
    assert not elsewhere.exists()


def test_of_many_that_come_at_once_one_writes_at_a_time(tmp_path: Path) -> None:
    racers = [
        writer(tmp_path, f"racer {number}", 4, wait=True, job=str(number + 1))
        for number in range(6)
    ]
    assert [racer.wait(60) for racer in racers] == [0] * 6
    names = [name for name, _ in lines_of(tmp_path)]
    runs = [name for number, name in enumerate(names) if number == 0 or names[number - 1] != name]
    assert len(names) == 24 and len(runs) == len(set(runs)) == 6, "two wrote at the same time"
    assert sorted(a.token for a in attempts(tmp_path)) == [1, 2, 3, 4, 5, 6]


def test_the_same_process_may_hold_it_twice(tmp_path: Path) -> None:
    with hold(tmp_path) as outer:
        with hold(tmp_path) as inner:
            assert inner.token == outer.token == 1
        outer.check()
        assert owner(tmp_path) is not None
    assert owner(tmp_path) is None


def test_the_loss_of_a_lease_calls_back(tmp_path: Path) -> None:
    calls: list[bool] = []
    with (
        hold(tmp_path),
        hold(tmp_path, beat_s=0.05) as lease,
    ):  # as a job does, and the experiment inside it
        lease.on_lost(lambda: calls.append(True))
        lease.check()
        (tmp_path / "lease" / "00000001.json").unlink()
        deadline = time.monotonic() + 5
        while not calls and time.monotonic() < deadline:
            time.sleep(0.02)
        assert calls == [True]
        with pytest.raises(Fenced):
            lease.check()


def test_no_secrets_in_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SLURM_JOB_ID": "5",
        "SLURM_JWT": "hidden",
        "AWS_SECRET": "hidden",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_JOB_NUM_NODES": "2",
    }.items():
        monkeypatch.setenv(name, value)
    with hold(tmp_path):
        text = (tmp_path / "lease" / "00000001.json").read_text()
        attempt = attempts(tmp_path)[0]
    assert "hidden" not in text and attempt.gpus == 8 and attempt.job == "5"
    assert (
        attempt.host == socket.gethostname() and process_start(os.getpid()) == attempt.pid_started
    )


@pytest.mark.parametrize("content", ["", "{", "[]", '{"token": "x"}'])
def test_a_lease_that_cannot_be_read_is_replaced_after_it_was_watched(
    tmp_path: Path, content: str
) -> None:
    """A full disk, or a kill between the creation of the file and its first line."""
    (tmp_path / "lease").mkdir()
    (tmp_path / "lease" / "00000001.json").write_text(content)
    seen: list[str] = []
    with hold(tmp_path, say=seen.append, unreadable_s=0.6) as lease:
        assert lease.token == 2
        assert len(seen) == 1 and "cannot be read" in seen[0]


@pytest.mark.parametrize("shift", [-3600.0, 3600.0])
def test_clocks_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    """Neither that of the newcomer, nor the one by which a file server sets modification times."""
    first = writer(tmp_path, "first", 1000)
    expect(first, "held")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + shift)
    with pytest.raises(UserError, match="works on this experiment"), hold(tmp_path):
        pass
    first.kill()
    first.wait()
    with hold(tmp_path) as lease:
        assert lease.token == 2


def test_an_owner_elsewhere_is_refused_once_its_heartbeat_is_seen(tmp_path: Path) -> None:
    with hold(tmp_path):
        content = json.loads((tmp_path / "lease" / "00000001.json").read_text())
    elsewhere = tmp_path / "lease" / "00000002.json"
    elsewhere.write_text(json.dumps({**content, "token": 2, "host": "elsewhere"}))
    os.utime(elsewhere, (1.0, 1.0))  # a clock that is decades behind
    beats = threading.Timer(0.7, lambda: os.utime(elsewhere, (2.0, 2.0)))
    beats.start()
    with pytest.raises(UserError, match="works on this experiment"), hold(tmp_path, silent_s=30.0):
        pass
    beats.join()


def test_a_process_of_another_container_is_not_taken_for_dead(tmp_path: Path) -> None:
    """Its host name is ours, its process id means nothing here: another namespace or boot."""
    with hold(tmp_path):
        content = json.loads((tmp_path / "lease" / "00000001.json").read_text())
    changed = {**content, "token": 2, "machine": "another boot", "pid": 2**22 - 1}
    (tmp_path / "lease" / "00000002.json").write_text(json.dumps(changed))
    began = time.monotonic()
    with hold(tmp_path, silent_s=1.0, say=lambda line: None) as lease:
        assert lease.token == 3 and time.monotonic() - began >= 1.0


FREEZES_BEFORE_THE_RENAME = """
import os, signal, sys
from pathlib import Path
from simvtp.runs.lease import hold
from simvtp.runs.rundir import StatusWriter, require_writable
real = os.fsync
def freeze(fd):
    real(fd)
    print("frozen", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
folder = Path(sys.argv[1])
with hold(folder) as lease, StatusWriter(folder, writes=True, lease=lease) as status:
    os.fsync = freeze
    status.update(stage="finetune", step=5)
"""


def test_an_attempt_that_thaws_does_not_overwrite_the_status_of_its_successor(
    tmp_path: Path,
) -> None:
    frozen = subprocess.Popen(
        [sys.executable, "-c", FREEZES_BEFORE_THE_RENAME, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    expect(frozen, "frozen")
    expect_frozen(frozen)
    with (
        hold(tmp_path, silent_s=1.0, say=lambda line: None) as lease,
        StatusWriter(tmp_path, writes=True, lease=lease),
    ):
        assert not list(tmp_path.glob(".*.tmp")), "what it was writing is removed"
    frozen.send_signal(signal.SIGCONT)
    assert frozen.wait(20) != 0
    status = read_status(tmp_path)
    assert status is not None and (status.state, status.attempt) == (RunState.FINISHED, 2)


def test_leftovers_of_killed_attempts_are_removed_by_the_next_one(tmp_path: Path) -> None:
    with hold(tmp_path):
        pass
    leftovers = [".status.json.77.tmp", "checkpoints/pretrain/.step_4.pt.77.tmp"]
    others = [".job.json.77.tmp", ".mirror.json.77.tmp"]  # written by processes that own nothing
    for name in (*leftovers, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("half")
    with hold(tmp_path):
        assert not any((tmp_path / name).exists() for name in leftovers)
        assert all((tmp_path / name).exists() for name in others)


@pytest.mark.parametrize("root", ["a file", "/proc/nobody/writes/here"])
def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path: Path, root: str) -> None:
    (tmp_path / "a file").write_text("")
    directory = tmp_path / root / "0123456789ab"
    sentence = pytest.raises(UserError, match="cannot write .*; choose another runtime.root")
    with sentence, hold(directory):
        pass
    with sentence:
        require_writable(tmp_path / root)
    require_writable(tmp_path / "not" / "there" / "yet")
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]
