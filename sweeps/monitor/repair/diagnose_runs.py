"""Finds problems of run directories: damaged journals, stale leases, wrong states, leftovers."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from simvtp.errors import DamagedFile
from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.runs.attempts import is_alive_here, owner
from simvtp.runs.lease import SILENT_S, hold
from simvtp.runs.run_records import STATUS_FILE, RunState, read_status_or_none
from sweeps.monitor.repair.diagnosis import Diagnosis
from sweeps.monitor.repair.rebuild import set_aside
from sweeps.runner.liveness import state_of
from sweeps.runner.slurm_queue import SlurmQueue

LEFTOVER_S = 600.0  # a temporary file that was not touched for this long is stale
REMARKS = (
    b'{"kind":"event","time":0,"message":"a damaged line was here"}',
    b'{"kind":"event","time":0,"message":""}',
)
RUN_FILES = ("experiment.json", "status.json", "job.json", "journal.jsonl")
GONE = "its process ended without a message; the same command continues it"


def run_dirs(root: Path) -> list[Path]:
    """Returns the run directories of a root."""
    entries = sorted(path for path in root.iterdir() if path.name != "sweeps")
    return [path for path in entries if any((path / name).exists() for name in RUN_FILES)]


def is_alive(run_dir: Path, queue: SlurmQueue) -> bool:
    """Returns whether a job works in a run directory, or an attempt that its job does not know."""
    if state_of(run_dir, queue).alive:
        return True
    holder = owner(run_dir)
    if holder is None or is_alive_here(holder) is False:
        return False
    return bool(is_alive_here(holder)) or time.time() - holder.last_beat < SILENT_S


def diagnose_cores(run_dir: Path) -> Iterator[Diagnosis]:
    """Yields a problem if a run that is alive may use fewer cores than its job asked for."""
    holder = owner(run_dir)
    if holder is None or not 0 < holder.cores < holder.asked_cores:
        return
    yield Diagnosis(
        run_dir,
        f"{run_dir.name}: {holder.who} may use {holder.cores} of the {holder.asked_cores} cores "
        "that it asked for, so that its loader's processes wait for one another",
        "give --cpus in the sweep's command or profile, which passes it on to srun; if it is "
        "there, show this line to those who run the cluster",
    )


def diagnose_run(run_dir: Path, blocked: str) -> Iterator[Diagnosis]:
    """Yields the problems of a run that is not alive.

    Args:
        run_dir: its directory.
        blocked: the controller that works on it; empty if there is none.
    """

    def found(problem: str, remedy: str, repair: Callable[[], object]) -> Diagnosis:
        def lock() -> object:
            return hold(run_dir, say=lambda text: None)

        text = f"{run_dir.name}: {problem}"
        return Diagnosis(run_dir, text, remedy, repair, lock, blocked)  # type: ignore[arg-type]

    holder = owner(run_dir)
    if holder is not None:  # taking the lease ends the old one
        problem = f"the lease of {holder.who}, which has ended, was never released"
        yield found(problem, "release it", lambda: None)
    yield from _journal(run_dir / "journal.jsonl", found)
    status = read_status_or_none(run_dir)
    if status is not None and status.state == RunState.RUNNING:
        stopped = dataclasses.replace(status, state=RunState.STOPPED, message=GONE)
        content = json.dumps(stopped.to_dict())
        yield found(
            "its status says running, and no process is there",
            "write that it was stopped",
            lambda: write_atomically(run_dir / STATUS_FILE, content),
        )
    results = run_dir / "results.json"
    if results.exists() and not _is_list(results):
        yield found(
            "results.json cannot be read",
            "set it aside: the same command scores the run again",
            lambda: set_aside(results),
        )
    leftovers = [
        path
        for path in run_dir.rglob("*.tmp")
        if path.is_file() and time.time() - path.stat().st_mtime > LEFTOVER_S
    ]
    if leftovers:
        size = sum(path.stat().st_size for path in leftovers) / 1e6
        names = ", ".join(str(path.relative_to(run_dir)) for path in leftovers[:3])
        yield found(
            f"{len(leftovers)} half-written file(s) of a killed process ({size:.1f} MB)",
            f"remove {names}{' ...' if len(leftovers) > 3 else ''}",
            lambda: _remove(leftovers),
        )


def journal_damage(path: Path) -> tuple[int, list[int]]:
    """Returns (bytes of a torn last line, numbers of damaged complete lines, from 1)."""
    if not path.exists():
        return 0, []
    damaged, torn = [], 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                torn = len(line)
            elif not _is_object(line):
                damaged.append(number)
    return torn, damaged


Found = Callable[[str, str, Callable[[], object]], Diagnosis]


def _journal(journal: Path, found: Found) -> Iterator[Diagnosis]:
    torn, damaged = journal_damage(journal)
    if damaged:
        lines = ", ".join(str(number) for number in damaged[:5])
        yield found(
            f"journal.jsonl is damaged in line {lines}{', ...' if len(damaged) > 5 else ''}",
            "replace these lines by remarks of the same length; the damaged file is kept",
            lambda: _blank(journal, damaged),
        )
    if torn:
        yield found(
            f"the last line of journal.jsonl is torn ({torn} bytes)",
            "remove it",
            lambda: os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1),
        )


def _blank(path: Path, numbers: list[int]) -> None:
    """Replaces lines by remarks of the same length, so that positions in checkpoints stay valid.

    A line too short for a remark is removed.
    """
    shutil.copyfile(path, path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"))
    lines: list[bytes | None] = [*path.read_bytes().split(b"\n")]
    for number in numbers:
        length = len(lines[number - 1] or b"")
        fitting = [remark for remark in REMARKS if len(remark) <= length]
        lines[number - 1] = fitting[0].ljust(length) if fitting else None
    write_atomically(path, b"\n".join(line for line in lines if line is not None))


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _is_list(path: Path) -> bool:
    try:
        return isinstance(read_json(path, list), list)
    except (OSError, DamagedFile):
        return False
