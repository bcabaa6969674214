"""Turns the rows of a manifest into columns of clips, with little memory for any number of rows.

First all rows are written down as they come, and for each row two hashes are kept: of its id and of
its file. Rows with equal ids are then found by sorting the hashes (`equal_keys`), and the clips are
written in the order in which their ids first appear, each with the captions of all its rows. So a
row costs some 40 bytes of memory while the table is read, and none afterwards.
"""

from __future__ import annotations

import itertools
import os
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from simvtp.data.clips import ClipFields, ClipWriter, ColumnFile, ColumnWriter, FileProof
from simvtp.data.clips.clip_columns import SPLIT_NAMES, decoded, encoded, located
from simvtp.data.clips.column_file import BLOCK_ROWS, arrow
from simvtp.data.manifest.equal_keys import first_equal
from simvtp.data.manifest.manifest_facts import ManifestFacts
from simvtp.data.manifest.splits import SPLITS, hash_unit
from simvtp.data.manifest.table_cells import OPTIONAL, Cells, OpenTable
from simvtp.data.progress import CancelCheck, LogFn, never_cancelled, throttled_progress
from simvtp.data.text.placeholder_captions import says_nothing
from simvtp.errors import DataError

TEXTS = ("id", "place", "caption", "split", "start_s", "end_s")
COMPARED = ("place", "split", "start_s", "end_s")  # what all rows of an id must agree in

HashText = Callable[[str], int]
# The rows that were written down, once they are complete.
ReopenRows = Callable[[FileProof], ColumnFile]


@dataclass(frozen=True)
class BuildOptions:
    """Settings of a build of columns.

    Attributes:
        say: takes progress.
        check: called now and then; may raise to end the work.
        hash_text: hash of a text, 64 bits; the same for equal texts in this process.
        block_rows: rows of a block of columns.
    """

    say: LogFn = lambda line: None
    check: CancelCheck = never_cancelled
    hash_text: HashText = hash
    block_rows: int = BLOCK_ROWS


def build_columns(
    table: OpenTable,
    folder: Path,
    clips: IO[bytes],
    rows: IO[bytes],
    reopen: ReopenRows,
    options: BuildOptions,
) -> tuple[FileProof, ManifestFacts]:
    """Writes the columns of a table's clips; returns what their file is known by, and the facts.

    Args:
        table: at its first row.
        folder: of the table; paths are relative to it.
        clips: takes the columns.
        rows: takes the rows as they come.
        reopen: returns these when they are complete.
        options: of the work.

    Raises:
        DataError: a row does not add up, with its line.
    """
    log, proof = _log_rows(table, rows, folder, options)
    builder = ClipBuilder(table, log, reopen(proof), folder)
    written = builder.write(clips, options)
    return written, builder.facts()


class CaptionState(IntEnum):
    """Content of a row's caption."""

    EMPTY = 0
    PLACEHOLDER = 1
    SAID = 2


class RowLog:
    """Takes the rows of a table in their order, and writes them down.

    Args:
        table: whose rows they are.
        file: takes them.
        folder: the table's.
        options: of the work.
    """

    def __init__(
        self, table: OpenTable, file: IO[bytes], folder: Path, options: BuildOptions
    ) -> None:
        pa = arrow()
        schema = pa.schema([("line", pa.int64()), *((name, pa.binary()) for name in TEXTS)])
        self._table, self._folder, self._hash = table, folder, options.hash_text
        self._folder_text = str(folder)
        self._writer = ColumnWriter(file, schema, options.block_rows)
        self._pending: list[Cells] = []
        self.id_hashes, self.file_hashes = array("q"), array("q")
        self.states = array("B")
        self.placeholders: Counter[str] = Counter()
        self.first_placeholder = 0

    def add(
        self, line: int, name: str, place: str, caption: str, split: str, start: str, end: str
    ) -> None:
        """Takes a row; DataError if it lacks what every row must have."""
        if not name or not place:
            self._refuse(
                line, f"no {'videoid' if not name else 'path'}; fill it in or remove the row"
            )
        if self._table.has_splits and split not in SPLITS:
            self._refuse(
                line, f"split '{split}' must be one of {', '.join(SPLITS)} (or drop the column)"
            )
        name = unicodedata.normalize("NFC", name)  # one id in two forms is one id
        state = CaptionState.SAID
        if not caption:
            state = CaptionState.EMPTY
        elif says_nothing(caption):
            state = CaptionState.PLACEHOLDER
            self.placeholders[caption] += 1
            self.first_placeholder = self.first_placeholder or line
        self.states.append(state)
        self.id_hashes.append(self._hash(name))
        self.file_hashes.append(self._hash(file_text(self._folder, self._folder_text, place)))
        self._pending.append((line, name, place, caption, split, start, end))
        if len(self._pending) == self._writer.block_rows:
            self._flush()

    def _refuse(self, line: int, what: str) -> NoReturn:
        raise DataError(f"{self._table.name}: {self._table.unit} {line} has {what}.")

    def _flush(self) -> None:
        lines, *texts = zip(*self._pending, strict=True)
        columns = {name: list(map(encoded, c)) for name, c in zip(TEXTS, texts, strict=True)}
        self._writer.write({"line": lines, **columns})
        self._pending.clear()

    def close(self) -> FileProof:
        """Writes the rest; returns what the file is known by."""
        if self._pending:
            self._flush()
        return self._writer.close()


