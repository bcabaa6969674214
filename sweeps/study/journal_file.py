"""The file of a study: Optuna's journal, written in batches and mended when it is torn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileSymlinkLock

from simvtp.errors import UserError


class Lock(JournalFileSymlinkLock):
    """Optuna's lock file, which its holder may take again."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._depth = 0

    def acquire(self) -> bool:
        self._depth += 1
        return self._depth > 1 or super().acquire()

    def release(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            super().release()


class JournalFile(BaseJournalBackend):
    """Optuna's journal file. Inside `batch()` lines are held back and appended together; the lock
    is held meanwhile, so that a line of another program (optuna-dashboard writes notes) cannot come
    between."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock(str(path))
        self._file = JournalFileBackend(str(path), lock_obj=self._lock)
        self._lines = 0  # of the file, as far as they were counted
        self._held: list[dict[str, Any]] | None = None

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        held = self._held
        if held is None or log_number_from < self._lines:
            yield from self._file.read_logs(log_number_from)
        if held is not None:
            yield from held[max(0, log_number_from - self._lines) :]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._held is None:
            self._file.append_logs(logs)
        else:
            self._held += [
                json.loads(json.dumps(log)) for log in logs
            ]  # as they will be read from the file

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Append what is written inside at its end, also if that ends with an error: memory and
        file must not differ.
        """
        if self._held is not None:
            yield
            return
        self._lock.acquire()
        try:
            self._count()
            held = self._held = []
            try:
                yield
            finally:
                self._held = None
                if held:
                    self._file.append_logs(held)
                    self._count()
        except OSError as error:
            raise UserError(
                f"cannot write {self._path}: {error.strerror or error}; free some space and start again."
            ) from error
        finally:
            self._lock.release()

    def _count(self) -> None:
        """Read up to the end, so that the next reader starts there and not at the beginning."""
        self._lines += sum(1 for _ in self._file.read_logs(self._lines))


def repair_journal(path: Path) -> Literal["whole", "mended", "damaged"]:
    """Drop a torn last line of an Optuna journal, in one step; say what was found.

    Only the last line may be dropped: trials are numbered by their place in the file, so without a
    line from the middle all later lines would speak of the wrong trials. Such a file is `damaged`
    and left as it is."""
    lines = path.read_bytes().splitlines(keepends=True)
    if not lines or (all(_is_json(line) for line in lines) and lines[-1].endswith(b"\n")):
        return "whole"
    if not all(_is_json(line) for line in lines[:-1]):
        return "damaged"
    last = (
        lines[-1].rstrip(b"\n") + b"\n" if _is_json(lines[-1]) else b""
    )  # complete but for its line end
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(b"".join([*lines[:-1], last]))
    temporary.replace(path)
    return "mended"


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
