"""Mirrors a run to MLflow in a background thread, and limits the time of a sweep's calls to it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from simvtp.config.experiment_config import RuntimeConfig
from simvtp.errors import UserError
from simvtp.tracking.address import (
    REPLAY,
    TrackerError,
    database_path,
    display_uri,
    resolve_uri,
)
from simvtp.tracking.mirror import Mirror
from simvtp.tracking.store import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

_TIMEOUT_REMOTE_S = 15.0
# a local file never hangs, but importing mlflow on a busy machine takes long
_TIMEOUT_LOCAL_S = 60.0
_LONGEST_END_S = 600.0


def with_timeout(store: Store, work: Callable[[], T]) -> T:
    """Returns `work()`; a local file is always waited for.

    mlflow tries a call several times: a server that falls silent would cost half a minute for each.

    Raises TrackerError once a server has made no progress for 15 s.
    """
    if database_path(store.uri) is not None:
        return work()
    found: list[T] = []
    errors: list[Exception] = []
    heartbeats = [time.monotonic()]

    def attempt() -> None:
        try:
            found.append(work())
        except Exception as error:  # raised again below, in the calling thread
            errors.append(error)

    store.heartbeat = lambda: heartbeats.append(time.monotonic())
    thread = threading.Thread(target=attempt, name="tracker-call", daemon=True)
    thread.start()
    while thread.is_alive() and time.monotonic() - heartbeats[-1] < _TIMEOUT_REMOTE_S:
        thread.join(0.1)
    if errors:
        raise errors[0]
    if not found:
        raise TrackerError(
            f"the tracker at {display_uri(store.uri)} did not answer for "
            f"{_TIMEOUT_REMOTE_S:.0f} s; nothing is lost, {REPLAY}."
        )
    return found[0]


class BackgroundMirror:
    """Context manager that mirrors a run directory every `runtime.sync_every_s` seconds.

    On leaving it mirrors a last time; write status.json before, so that this synchronisation sees
    how the run ended. It waits as long as the tracker makes progress. Errors of the tracker cost
    one warning in the log, whatever their number.

    Args:
        run_dir: the run directory.
        runtime: address and interval.
        timeout_s: seconds without progress after which leaving gives up; by default 15 for a
            server, 60 for a local file.

    Attributes:
        failures: number of errors so far.
    """

    def __init__(
        self, run_dir: Path, runtime: RuntimeConfig, *, timeout_s: float | None = None
    ) -> None:
        uri = resolve_uri(runtime)
        self.failures = 0
        self._on = uri is not None
        local = uri is not None and database_path(uri) is not None
        self._timeout_s = timeout_s or (_TIMEOUT_LOCAL_S if local else _TIMEOUT_REMOTE_S)
        self._run_dir = Path(run_dir)
        self._every = runtime.sync_every_s
        self._mirror = Mirror(self._run_dir, runtime, heartbeat=self._heartbeat)
        self._leaving = threading.Event()
        self._last_heartbeat = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="tracker-mirror", daemon=True)

    def __enter__(self) -> BackgroundMirror:
        if self._on:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._on:
            return
        self._leaving.set()
        start = self._last_heartbeat = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(0.1)
            now = time.monotonic()
            silent = now - self._last_heartbeat > self._timeout_s
            if self._thread.is_alive() and (silent or now - start > _LONGEST_END_S):
                self._warn(f"it did not answer for {self._timeout_s:.0f} s at the end of the run.")
                return

    def _heartbeat(self) -> None:
        self._last_heartbeat = time.monotonic()

    def _work(self) -> None:
        while not self._leaving.wait(self._every):
            self._attempt(final=False)
        self._attempt(final=True)

    def _attempt(self, *, final: bool) -> None:
        try:
            report = self._mirror.sync(final)
            for text in report.warnings:
                self._warn(text)
        except UserError as error:
            self._warn(str(error))
        # a defect in tracking must not end a training
        except Exception as error:
            log.debug("the mirror failed", exc_info=error)
            self._warn(f"{type(error).__name__}: {error}")

    def _warn(self, reason: str) -> None:
        self.failures += 1
        if self.failures == 1:
            log.warning(
                "the tracker is behind: %s The run goes on and its journal is complete; %s (%s).",
                reason,
                REPLAY,
                self._run_dir.parent,
            )
