"""Progress of long preparations, as lines of text now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

Say = Callable[[str], None]
SAY_EVERY_S = 2.0


def spoken(say: Say) -> Callable[[str, int, int], None]:
    """Progress as a line of text now and then, and at the end."""
    last = time.monotonic()

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > SAY_EVERY_S:
            last = time.monotonic()
            say(f"{what}: {done} of {total}")

    return report
