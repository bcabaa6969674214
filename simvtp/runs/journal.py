"""The durable record of a run: one JSON object a line, appended, never edited.

The journal is the truth; the tracker is a mirror of it. A checkpoint stores the position that the
journal had reached, so a run that is continued from that checkpoint first truncates the journal to
it: no gap, no duplicate, whatever was killed when. A line that was torn by a crash is dropped when
the journal is opened again.

Kinds of lines: `metrics` {"stage", "step", "metrics": {name: number}}, `result` {"result": {...}},
`event` {"message", ...}; each has "kind" and "time" (seconds since 1970).
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from simvtp.runs.atomic_files import cannot_write, retry_io

READ_AT_ONCE = 2**20  # bytes
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
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            complete = retry_io(path.read_bytes, path).rfind(b"\n") + 1
            if complete != path.stat().st_size:
                os.truncate(path, complete)
            # open for the life of the run; unbuffered, so that a failed write can be repeated
            self._file = open(path, "ab+", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise cannot_write(path, error) from error
        self._synced = complete  # bytes that are on the disk for certain
        self._unsynced = bytearray()  # the bytes after them
        self._must_rewrite = False  # they may have been lost by the file system

    def write(self, kind: str, **fields: Any) -> None:
        """Appends one line and hands it to the operating system. Raises UserError if it cannot."""
        self._check_ownership()
        line = json.dumps({"kind": kind, "time": time.time(), **fields}, separators=(",", ":"))
        self._unsynced += f"{line}\n".encode()
        self._retry(lambda: self._append(len(line.encode()) + 1))

    def length(self) -> int:
        """Returns the bytes written so far, after forcing them to disk. Raises UserError."""
        self._retry(self._sync)
        return self._synced

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

        A journal that is shorter, or has no line that ends there, was damaged or copied while it
        was written: it is never extended, and an event notes the mismatch. Acts on the open file,
        not on its name: the journal of an attempt that has taken over stays as it is.
        """
        self._check_ownership()
        size = self.length()
        if length > size or (length and os.pread(self._file.fileno(), 1, length - 1) != b"\n"):
            self.write(
                "event",
                message=f"damaged: this journal has {size} bytes and no line that ends at byte "
                f"{length}, where a stage of the run ended; lines before this one are missing.",
            )
            return
        os.ftruncate(self._file.fileno(), length)
        self._synced = length

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _retry(self, action: Callable[[], None]) -> None:
        try:
            retry_io(action, self.path)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _append(self, count: int) -> None:
        """Writes the last `count` unsynced bytes; after a failure all of them."""
        if self._must_rewrite:
            self._rewrite()
            return
        self._must_rewrite = True  # until all is written
        self._write_all(bytes(self._unsynced[-count:]))
        self._must_rewrite = False

    def _sync(self) -> None:
        if self._must_rewrite:
            self._rewrite()
        # after a failed fsync the system counts the pages as clean: only writing them again helps
        self._must_rewrite = True
        os.fsync(self._file.fileno())
        self._must_rewrite = False
        self._synced = os.fstat(self._file.fileno()).st_size
        self._unsynced.clear()

    def _rewrite(self) -> None:
        os.ftruncate(self._file.fileno(), self._synced)
        self._write_all(bytes(self._unsynced))
        self._must_rewrite = False

    def _write_all(self, data: bytes) -> None:
        while data:
            data = data[self._file.write(data) :]

    def _tail(self, length: int) -> str:
        start = max(0, length - TAIL_BYTES)
        return hashlib.sha256(os.pread(self._file.fileno(), length - start, start)).hexdigest()


def read_journal(path: Path, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (offset after the line, line) for each complete line from byte `start`.

    A torn last line is left out; a missing file has no lines. Raises ValueError at a line that is
    not JSON.
    """
    if not path.exists():
        return
    offset = position = start
    rest = b""
    while chunk := retry_io(functools.partial(_chunk, path, position), path):
        position += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        for raw in lines:
            offset += len(raw) + 1
            yield offset, json.loads(raw)


def _chunk(path: Path, position: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(position)
        return file.read(READ_AT_ONCE)
