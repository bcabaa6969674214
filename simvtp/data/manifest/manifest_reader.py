"""Reads manifests.

A manifest is a CSV or Parquet file with the columns `videoid`, `path`, `caption` and optionally
`split` (train, val or test). Several rows of one video are several captions of it. Paths are
relative to the manifest's folder (`~` is the home folder); a folder of pictures, or a pattern as in
`frames/%05d.jpg`, is a clip, too. The columns `start_s` and `end_s` say which part of the video is
meant, in seconds (empty = from its beginning, to its end). Other columns are ignored. A folder of
shards (`simvtp.data.shards`) is read like a manifest.
"""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from simvtp.data.clips import Clip, Manifest, TableRows
from simvtp.data.manifest.csv_table import strict_rows
from simvtp.data.manifest.splits import SPLITS
from simvtp.data.shards import index_foreign_shards, is_foreign, is_shards, read_shards
from simvtp.data.text.placeholder_captions import says_nothing
from simvtp.data.video.frame_folder import video_exists
from simvtp.errors import DataError

log = logging.getLogger(__name__)

REQUIRED = ("videoid", "path", "caption")
OPTIONAL = ("split", "start_s", "end_s")
MAX_PLACEHOLDER_RATIO = 0.1  # of the rows
SEARCHED = 1000  # videos of which one must exist

Cells = tuple[int, str, str, str, str, str, str]  # line, and the columns in the order of above


def read_manifest(
    path: Path | str,
    collect_conflicts: bool = False,
    max_placeholder_ratio: float = MAX_PLACEHOLDER_RATIO,
) -> Manifest:
    """Reads a manifest.

    Args:
        path: CSV or Parquet (by the ending `.parquet` or `.pq`), or a folder of shards.
        collect_conflicts: list ids with several paths or splits in `conflicts` (their first row
            counts) rather than raise.
        max_placeholder_ratio: rows whose caption says nothing (nan, None, N/A, no letter or digit)
            are left out; more than this ratio of all is an error.

    Raises:
        DataError: the file is missing, unreadable or empty, lacks a column, does not add up or
            contradicts itself, or no video is where it says; tells what to do.
    """
    path = Path(path).expanduser()
    if is_foreign(path):
        index_foreign_shards(path)
    if is_shards(path):
        return read_shards(path)
    name = f"manifest {path}"
    if not path.is_file():
        raise DataError(
            f"{name}: there is no such file; give a CSV or Parquet file with the columns "
            f"{', '.join(REQUIRED)}."
        )
    columnar = path.suffix.lower() in (".parquet", ".pq")
    collected = _Collected(name, "row" if columnar else "line")
    has_splits = False
    for has_splits, cells in _parquet_cells(path, name) if columnar else _csv_cells(path, name):
        collected.add(cells, has_splits)
    return collected.manifest(path, has_splits, collect_conflicts, max_placeholder_ratio)


@dataclass
class _Collected:
    """The rows of a manifest, collected by video."""

    name: str
    unit: str  # what a row is called: line or row
    places: dict[str, tuple[str, str, str, str]] = field(default_factory=dict)
    first_lines: dict[str, int] = field(default_factory=dict)
    captions: dict[str, list[str]] = field(default_factory=dict)
    conflicts: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    empty: int = 0
    placeholders: Counter[str] = field(default_factory=Counter)
    first_placeholder: int = 0

    def add(self, cells: Cells, has_splits: bool) -> None:
        line, name, place, caption, split, start, end = cells
        self.rows += 1
        if not name or not place:
            self._refuse(
                line, f"no {'videoid' if not name else 'path'}; fill it in or remove the row"
            )
        if has_splits and split not in SPLITS:
            self._refuse(
                line, f"split '{split}' must be one of {', '.join(SPLITS)} (or drop the column)"
            )
        name = unicodedata.normalize("NFC", name)  # one id in two forms is one id
        here = place, split, start, end
        first = self.places.setdefault(name, here)
        if first != here:
            self.conflicts.setdefault(name, _difference(first, here))
        if len(self.first_lines) < SEARCHED:  # of millions of videos, one is named at most
            self.first_lines.setdefault(name, line)
        listed = self.captions.setdefault(name, [])
        if not caption:
            self.empty += 1
        elif says_nothing(caption):
            self.placeholders[caption] += 1
            self.first_placeholder = self.first_placeholder or line
        else:
            listed.append(caption)

    def _refuse(self, line: int, what: str) -> NoReturn:
        raise DataError(f"{self.name}: {self.unit} {line} has {what}.")

    def manifest(
        self, path: Path, has_splits: bool, collect_conflicts: bool, max_ratio: float
    ) -> Manifest:
        """Returns what was collected; DataError if it cannot be used."""
        if not self.rows:
            raise DataError(f"{self.name} has column names but no rows; add one row per caption.")
        if self.conflicts and not collect_conflicts:
            name, reason = next(iter(self.conflicts.items()))
            raise DataError(
                f"{self.name}: videoid '{name}' has {reason} ({len(self.conflicts)} such ids); "
                "give each video its own id."
            )
        self._refuse_placeholders(max_ratio)
        folder = path.resolve().parent
        clips = tuple(
            Clip(name, _located(folder, place), tuple(self.captions[name]), split, *part)
            for name, (place, split, start, end) in self.places.items()
            if self.captions[name]
            for part in [_part(self.name, name, start, end)]
        )
        if not clips:
            raise DataError(f"{self.name} has no row with a caption; add captions, one row each.")
        self._refuse_without_files(clips)
        uncaptioned = tuple(name for name in self.places if not self.captions[name])
        silent = self.placeholders.total()
        if self.empty or silent:
            log.warning(
                "%s: %d rows without a caption and %d whose caption says nothing were left out "
                "(%d videos had no other caption)",
                path,
                self.empty,
                silent,
                len(uncaptioned),
            )
        rows = TableRows(self.rows, self.rows - self.empty - silent, dict(self.placeholders))
        conflicts = tuple(self.conflicts)
        return Manifest(
            path, clips, has_splits, self.empty, uncaptioned, conflicts=conflicts, rows=rows
        )

    def _refuse_placeholders(self, max_ratio: float) -> None:
        silent = self.placeholders.total()
        if silent > max_ratio * self.rows:
            common = ", ".join(f"'{text}' {n}" for text, n in self.placeholders.most_common(3))
            raise DataError(
                f"{self.name}: {silent} of {self.rows} captions say nothing ({common}; the first "
                f"in {self.unit} {self.first_placeholder}); correct them, or raise "
                f"data.max_placeholder_ratio ({max_ratio:g})."
            )

    def _refuse_without_files(self, clips: tuple[Clip, ...]) -> None:
        if not any(video_exists(clip.path) for clip in clips[:SEARCHED]):
            first = clips[0]
            raise DataError(
                f"{self.name}: no video of its column `path` exists; the first is {first.path} "
                f"({self.unit} {self.first_lines.get(first.id, '?')}). "
                "Paths are relative to its folder."
            )


