"""Progress of long preparations as lines of text, and requests to stop them."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable
from typing import IO, Any

LogFn = Callable[[str], None]
# Raises if the process was asked to stop. What is prepared by then stays; the next call makes
# the rest.
CancelCheck = Callable[[], None]
LOG_EVERY_S = 2.0
LOCK_EVERY_S = 0.2


def never_cancelled() -> None:
    """Never cancels."""


def wait_for_lock(file: IO[Any], check: CancelCheck) -> None:
    """Waits for another process to release the lock of `file`.

    A plain `flock` call would go on waiting after a signal.
    """
    while True:
        check()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(LOCK_EVERY_S)


def throttled_progress(
    log: LogFn, check: CancelCheck = never_cancelled
) -> Callable[[str, int, int], None]:
    """Returns report(what, done, total), which logs now and then, and at the end.

    Each report also calls `check`. A total of 0 is unknown.
    """
    last = time.monotonic()

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        check()
        if done == total or time.monotonic() - last > LOG_EVERY_S:
            last = time.monotonic()
            log(f"{what}: {done} of {total}" if total else f"{what}: {done}")

    return report