def file_text(folder: Path, folder_text: str, place: str) -> str:
    """Returns the name of the file at `place`, one for all ways to write it (see `file_key`)."""
    if place.startswith("~"):
        return os.path.normpath(located(folder, place))
    return os.path.normpath(os.path.join(folder_text, place))


def _log_rows(
    table: OpenTable, file: IO[bytes], folder: Path, options: BuildOptions
) -> tuple[RowLog, FileProof]:
    """Writes down all rows; returns what was counted, and what the file is known by."""
    report = throttled_progress(options.say, options.check)
    rows = RowLog(table, file, folder, options)
    for number, cells in enumerate(table.cells, start=1):
        rows.add(*cells)
        if not number % options.block_rows:
            report(f"{table.name}, rows read", number, 0)
    return rows, rows.close()


class ClipBuilder:
    """Makes columns of clips of the rows that were written down.

    Args:
        table: whose rows they are.
        rows: what was counted.
        file: the rows.
        folder: the table's.
    """

    def __init__(self, table: OpenTable, rows: RowLog, file: ColumnFile, folder: Path) -> None:
        self._table, self._log, self._file, self._folder = table, rows, file, folder
        self._states = np.frombuffer(rows.states, np.uint8)
        hashes = np.frombuffer(rows.id_hashes, np.int64)
        self._first = first_equal(hashes, lambda row: self._text("id", row))
        self._said, owners = self._captions()
        # rows of clips: the first of each id that has a caption, and how many captions it has
        self._clips, self._counts = np.unique(owners, return_counts=True)
        # of each clip the first one that has its file, and whether others have it; None: none has
        self._file_owners = self._files()
        self._in_shared_file = None
        if self._file_owners is not None:
            self._in_shared_file = np.bincount(self._file_owners)[self._file_owners] > 1
        self.bad_part = ""

    def _captions(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rows with captions, by clip, and the first row of each one's id."""
        said = np.flatnonzero(self._states == CaptionState.SAID)
        if self._first is None:
            return said, said
        owners = self._first[said]
        order = np.argsort(owners, kind="stable")
        return said[order], owners[order]

    def write(self, file: IO[bytes], options: BuildOptions) -> FileProof:
        """Writes the columns of the clips; returns what the file is known by."""
        fields = ClipFields(
            splits=self._table.has_splits,
            parts=self._table.has_parts,
            positions=not self._table.has_splits,
        )
        report = throttled_progress(options.say, options.check)
        size = options.block_rows
        writer = ClipWriter(file, fields, size)
        ends = np.concatenate(([0], np.cumsum(self._counts)))
        for first in range(0, len(self._clips), size):
            last = min(first + size, len(self._clips))
            rows = self._clips[first:last]
            said = self._texts("caption", self._said[ends[first] : ends[last]])
            borders = (ends[first : last + 1] - ends[first]).tolist()
            captions = [said[a:b] for a, b in itertools.pairwise(borders)]
            ids, places = self._texts("id", rows), self._texts("place", rows)
            more = self._more(fields, rows, ids, places, first)
            writer.write(ids, places, captions, more)
            report(f"{self._table.name}, clips written", last, len(self._clips))
        return writer.close()

    def _more(
        self,
        fields: ClipFields,
        rows: np.ndarray,
        ids: Sequence[str],
        places: Sequence[str],
        first: int,
    ) -> dict[str, Sequence[Any]]:
        """Returns the other columns of the clips of a block, whose first clip is `first`."""
        more: dict[str, Sequence[Any]] = {}
        if fields.splits:
            more["split"] = [SPLIT_NAMES.index(text) for text in self._texts("split", rows)]
        if fields.positions:
            shared = self._shared_at(first, len(rows))
            more["position"] = [
                hash_unit("split", located(self._folder, place).name if several else name)
                for name, place, several in zip(ids, places, shared, strict=True)
            ]
        if fields.parts:
            texts = zip(ids, self._texts("start_s", rows), self._texts("end_s", rows), strict=True)
            more["start_s"], more["end_s"] = zip(*map(self._part, texts), strict=True)
        return more

    def _part(self, texts: tuple[str, str, str]) -> tuple[float | None, float | None]:
        """Returns start_s and end_s as numbers; None where they are empty."""
        name, *columns = texts
        try:
            start, end = (_seconds(text) if text else None for text in columns)
        except ValueError:
            start = end = float("nan")
        if not (start or 0) >= 0 or (end is not None and not (start or 0) < end < float("inf")):
            self.bad_part = self.bad_part or (
                f"videoid '{name}' has start_s '{columns[0]}' and end_s '{columns[1]}'; "
                "they must be seconds, 0 <= start_s < end_s."
            )
        return start, end

    def _files(self) -> np.ndarray | None:
        """Returns for each clip the first clip that has its file; None if all differ."""
        hashes = np.frombuffer(self._log.file_hashes, np.int64)[self._clips]
        return first_equal(hashes, self._file_of)

    def _file_of(self, clip: int) -> str:
        place = self._text("place", int(self._clips[clip]))
        return file_text(self._folder, str(self._folder), place)

    def _shared_at(self, first: int, count: int) -> list[bool]:
        """Returns whether other clips have the files of `count` clips, too."""
        if self._in_shared_file is None:
            return [False] * count
        shared: list[bool] = self._in_shared_file[first : first + count].tolist()
        return shared

    def facts(self) -> ManifestFacts:
        """Returns what was found; call it when the columns are written."""
        conflicts = dict(self._conflicts())
        ids = np.arange(len(self._states)) if self._first is None else np.unique(self._first)
        uncaptioned = np.setdiff1d(ids, self._clips, assume_unique=True)
        shared = self._shared_files() if self._table.has_splits else {}
        file, splits = next(iter(shared.items()), ("", []))
        return ManifestFacts(
            unit=self._table.unit,
            has_splits=self._table.has_splits,
            rows=len(self._states),
            empty=int((self._states == CaptionState.EMPTY).sum()),
            placeholders=dict(self._log.placeholders),
            first_placeholder=self._log.first_placeholder,
            conflicts=tuple(conflicts),
            first_conflict=next(iter(conflicts.values()), ""),
            uncaptioned=tuple(self._texts("id", uncaptioned)),
            bad_part=self.bad_part,
            first_line=self._file.value("line", int(self._clips[0])) if len(self._clips) else 0,
            shared_files=len(shared),
            first_shared=f"{file} ({', '.join(splits)})" if shared else "",
        )

    def _conflicts(self) -> Iterator[tuple[str, str]]:
        """Yields (id, difference) of ids whose rows differ, in the order of the second rows."""
        if self._first is None:
            return
        seen = set()
        repeated = np.flatnonzero(self._first != np.arange(len(self._first)))
        for begin in range(0, len(repeated), BLOCK_ROWS):
            rows = repeated[begin : begin + BLOCK_ROWS]
            firsts = self._first[rows]
            sides = [
                list(zip(*(self._texts(name, side) for name in COMPARED), strict=True))
                for side in (firsts, rows)
            ]
            for owner, one, other in zip(firsts.tolist(), *sides, strict=True):
                if one != other and owner not in seen:
                    seen.add(owner)
                    yield self._text("id", owner), difference(one, other)

    def _shared_files(self) -> dict[str, list[str]]:
        """Returns the files that are in several splits, with these, in order of appearance."""
        if self._file_owners is None or self._in_shared_file is None:
            return {}
        members = np.flatnonzero(self._in_shared_file)
        found: dict[int, list[str]] = {}
        for begin in range(0, len(members), BLOCK_ROWS):
            some = members[begin : begin + BLOCK_ROWS]
            splits = self._texts("split", self._clips[some])
            for owner, split in zip(self._file_owners[some].tolist(), splits, strict=True):
                known = found.setdefault(owner, [])
                if split not in known:
                    known.append(split)
        return {self._file_of(owner): splits for owner, splits in found.items() if len(splits) > 1}

    def _text(self, column: str, row: int) -> str:
        return decoded(self._file.value(column, row))

    def _texts(self, column: str, rows: np.ndarray) -> list[str]:
        return list(map(decoded, self._file.values(column, rows)))


def _seconds(text: str) -> float:
    if "_" in text:  # Python reads 1_0 as ten
        raise ValueError(text)
    return float(text)


def difference(first: Sequence[str], other: Sequence[str]) -> str:
    """Returns in which way two rows of one id contradict each other.

    Both hold path, split, start_s and end_s.
    """
    what, one, two = next(
        found
        for found in zip(("path", *OPTIONAL), first, other, strict=True)
        if found[1] != found[2]
    )
    plural = "" if what.endswith("_s") else "s"
    pair = sorted((one, two)) if what == "path" else (one, two)
    return f"two {what}{plural}, {' and '.join(pair)}"