def _difference(first: tuple[str, ...], other: tuple[str, ...]) -> str:
    """Returns in which way two rows of one id contradict each other."""
    what, one, two = next(
        found
        for found in zip(("path", *OPTIONAL), first, other, strict=True)
        if found[1] != found[2]
    )
    plural = "" if what.endswith("_s") else "s"
    pair = sorted((one, two)) if what == "path" else (one, two)
    return f"two {what}{plural}, {' and '.join(pair)}"


def _located(folder: Path, place: str) -> Path:
    return folder / Path(place).expanduser() if place.startswith("~") else folder / place


def _part(manifest: str, name: str, *columns: str) -> tuple[float | None, float | None]:
    """Returns start_s and end_s as numbers; None where they are empty."""
    try:
        start, end = (float(text) if text else None for text in columns)
    except ValueError:
        start = end = float("nan")
    if not (start or 0) >= 0 or (end is not None and not (start or 0) < end < float("inf")):
        raise DataError(
            f"{manifest}: videoid '{name}' has start_s '{columns[0]}' and end_s '{columns[1]}'; "
            "they must be seconds, 0 <= start_s < end_s."
        )
    return start, end


def _columns(name: str, header: list[str]) -> list[int]:
    """Returns where the columns are, -1 for one that is not there; DataError if one is needed."""
    missing = [column for column in REQUIRED if column not in header]
    if missing:
        raise DataError(
            f"{name} has no column {' and '.join(missing)} "
            f"(found: {', '.join(header) or 'none'}); name its columns {', '.join(REQUIRED)}."
        )
    twice = [column for column in (*REQUIRED, *OPTIONAL) if header.count(column) > 1]
    if twice:
        raise DataError(f"{name} has two columns {twice[0]}; remove one.")
    return [header.index(c) if c in header else -1 for c in (*REQUIRED, *OPTIONAL)]


def _csv_cells(path: Path, name: str) -> Iterator[tuple[bool, Cells]]:
    rows = strict_rows(path, name, REQUIRED)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{name} cannot be read as a table (it is empty).")
    where = _columns(name, first[1])
    has_splits = where[3] >= 0
    for line, fields in rows:
        picked = ["" if column < 0 else fields[column] for column in where]
        yield has_splits, (line, *picked)  # type: ignore[misc]


def _parquet_cells(path: Path, name: str) -> Iterator[tuple[bool, Cells]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name} cannot be read as a table ({error}).") from error
    header = [str(column) for column in file.schema_arrow.names]
    where = _columns(name, [column.strip() for column in header])
    present = [header[column] for column in where if column >= 0]
    for column in present:
        _refuse_type(name, column, file.schema_arrow.field(column).type)
    number = 0
    for batch in file.iter_batches(columns=present):
        columns = [
            [""] * len(batch)
            if column < 0
            else [_text(v) for v in batch.column(header[column]).to_pylist()]
            for column in where
        ]
        for cells in zip(*columns, strict=True):
            number += 1
            yield where[3] >= 0, (number, *cells)


def _refuse_type(name: str, column: str, kind: Any) -> None:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    textual = types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind)
    numeric = types.is_integer(kind) or types.is_floating(kind)
    if not textual and not (numeric and column.strip() not in ("path", "caption")):
        raise DataError(f"{name}: its column {column} holds {kind}, not text.")


def _text(value: object) -> str:
    if value is None or value != value:
        return ""
    return str(value).strip()
