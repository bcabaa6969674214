"""The cells of a manifest, row by row, from CSV or Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simvtp.data.manifest.csv_table import strict_rows
from simvtp.errors import DataError

REQUIRED = ("videoid", "path", "caption")
OPTIONAL = ("split", "start_s", "end_s")

Cells = tuple[int, str, str, str, str, str, str]  # line, and the columns in the order of above


@dataclass(frozen=True)
class OpenTable:
    """A manifest whose header was read.

    Attributes:
        name: what messages call it.
        unit: what a row is called: line or row.
        has_splits: it has a column of splits.
        has_parts: it has a column of beginnings or ends.
        cells: of the rows, once.
    """

    name: str
    unit: str
    has_splits: bool
    has_parts: bool
    cells: Iterator[Cells]


def open_table(path: Path, name: str) -> OpenTable:
    """Returns the rows of a CSV or Parquet file (by the ending `.parquet` or `.pq`).

    Raises:
        DataError: it cannot be read, or lacks a column; later, that a row does not add up.
    """
    columnar = path.suffix.lower() in (".parquet", ".pq")
    where, cells = _parquet(path, name) if columnar else _csv(path, name)
    return OpenTable(
        name,
        "row" if columnar else "line",
        has_splits=where[3] >= 0,
        has_parts=where[4] >= 0 or where[5] >= 0,
        cells=cells,
    )


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


def _csv(path: Path, name: str) -> tuple[list[int], Iterator[Cells]]:
    rows = strict_rows(path, name, REQUIRED)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{name} cannot be read as a table (it is empty).")
    where = _columns(name, first[1])
    return where, _csv_cells(rows, where)


def _csv_cells(rows: Iterator[tuple[int, list[str]]], where: list[int]) -> Iterator[Cells]:
    for line, fields in rows:
        picked = ["" if column < 0 else fields[column] for column in where]
        yield (line, *picked)  # type: ignore[misc]


def _parquet(path: Path, name: str) -> tuple[list[int], Iterator[Cells]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name} cannot be read as a table ({error}).") from error
    header = [str(column) for column in file.schema_arrow.names]
    where = _columns(name, [column.strip() for column in header])
    for column in where:
        if column >= 0:
            _refuse_type(name, header[column], file.schema_arrow.field(column).type)
    return where, _parquet_cells(file, header, where)


def _parquet_cells(file: Any, header: list[str], where: list[int]) -> Iterator[Cells]:
    number = 0
    for batch in file.iter_batches(columns=[header[column] for column in where if column >= 0]):
        columns = [
            [""] * len(batch)
            if column < 0
            else [_text(v) for v in batch.column(header[column]).to_pylist()]
            for column in where
        ]
        for cells in zip(*columns, strict=True):
            number += 1
            yield (number, *cells)


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
