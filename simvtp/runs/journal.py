"""The durable record of a run: one JSON object a line, appended, never edited.

The journal is the truth; the tracker is a mirror of it. A checkpoint stores the position that the
journal had reached, so a run that is continued from that checkpoint first truncates the journal to
it: no gap, no duplicate, whatever was killed when. A line that was torn by a crash is dropped when
the journal is opened again.

Kinds of lines: `metrics` {"stage", "step", "metrics": {name: number}}, `result` {"result": {...}},
`event` {"message", ...}; each has "kind" and "time" (seconds since 1970).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from simvtp.errors import UserError

TAIL_BYTES = 4096  # bytes before a position whose digest identifies the journal


def _always_owned() -> None:
    """Ownership check of a process that nobody can replace."""


class Journal:
    """Appends lines to a file; creates it if needed and drops a torn last line.

    Args:
        path: the file.
        check_ownership: called before each change; raises if this process may not write any more
            (see `simvtp.runs.lease`).
    """

    def __init__(self, path: Path, check_ownership: Callable[[], None] = _always_owned) -> None:
        self.path, self._check_ownership = path, check_ownership
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        complete = path.read_bytes().rfind(b"\n") + 1
        if complete != path.stat().st_size:
            os.truncate(path, complete)
        self._file = open(path, "ab+")  # noqa: SIM115  (open for the life of the run)

    def write(self, kind: str, **fields: Any) -> None:
        """Appends one line and hands it to the operating system. Raises UserError if it cannot."""
        self._check_ownership()
        line = json.dumps({"kind": kind, "time": time.time(), **fields}, separators=(",", ":"))
        try:
            self._file.write(f"{line}\n".encode())
            self._file.flush()
        except OSError as error:
            raise self._cannot_write(error) from error

    def length(self) -> int:
        """Returns the bytes written so far, after forcing them to disk; raises UserError."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._cannot_write(error) from error
        return os.fstat(self._file.fileno()).st_size

    def position(self) -> dict[str, Any]:
        """Returns a token of the present end, for a checkpoint to store.

        Its values are `length`, in bytes, and `tail`, the sha256 of the bytes before it.
        """
        length = self.length()
        return {"length": length, "tail": self._tail(length)}

    def matches(self, position: Mapping[str, Any]) -> bool:
        """Returns True if `position` was taken of this journal, not of another attempt's."""
        length = int(position["length"])
        return length <= self.length() and self._tail(length) == position["tail"]

    def truncate(self, length: int) -> None:
        """Drops what was written after `length` (a value that `length()` returned).

        Acts on the open file, not on its name: the journal of an attempt that has taken over stays
        as it is.
        """
        self._check_ownership()
        self._file.flush()
        os.ftruncate(self._file.fileno(), length)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _tail(self, length: int) -> str:
        start = max(0, length - TAIL_BYTES)
        return hashlib.sha256(os.pread(self._file.fileno(), length - start, start)).hexdigest()

    def _cannot_write(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write {self.path}: {error.strerror or error}; "
            "free some space and run the command again."
        )


def read_journal(path: Path, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (offset after the line, line) for each complete line from byte `start`.

    A torn last line is left out; a missing file has no lines. Raises ValueError at a line that is
    not JSON.
    """
    if not path.exists():
        return
    with open(path, "rb") as file:
        file.seek(start)
        offset = start
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            offset += len(raw)
            yield offset, json.loads(raw)
