"""An attempt that is frozen in the middle of a write, and thaws after another one has finished.

Every kind of file that the owner of a run directory writes: nothing changes when it thaws.
"""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from simvtp.runs.journal import Journal, read_journal
from simvtp.runs.lease import hold
from simvtp.runs.rundir import StatusWriter
from tests.test_lease import expect, expect_frozen

# {before}: prepares what is written; {call}: freezes inside; {place}: the function that freezes.
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.journal import Journal
from simvtp.runs.lease import hold
from simvtp.runs.rundir import StatusWriter
folder = Path(sys.argv[1])

def freezing(real):
    times = [1]
    def call(*words, **more):
        result = real(*words, **more)
        if times:
            times.pop()
            print("frozen", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        return result
    return call

with hold(folder) as lease, StatusWriter(folder, writes=True, lease=lease) as status:
    {before}
    {place} = freezing({place})
    {call}
"""
OPENED = (
    "journal = Journal(folder / 'journal.jsonl', lease.check); journal.write('event', message='x')"
)
WRITES = {
    "status": ("pass", "os.fsync", "status.update(stage='finetune', step=5)"),
    "results": (
        "pass",
        "os.fsync",
        "write_atomically(folder / 'results.json', '[]', lease.check)",
    ),
    "stage": (
        "pass",
        "os.fsync",
        "write_atomically(folder / 'stages' / 'pretrain.json', '{}', lease.check)",
    ),
    "checkpoint": (
        "from simvtp.training.checkpointing.checkpoint import write_state",
        "os.fsync",
        "write_state(folder / 'checkpoints' / 'step_5.pt', {'format': 1}, lease.check)",
    ),
    "journal, checked but not written": (
        "journal = Journal(folder / 'journal.jsonl', lease.check)",
        "json.dumps",
        "journal.write('event', message='of the frozen attempt')",
    ),
    "journal, written but not synced": (
        OPENED,
        "os.fsync",
        "journal.length()",
    ),
    "journal, to be truncated": (
        OPENED,
        "os.fsync",
        "journal.truncate(0)",
    ),
}


def contents(folder: Path) -> dict[str, str]:
    """Returns the digests of all files of a run but the leases."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.name != "lease"
    }


SLOW = {"checkpoint"}  # it imports torch


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in SLOW)) for kind in WRITES]
)
def test_nothing_changes_when_an_attempt_thaws_in_the_middle_of_a_write(
    kind: str, tmp_path: Path
) -> None:
    before, place, call = WRITES[kind]
    program = PROGRAM.format(before=before, place=place, call=call)
    frozen = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
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
        journal = Journal(tmp_path / "journal.jsonl", lease.check)
        journal.write("event", message="of the successor")
        journal.close()
    finished = contents(tmp_path)
    frozen.send_signal(signal.SIGCONT)
    assert frozen.wait(30) != 0
    assert contents(tmp_path) == finished
    messages = [line["message"] for _, line in read_journal(tmp_path / "journal.jsonl")]
    assert messages[-1] == "of the successor" and "of the frozen attempt" not in messages
