"""Writes files in a background thread, one at a time, while training continues.

A copy on the host is written, taken between two steps: later steps do not change it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor

_LOG = logging.getLogger(__name__)


def snapshot(value: Any) -> Any:
    """Returns a nest of dictionaries and lists with every tensor copied to the host."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(snapshot(item) for item in value)
    return value


class Writer:
    """Writer of one file at a time in a background thread.

    An error of the thread is raised by the next call of `wait` or `submit`. The thread is no
    daemon: a process that ends by an error finishes its write first.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def failed(self) -> bool:
        """True if a write has failed; does not wait for one in progress."""
        return self._error is not None

    def submit(self, work: Callable[[], object]) -> None:
        """Starts `work` when the previous write has ended.

        Raises the error of the previous write, and then starts nothing.
        """
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(work,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Waits for the write in progress; raises the error of the last write, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def drain(self) -> None:
        """Waits for the write in progress and only logs its error: another one is being raised."""
        try:
            self.wait()
        except Exception as error:
            _LOG.error("%s", error)

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # any error: it is raised in the training thread
            self._error = error
