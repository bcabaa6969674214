"""Finished parts of a long evaluation, kept on the disk: one that was killed continues with them.

A part covers whole batches, so it holds the same values wherever it was cut, and a run that goes on
with other ranks uses the parts that fit. Each file is `<call>_<first>_<last>.part`: the number of
the call of `over_ranks` in the stage, the items, and in it the SHA-256 of the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar, cast

import torch

from simvtp.runs.atomic_files import write_atomically

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
FIRST_UNITS = 8  # units of the first part, whose duration decides the size of the next
PART_S = 60.0  # wanted duration of a part
KEPT_FROM_S = 10.0  # parts that took less are not written: they are soon made again
DIGEST_BYTES = hashlib.sha256().digest_size


class KeptParts:
    """Parts of the evaluation in progress; outside of `stage` nothing is cut or kept."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._check: Callable[[], None] | None = None
        self._calls = 0

    @contextlib.contextmanager
    def stage(self, folder: Path, check_ownership: Callable[[], None]) -> Iterator[None]:
        """Keeps the parts of the block in `folder`, whose name says what is evaluated.

        Args:
            check_ownership: see `write_atomically`.
        """
        self._folder, self._check, self._calls = folder, check_ownership, 0
        try:
            yield
        finally:
            self._folder = None

    def run(self, mine: range, unit: int, work: Callable[[range], T]) -> list[T]:
        """Returns `work` of some items in order, in one part or in several; see `over_ranks`."""
        if self._folder is None:
            return [work(mine)] if mine else []
        self._calls += 1
        parts, first, units = [], mine.start, FIRST_UNITS
        stored = self._stored()
        while first < mine.stop:
            last = stored.get(first, mine.stop + 1)
            part = cast(T | None, self._read(first, last)) if last <= mine.stop else None
            if part is None:
                others = [start for start in stored if start > first]
                last = min([mine.stop, first + units * unit, *others])
                began = time.perf_counter()
                part = work(range(first, last))
                took = time.perf_counter() - began
                self._write(first, last, part, took)
                units = max(1, int(units * min(8.0, PART_S / max(took, 1e-3))))
            parts.append(part)
            first = last
        return parts

    def _stored(self) -> dict[int, int]:
        """Returns the parts of this call that are on the disk, {first: last}."""
        assert self._folder is not None
        names = [path.stem.split("_") for path in self._folder.glob(f"{self._calls}_*.part")]
        return {int(first): int(last) for _, first, last in names}

    def _path(self, first: int, last: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{self._calls}_{first}_{last}.part"

    def _read(self, first: int, last: int) -> object:
        """Returns a part from the disk; None if it is damaged, which is logged."""
        path = self._path(first, last)
        content = path.read_bytes()
        digest, data = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if hashlib.sha256(data).digest() != digest:
            _LOG.warning("damaged: %s; this part of the evaluation is computed again.", path)
            return None
        return torch.load(io.BytesIO(data), weights_only=True)

    def _write(self, first: int, last: int, part: object, took: float) -> None:
        if took >= KEPT_FROM_S:
            buffer = io.BytesIO()
            torch.save(part, buffer)
            data = buffer.getvalue()
            content = hashlib.sha256(data).digest() + data
            write_atomically(self._path(first, last), content, self._check)


def remove_parts(folder: Path) -> None:
    """Removes the parts of a stage that has ended."""
    shutil.rmtree(folder, ignore_errors=True)
