"""Stops a run on a signal: the handler sets a flag, which the loop reads between two steps.

A handler that raised instead would be swallowed wherever it interrupts code that catches
everything, such as logging.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from simvtp.errors import Stopped, StopReason

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


class StopFlag:
    """Flag that is False until the process is asked to stop.

    Attributes:
        reason: who or what asked, for people; empty while nobody has.
        cause: the same for programs; None if it is not known.
    """

    def __init__(self) -> None:
        self.reason = ""
        self.cause: StopReason | None = None

    def __bool__(self) -> bool:
        return bool(self.reason)

    def set(self, reason: str, cause: StopReason | None = None) -> None:
        """Asks the process to stop."""
        self.reason, self.cause = reason, cause

    def check(self) -> None:
        """Raises Stopped if the flag is set.

        For work between training steps, which the next attempt repeats.
        """
        if self.reason:
            raise Stopped(f"stopped ({self.reason}); the same command continues there.", self.cause)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Gives a flag that SIGTERM, SIGUSR1, SIGUSR2 and SIGINT set; restores the handlers at the end.

    A second SIGINT (Ctrl-C) raises KeyboardInterrupt at once: checkpoints are complete or absent,
    so at most the steps since the last one are lost. A forked child (a loader worker) inherits the
    handler: there SIGTERM ends the child as usual, and the others are ignored, because the parent
    decides when its workers stop. Signals that the parent process had blocked are received inside
    the block. To be called in the main thread.
    """
    flag = StopFlag()
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if flag and number == signal.SIGINT:
            raise KeyboardInterrupt
        flag.set(signal.Signals(number).name, StopReason.of_signal(number))

    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    try:
        yield flag
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
