"""Processes of this machine, identified by process id and start time.

Included are those inside the namespaces of the cluster's nodes.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T],
    seconds: float,
    what: str,
    every: float = 0.1,
    details: Callable[[], str] | None = None,
) -> T:
    """Poll until `condition` returns something true, and return it.

    Raises: AssertionError: it did not within `seconds`; the message holds `what` and, if given,
        `details()`.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(
                f"{what}: not within {seconds:.0f} s" + (f"\n{details()}" if details else "")
            )
        time.sleep(every)
    return found


def started(pid: int) -> int:
    """Returns when a process started, in clock ticks since the boot; 0 if there is none.

    A zombie counts as none.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def parent(pid: int) -> int:
    """Process id of the parent as this machine counts; 0 if there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def name(pid: int) -> str:
    """The short name of a process, or ""."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def command(pid: int) -> str:
    """The command line of a process, or ""."""
    try:
        return (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode(errors="replace")
            .strip()
        )
    except OSError:
        return ""


def environment(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty if it is gone."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return {key: value for key, sign, value in (word.partition("=") for word in words) if sign}


def all_pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def in_namespace_of(pid: int) -> list[int]:
    """All processes in the process namespace of `pid`, by the ids that they have outside of it."""
    found = []
    try:
        wanted = os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return []
    for other in all_pids():
        try:
            if os.readlink(f"/proc/{other}/ns/pid") == wanted:
                found.append(other)
        except OSError:
            continue  # it went away meanwhile
    return found


def send(pid: int, number: int) -> None:
    """Send a signal; a process that is gone already is fine."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


@dataclass(frozen=True)
class Recorded:
    """A process recorded in a file, so that another program can find it."""

    path: Path

    def write(self, pid: int) -> None:
        self.path.write_text(json.dumps({"pid": pid, "started": started(pid)}))

    @property
    def pid(self) -> int:
        """0 if it does not live."""
        try:
            record = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return 0
        return int(record["pid"]) if started(record["pid"]) == record["started"] > 0 else 0

    def end(self, number: int = signal.SIGKILL, seconds: float = 30) -> None:
        """Send the signal and wait until the process is gone."""
        if self.pid:
            send(self.pid, number)
        wait_until(lambda: not self.pid, seconds, f"the end of {self.path.stem}", every=0.02)
        self.path.unlink(missing_ok=True)
