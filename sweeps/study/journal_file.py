"""File of a study: Optuna's journal, written in batches and repaired if it is torn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileSymlinkLock

from simvtp.errors import UserError


class ReentrantLock(JournalFileSymlinkLock):
    """Optuna's lock file; its holder may acquire it again."""

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
    """Optuna's journal file, with batches.

    Inside `batch()` lines are buffered and appended together; the lock is held meanwhile, so that a
    line of another program (optuna-dashboard writes notes) cannot come between.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = ReentrantLock(str(path))
        self._file = JournalFileBackend(str(path), lock_obj=self._lock)
        self._lines = 0  # of the file, as far as they were counted
        self._buffer: list[dict[str, Any]] | None = None

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        buffer = self._buffer
        if buffer is None or log_number_from < self._lines:
            yield from self._file.read_logs(log_number_from)
        if buffer is not None:
            yield from buffer[max(0, log_number_from - self._lines) :]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._buffer is None:
            self._file.append_logs(logs)
        else:  # as they will be read from the file
            self._buffer += [json.loads(json.dumps(log)) for log in logs]

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Appends what is written inside at its end, also after an error.

        Memory and file must not differ.
        """
        if self._buffer is not None:
            yield
            return
        self._lock.acquire()
        try:
            self._count()
            buffer = self._buffer = []
            try:
                yield
            finally:
                self._buffer = None
                if buffer:
                    self._file.append_logs(buffer)
                    self._count()
        except OSError as error:
            raise UserError(
                f"cannot write {self._path}: {error.strerror or error}; "
                "free some space and start again."
            ) from error
        finally:
            self._lock.release()

    def _count(self) -> None:
        """Reads up to the end, so that the next reader starts there and not at the beginning."""
        self._lines += sum(1 for _ in self._file.read_logs(self._lines))


def repair_journal(path: Path) -> Literal["intact", "repaired", "damaged"]:
    """Drops a torn last line of an Optuna journal, atomically, and returns what was found.

    Only the last line may be dropped: trials are numbered by their position in the file, so without
    a line from the middle all later lines would mean the wrong trials. Such a file is `damaged` and
    left unchanged.
    """
    lines = path.read_bytes().splitlines(keepends=True)
    if not lines or (all(_is_json(line) for line in lines) and lines[-1].endswith(b"\n")):
        return "intact"
    if not all(_is_json(line) for line in lines[:-1]):
        return "damaged"
    # a last line that is JSON lacks only its line end
    last = lines[-1].rstrip(b"\n") + b"\n" if _is_json(lines[-1]) else b""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(b"".join([*lines[:-1], last]))
    temporary.replace(path)
    return "repaired"


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
