"""Arrow files of columns: blocks of rows, each with its checksum, read where they lie.

A writer appends block after block, so that it holds one block in memory whatever the number of
rows. A reader opens a file in the time that its footer takes, finds a row by a division (all blocks
but the last have the same number of rows), and compares the checksum of a block when it first looks
at one of its rows. Nothing is copied but the values that are asked for.
"""

from __future__ import annotations

import io
import itertools
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from simvtp.data.clips.shared_memory import MappedFile, SharedBytes
from simvtp.errors import DataError, UserError

BLOCK_ROWS = 4096
# The system maps 16 pages around each one that is looked at.
MAPPED_AT_ONCE = 2**16
KEPT_MAPPED = 2**26  # bytes of a file that a process has mapped before it gives them back
KEPT_BLOCKS = 16  # whose columns a process keeps open: each costs 3 KB, and opens in 10 us
MANY = 8  # values of a block from which on they are taken by one call

Source = MappedFile | SharedBytes


def arrow() -> Any:
    """Returns pyarrow; imported late, for start-up time.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise UserError(
            f"pyarrow, which holds the clips of a data set, cannot be imported ({error}): "
            "install the packages of requirements.txt."
        ) from error
    return pyarrow


@dataclass(frozen=True)
class FileProof:
    """Ends and checksums of the blocks of a column file, by which it is known to be whole.

    Attributes:
        rows: of all blocks.
        block_rows: of each block but the last.
        ends: for each block the number of bytes up to its end; the last entry is the footer's, and
            with it the size of the file.
        checksums: CRC-32 of each block, and of the footer.
    """

    rows: int
    block_rows: int
    ends: tuple[int, ...]
    checksums: tuple[int, ...]

    def fits(self, content: memoryview, block: int) -> bool:
        """Returns whether a block (-1: the footer) has its checksum."""
        number = block % len(self.ends)
        begin = self.ends[number - 1] if number else 0
        return zlib.crc32(content[begin : self.ends[number]]) == self.checksums[number]

    def holds(self, source: Source) -> bool:
        """Returns whether the whole file has its size and checksums; reads all of it."""
        content = source.view()
        whole = len(content) == self.ends[-1] and all(
            self.fits(content, block) for block in range(len(self.ends))
        )
        source.release()
        return whole


class _Summed(io.RawIOBase):
    """Passes bytes on to a file and keeps their number and checksum."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0
        self.checksum = 0

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self._file.write(content)
        self.checksum = zlib.crc32(content, self.checksum)
        length = memoryview(content).nbytes
        self.size += length
        return length

    def tell(self) -> int:
        return self.size


class ColumnWriter:
    """Writes a column file.

    Args:
        file: open for writing.
        schema: of Arrow.
        block_rows: rows of each block.
    """

    def __init__(self, file: IO[bytes], schema: Any, block_rows: int = BLOCK_ROWS) -> None:
        self._schema, self.block_rows = schema, block_rows
        self._sink = _Summed(file)
        self._writer = arrow().ipc.new_file(self._sink, schema)
        self._rows = 0
        self._ends: list[int] = []
        self._checksums: list[int] = []

    def write(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Appends a block; only the last may have fewer rows than `block_rows`."""
        pa = arrow()
        arrays = [pa.array(columns[field.name], field.type) for field in self._schema]
        if self._rows % self.block_rows or len(arrays[0]) > self.block_rows:
            raise ValueError("a block that is not the last must have block_rows rows")
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._rows += len(arrays[0])
        self._note()

    def _note(self) -> None:
        self._ends.append(self._sink.size)
        self._checksums.append(self._sink.checksum)
        self._sink.checksum = 0

    def close(self) -> FileProof:
        """Writes the footer; returns what the file is known by."""
        self._writer.close()
        self._note()
        return FileProof(self._rows, self.block_rows, tuple(self._ends), tuple(self._checksums))


class ColumnFile:
    """Rows of a column file. Picklable: another process opens it where it lies.

    Args:
        source: its bytes.
        proof: as the writer gave it.
        name: what messages call it.

    Raises:
        DataError: it is not the file that was written.
    """

    def __init__(self, source: Source, proof: FileProof, name: str) -> None:
        self._source, self.proof, self.name = source, proof, name
        self._open()

    def _open(self) -> None:
        pa = arrow()
        self._content = self._source.view()
        if len(self._content) != self.proof.ends[-1] or not self.proof.fits(self._content, -1):
            self._refuse()
        self._reader = pa.ipc.open_file(pa.py_buffer(self._content))
        self.names: tuple[str, ...] = tuple(self._reader.schema.names)
        self._blocks: OrderedDict[int, list[Any]] = OrderedDict()  # the last used ones
        self._proven = bytearray(self._reader.num_record_batches)
        self._mapped = 0

    def __getstate__(self) -> tuple[Source, FileProof, str]:
        return self._source, self.proof, self.name

    def __setstate__(self, state: tuple[Source, FileProof, str]) -> None:
        self._source, self.proof, self.name = state
        self._open()

    def __len__(self) -> int:
        return self.proof.rows

    def value(self, column: str, row: int) -> Any:
        """Returns one value; DataError if its block is damaged."""
        block, place = divmod(row, self.proof.block_rows)
        return self._column(self.names.index(column), block)[place].as_py()

    def values(self, column: str, rows: np.ndarray) -> list[Any]:
        """Returns the values of some rows; rows in a row that lie in one block are read at once."""
        number, found = self.names.index(column), []
        blocks, places = np.divmod(rows, self.proof.block_rows)
        borders = [0, *(np.flatnonzero(np.diff(blocks)) + 1).tolist(), len(rows)]
        for begin, end in itertools.pairwise(borders):
            if begin == end:
                continue
            values = self._column(number, int(blocks[begin]))
            if end - begin < MANY:
                found += [values[place].as_py() for place in places[begin:end].tolist()]
            else:
                found += values.take(arrow().array(places[begin:end])).to_pylist()
                self._count_mapped(values.nbytes)
        return found

    def numbers(self, column: str) -> Iterator[np.ndarray]:
        """Yields a column of numbers, block by block.

        Checksums are not compared here: they are of whole blocks, and all of the file would be
        read. They are when a row of the block is looked at.
        """
        index = self.names.index(column)
        for block in range(len(self._proven)):
            yield self._arrays(block)[index].to_numpy(zero_copy_only=False)
        self._release()

    def _column(self, number: int, block: int) -> Any:
        if not self._proven[block]:
            if not self.proof.fits(self._content, block):
                self._refuse()
            self._proven[block] = 1
            before = self.proof.ends[block - 1] if block else 0
            self._count_mapped(self.proof.ends[block] - before)
        self._count_mapped(MAPPED_AT_ONCE)
        return self._arrays(block)[number]

    def _arrays(self, block: int) -> list[Any]:
        found = self._blocks.get(block)
        if found is None:
            found = self._blocks[block] = self._reader.get_batch(block).columns
            if len(self._blocks) > KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(block)
        return found

    def _count_mapped(self, size: int) -> None:
        self._mapped += size
        if self._mapped > KEPT_MAPPED:
            self._release()

    def _release(self) -> None:
        self._source.release()
        self._mapped = 0

    def _refuse(self) -> None:
        raise DataError(
            f"{self.name} is damaged (another size or checksum than it was written with); "
            "run the command again, and it is made again."
        )
