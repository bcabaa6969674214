"""The attempts at a run, as the files in its `lease/` folder record them.

00000002.json        the owner: who, where, since when; touched every few seconds
00000001.ended.json  an attempt that is over, with the time of its end
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.process_identity import machine_id, process_start

LEASE_FOLDER = "lease"
_OWNER = re.compile(r"(\d{8})\.json")
_ANY = re.compile(r"(\d{8})\.(?:ended\.)?json")


@dataclass(frozen=True)
class Attempt:
    """One attempt at a run.

    Attributes:
        token: number of the attempt, from 1; the highest one owns the directory.
        host: its machine.
        pid: its process.
        pid_started: start time of the process (`process_identity.process_start`).
        job: id of its SLURM job; empty without one.
        restart: how often SLURM has started that job again.
        gpus: GPUs that were reserved for it.
        began: time of its start, by the clock of its machine, seconds since 1970.
        ended: time of its end; None while its file says that it goes on.
        last_beat: modification time of its file. Only its changes mean something: it comes from
            the clock of another machine.
        slurm: what SLURM said of the job.
        cores: cores that its process may use; 0 if unknown.
        machine: boot and process namespace of its machine (`process_identity.machine_id`).
    """

    token: int
    host: str
    pid: int
    pid_started: float
    job: str
    restart: int
    gpus: int
    began: float
    ended: float | None
    last_beat: float
    slurm: Mapping[str, str]
    machine: str = ""
    cores: int = 0

    @property
    def asked_cores(self) -> int:
        """Returns the cores that its SLURM job asked for each process; 0 without one."""
        asked = self.slurm.get("SLURM_CPUS_PER_TASK", "")
        return int(asked) if asked.isdigit() else 0

    @property
    def who(self) -> str:
        """Returns `job 12 on n1`, or `process 77 on laptop`."""
        name = f"job {self.job}" if self.job else f"process {self.pid}"
        return f"{name} on {self.host}"


def attempts(directory: Path) -> list[Attempt]:
    """Returns all attempts at a run, oldest first; unreadable files are left out."""
    found = [attempt for path in _files(directory, _ANY) if (attempt := read_attempt(path))]
    found.sort(key=lambda attempt: (attempt.token, attempt.ended is not None))
    return list({attempt.token: attempt for attempt in found}.values())


def newest_attempt(directory: Path) -> Attempt | None:
    """Returns the newest readable attempt, ended or not; None if there is none."""
    return next(iter(reversed(attempts(directory))), None)


def owner(directory: Path) -> Attempt | None:
    """Returns the attempt that owns the directory, alive or not; None if the newest has ended."""
    newest = newest_attempt(directory)
    return newest if newest is not None and newest.ended is None else None


def newest_token(directory: Path) -> int:
    """Returns the number of the newest attempt, ended or not; 0 if there is none."""
    names = (path.name for path in _files(directory, _ANY))
    return max((int(found[1]) for name in names if (found := _ANY.fullmatch(name))), default=0)


def owner_files(directory: Path) -> list[tuple[int, Path]]:
    """Returns (token, file) of the attempts that have not ended, by token."""
    files = _files(directory, _OWNER)
    return [(int(found[1]), path) for path in files if (found := _OWNER.fullmatch(path.name))]


def lease_file(directory: Path, token: int) -> Path:
    """Returns the file whose existence is the right of this attempt."""
    return directory / LEASE_FOLDER / f"{token:08d}.json"


def is_alive_here(attempt: Attempt) -> bool | None:
    """Returns True if the process of an attempt lives; None if this machine cannot know."""
    if attempt.host != socket.gethostname():
        return None
    if attempt.machine and attempt.machine != machine_id():
        return None  # another container or machine of the same name, or before a boot
    return process_start(attempt.pid) == attempt.pid_started > 0


def read_attempt(path: Path) -> Attempt | None:
    """Returns the record in a lease file; None if it is missing, empty or damaged."""
    try:
        # opened for each look: a file server then answers with the present modification time
        with open(path, encoding="utf-8") as file:
            beat, values = os.fstat(file.fileno()).st_mtime, json.load(file)
        return Attempt(
            token=int(values["token"]),
            host=str(values.get("host", "")),
            pid=int(values.get("pid", 0)),
            pid_started=float(values.get("pid_started", 0)),
            job=str(values.get("job", "")),
            restart=int(values.get("restart", 0)),
            gpus=int(values.get("gpus", 0)),
            began=float(values.get("began", beat)),
            ended=None if values.get("ended") is None else float(values["ended"]),
            last_beat=beat,
            slurm=dict(values.get("slurm", {})),
            machine=str(values.get("machine", "")),
            cores=int(values.get("cores", 0)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def end_attempt(directory: Path, token: int, at: float) -> None:
    """Records that an attempt is over, and takes its right away."""
    path = lease_file(directory, token)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError:  # killed, or the disk full, while it wrote its first line
        content = None
    record = {**(content if isinstance(content, dict) else {"token": token}), "ended": at}
    write_atomically(path.with_name(f"{token:08d}.ended.json"), json.dumps(record))
    path.unlink(missing_ok=True)
    for leftover in path.parent.glob(f".{token:08d}.*.tmp"):  # of a process that was killed here
        leftover.unlink(missing_ok=True)


def release_dead(directory: Path) -> bool:
    """Ends the lease of an owner that is known to be gone (for repairs); True if there was one."""
    now = owner(directory)
    if now is None:
        return False
    end_attempt(directory, now.token, now.last_beat)
    return True


def _files(directory: Path, pattern: re.Pattern[str]) -> list[Path]:
    try:
        entries = list((directory / LEASE_FOLDER).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(path for path in entries if pattern.fullmatch(path.name))
