"""Long preparations: progress as lines of text now and then, and an ear for requests to stop."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable
from typing import IO, Any

Say = Callable[[str], None]
Check = Callable[
    [], None
]  # raises if the process was asked to stop; what is prepared so far stays, the next call makes the rest
SAY_EVERY_S = 2.0
LOCK_EVERY_S = 0.2


def unasked() -> None:
    """The check of a process that nobody asks to stop."""


def wait_for_lock(file: IO[Any], check: Check) -> None:
    """Wait for another process to release the lock of `file`. (A plain flock call would go on
    waiting after a signal.)
    """
    while True:
        check()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(LOCK_EVERY_S)


def spoken(say: Say, check: Check = unasked) -> Callable[[str, int, int], None]:
    """Progress as a line of text now and then, and at the end; each report also asks `check`."""
    last = time.monotonic()

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        check()
        if done == total or time.monotonic() - last > SAY_EVERY_S:
            last = time.monotonic()
            say(f"{what}: {done} of {total}")

    return report
