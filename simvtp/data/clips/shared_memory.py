"""Bytes and numbers that the processes of a loader share: mapped files, and memory.

All are handed to worker processes without a copy. Shared memory is Python's: a file without a name,
which goes when the last process that has it ends.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simvtp.errors import DataError


@dataclass
class MappedFile:
    """A file that is read through a memory map; each process opens it by its path.

    Its pages lie in the system's page cache, once for all processes, and may be taken away when
    memory is short.
    """

    path: Path
    _map: mmap.mmap | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_map": None}

    def view(self) -> memoryview:
        """Returns the bytes; DataError if the file is gone."""
        if self._map is None:
            try:
                with open(self.path, "rb") as file:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:  # ValueError: an empty file
                raise DataError(
                    f"{self.path} cannot be read ({error}); run the command again, "
                    "and it is made again."
                ) from error
        return memoryview(self._map)

    def release(self) -> None:
        """Gives the pages that this process looked at back to the page cache."""
        if self._map is not None:
            with contextlib.suppress(OSError, AttributeError):  # it only saves memory
                self._map.madvise(mmap.MADV_DONTNEED)


class SharedBytes:
    """Bytes in shared memory; can be pickled while a worker process is being started."""

    def __init__(self, content: bytes | bytearray | memoryview) -> None:
        self._array = multiprocessing.get_context("forkserver").RawArray("B", max(1, len(content)))
        self._size = len(content)
        self.view()[:] = content

    def view(self) -> memoryview:
        """Returns the bytes."""
        return memoryview(self._array).cast("B")[: self._size]

    def release(self) -> None:
        """Does nothing: these bytes lie nowhere else."""


class SharedInts:
    """Whole numbers from 0 on in shared memory, 4 bytes each while they are below 2**31."""

    def __init__(self, numbers: np.ndarray) -> None:
        top = int(numbers.max(initial=0))
        self._kind: type[np.signedinteger[Any]] = np.int32 if top < 2**31 else np.int64
        size = np.dtype(self._kind).itemsize
        self._count = len(numbers)
        self._array = multiprocessing.get_context("forkserver").RawArray(
            "B", max(1, len(numbers) * size)
        )
        self.array[:] = numbers

    def __len__(self) -> int:
        return self._count

    @property
    def array(self) -> np.ndarray:
        """Returns int32 or int64 [n], as a view of the shared memory."""
        return np.frombuffer(self._array, self._kind, self._count)
