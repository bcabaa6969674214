"""Faults of one attempt at a run: disturbances while it runs, and files spoilt after it."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from tests.import_graph import ROOT

# An attempt that takes longer hangs: so many times the undisturbed one, or so many seconds.
LONGEST_RATIO, LONGEST_S, LONGEST_FIRST_S = 20.0, 300.0, 1800.0
IN_USE = 2  # exit status of an attempt that finds the run taken
SHIFTS = (-86_400.0, -600.0, -3.0, 3.0, 600.0, 86_400.0)  # seconds of a wrong clock
PROCESS = "import time\n{shift}from simvtp.__main__ import main\nraise SystemExit(main({words!r}))"
SHIFTED = (
    "_true, _true_ns = time.time, time.time_ns\n"
    "time.time = lambda: _true() + {seconds}\n"
    "time.time_ns = lambda: _true_ns() + int({seconds} * 1e9)\n"
)


class Fault(StrEnum):
    """A fault of an attempt.

    Attributes:
        KILL: SIGKILL at a random moment.
        STOP: SIGTERM at a random moment: the attempt saves and ends.
        FREEZE: SIGSTOP for some seconds; meanwhile a second attempt starts, then the first goes on.
        SECOND: a second attempt starts at a random moment and must leave the first alone.
        FULL_DISK: no file can grow beyond a random size.
        CLOCK: the attempt's clock is wrong, and it is killed.
        FLIP: killed; then some bytes of one of the run's files are others.
        CUT: killed; then one of the run's files ends earlier.
        NULS: killed; then one of the run's files ends with NUL bytes, as after a power failure.
    """

    KILL = "kill"
    STOP = "stop"
    FREEZE = "freeze"
    SECOND = "second attempt"
    FULL_DISK = "full disk"
    CLOCK = "clock"
    FLIP = "flip"
    CUT = "cut"
    NULS = "nuls"


KILLED_FIRST = (Fault.KILL, Fault.CLOCK, Fault.FLIP, Fault.CUT, Fault.NULS)


@dataclass(frozen=True)
class AttemptEnd:
    """The end of an attempt.

    Attributes:
        status: exit status; negative: the signal.
        output: of the attempt.
        notes: of the fault: the file that was spoilt, the shift of the clock, ...
    """

    status: int
    output: str
    notes: str = ""


@dataclass
class Attempts:
    """Starts attempts at one run.

    Attributes:
        words: the command line behind `python -m simvtp`.
        run_dir: of the run.
        seconds: length of an undisturbed attempt; moments are drawn from it.
        faults: what each attempt so far suffered.
    """

    words: list[str]
    run_dir: Path
    seconds: float
    faults: list[str] = field(default_factory=list)

    @property
    def longest_s(self) -> float:
        """Returns the seconds after which an attempt hangs; more where none was timed yet."""
        return max(LONGEST_S, LONGEST_RATIO * self.seconds) if self.seconds else LONGEST_FIRST_S

    def undisturbed(self) -> AttemptEnd:
        """Returns the end of an attempt that nothing disturbs."""
        return _end_of(self._start(), self.longest_s)

    def disturbed(self, fault: Fault, random_: random.Random) -> AttemptEnd:
        """Returns the end of an attempt that suffers `fault`."""
        if fault is Fault.FULL_DISK:
            limit = random_.choice((2_000, 20_000, 60_000, 200_000, 600_000))
            end = _end_of(self._start(file_limit=limit), self.longest_s)
            return AttemptEnd(end.status, end.output, f"files of at most {limit} bytes")
        shift = random_.choice(SHIFTS) if fault is Fault.CLOCK else 0.0
        process = self._start(shift)
        _wait(process, random_.uniform(0.05, 1.0) * self.seconds)
        notes = f"clock {shift:+g} s" if shift else ""
        if fault in KILLED_FIRST:
            process.kill()
        elif fault is Fault.STOP:
            process.terminate()
        else:
            notes = self._with_second(process, frozen=fault is Fault.FREEZE, random_=random_)
        end = _end_of(process, self.longest_s)
        if fault in SPOILERS:
            notes = spoil_a_file(self.run_dir, SPOILERS[fault], random_)
        return AttemptEnd(end.status, end.output, notes)

    def _with_second(
        self, process: subprocess.Popen[str], *, frozen: bool, random_: random.Random
    ) -> str:
        """Starts a second attempt, which may not work while the first one is alive."""
        if process.poll() is not None:
            return "too late"
        if frozen:
            process.send_signal(signal.SIGSTOP)
        second = self._start()
        _wait(second, random_.uniform(1.0, self.seconds))
        if frozen:
            process.send_signal(signal.SIGCONT)
        process.wait(self.longest_s)
        end = _end_of(second, self.longest_s)
        return f"the second one ended with {end.status}"

    def _start(self, shift: float = 0.0, file_limit: int = 0) -> subprocess.Popen[str]:
        clock = SHIFTED.format(seconds=shift) if shift else ""
        program = PROCESS.format(shift=clock, words=self.words)
        limit: Callable[[], None] | None = None
        if file_limit:
            # Python ignores SIGXFSZ, so a longer file is an OSError as on a full disk
            limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))  # noqa: E731
        return subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=limit,
        )


def _wait(process: subprocess.Popen[str], seconds: float) -> None:
    """Waits that long, or until the process ends."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)


def _end_of(process: subprocess.Popen[str], longest_s: float) -> AttemptEnd:
    try:
        output, _ = process.communicate(timeout=longest_s)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        output += f"\nhung: it did not end within {longest_s:.0f} s"
    return AttemptEnd(process.returncode, output)


# ---- files ---------------------------------------------------------------------------------------


def _flip(content: bytes, random_: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(min(64, len(changed))):
        changed[random_.randrange(len(changed))] ^= random_.randrange(1, 256)
    return bytes(changed)


def _cut(content: bytes, random_: random.Random) -> bytes:
    return content[: random_.randrange(len(content))]


def _nuls(content: bytes, random_: random.Random) -> bytes:
    kept = random_.randrange(len(content))
    return content[:kept] + bytes(len(content) - kept)


SPOILERS: dict[Fault, Callable[[bytes, random.Random], bytes]] = {
    Fault.FLIP: _flip,
    Fault.CUT: _cut,
    Fault.NULS: _nuls,
}


def spoil_a_file(
    run_dir: Path, spoil: Callable[[bytes, random.Random], bytes], random_: random.Random
) -> str:
    """Changes a random file of the run that is not empty; returns its name."""
    files = sorted(
        path for path in run_dir.rglob("*") if path.is_file() and path.stat().st_size > 0
    )
    if not files:
        return "no file yet"
    path = random_.choice(files)
    path.write_bytes(spoil(path.read_bytes(), random_))
    return str(path.relative_to(run_dir))
