"""The durable record of a run: one JSON object a line, appended, never edited.

The journal is the truth; the tracker is a mirror of it. A checkpoint stores the journal's length,
so a run that is continued from that checkpoint first cuts the journal back to it: no gap, no
duplicate, whatever was killed when. A line that was torn by a crash is dropped when the journal is
opened again.

Line kinds: `metrics` {"stage", "step", "metrics": {name: number}}, `result` {"result": {...}},
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

TAIL_BYTES = 4096  # of the journal, to know it again by


def write_atomically(
    path: Path, content: bytes | str, guard: Callable[[], None] | None = None
) -> None:
    """Write to a temporary neighbour, flush it to disk, rename: the file is whole or absent. A full
    disk raises UserError.

    `guard` is called right before the rename and may raise to prevent it (see `simvtp.runs.lease`).
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if guard is not None:
            guard()
        os.replace(temporary, path)
    except UserError:
        temporary.unlink(missing_ok=True)
        raise
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another runtime.root."
        ) from error


def read_json(path: Path) -> Any:
    """The content of a JSON file written by `write_atomically`."""
    return json.loads(path.read_text())


def _allowed() -> None:
    return None


class Journal:
    """Appends lines to `path`; creates it if needed and cuts off a torn last line.

    `guard` is called before each change and raises if this process may not write any more (see
    `simvtp.runs.lease`).
    """

    def __init__(self, path: Path, guard: Callable[[], None] = _allowed) -> None:
        self.path, self._guard = path, guard
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        whole = path.read_bytes().rfind(b"\n") + 1
        if whole != path.stat().st_size:
            os.truncate(path, whole)
        self._file = open(path, "ab+")  # noqa: SIM115  (open for the life of the run)

    def write(self, kind: str, **fields: Any) -> None:
        """Append one line and hand it to the operating system."""
        self._guard()
        line = (
            json.dumps({"kind": kind, "time": time.time(), **fields}, separators=(",", ":")) + "\n"
        )
        try:
            self._file.write(line.encode())
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror or error}; free some space and start again."
            ) from error

    def length(self) -> int:
        """Bytes written so far, after forcing them to disk."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror or error}; free some space and start again."
            ) from error
        return os.fstat(self._file.fileno()).st_size

    def mark(self) -> dict[str, Any]:
        """The present end of the journal: {"length", "tail": sha256 of the bytes before it}. A
        checkpoint stores it.
        """
        length = self.length()
        return {"length": length, "tail": self._tail(length)}

    def matches(self, mark: Mapping[str, Any]) -> bool:
        """Whether `mark` was taken of this journal: not of one that another attempt has written."""
        length = int(mark["length"])
        return length <= self.length() and self._tail(length) == mark["tail"]

    def _tail(self, length: int) -> str:
        start = max(0, length - TAIL_BYTES)
        return hashlib.sha256(os.pread(self._file.fileno(), length - start, start)).hexdigest()

    def cut_back(self, length: int) -> None:
        """Forget what was written after `length` (a value that `length()` returned). Acts on the
        open file, not on its name: the journal of an attempt that has taken over stays as it is."""
        self._guard()
        self._file.flush()
        os.ftruncate(self._file.fileno(), length)

    def close(self) -> None:
        self._file.close()


def read_journal(path: Path, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (offset after the line, line) for each whole line from byte `start`; a torn last line
    is left out.
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
