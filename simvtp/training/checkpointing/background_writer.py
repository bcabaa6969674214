"""Files are written by a thread of its own, one at a time, so that training goes on meanwhile.

What is written is a copy on the host, taken between two steps: what training does afterwards does
not reach it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor

_LOG = logging.getLogger(__name__)


def snapshot(value: Any) -> Any:
    """The same nest of dictionaries and lists with every tensor copied to the host."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(snapshot(item) for item in value)
    return value


class Writer:
    """One write at a time. An error of the thread is kept and raised to whoever calls `wait` or
    `submit` next.

    The thread is no daemon: a process that ends by an error finishes its write first.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def failed(self) -> bool:
        """Whether a write has failed, without waiting for one under way."""
        return self._error is not None

    def submit(self, work: Callable[[], object]) -> None:
        """Begin `work`, when the write before has ended. Raises what that one raised, and then
        begins nothing.
        """
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(work,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is being written any more; raises what the last write raised, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def settle(self) -> None:
        """As `wait`, where another error is on its way already: one of the write is only logged."""
        try:
            self.wait()
        except Exception as error:
            _LOG.error("%s", error)

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # whatever it is, it belongs to the thread that trains
            self._error = error
