"""Reads CSV files strictly: the rows that were meant, or one sentence with the file and the line.

A row with another number of fields than the header, a quote that is never closed, a quote that
swallows the rows behind it, text that is not UTF-8, and NUL bytes are refused. Spreadsheets' habits
that leave no doubt are read: a byte order mark, UTF-16, semicolons or tabs in place of commas,
empty rows.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from simvtp.errors import DataError

DELIMITERS = ",;\t"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
# A field that names a file or holds an id: one word.
LONG_ID = 8  # letters; words of captions that are as long as an id are rarely that long
ONE_WORD = re.compile(r"[^\s\"]+")

csv.field_size_limit(2**27)  # one caption of a table may be a book; the default is 128 KiB

Row = tuple[int, list[str]]  # number of its first line, fields without surrounding space


class _Lines:
    """Passes lines on and holds those of the row that is being read."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self.held: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.held.append(line)
        return line


def strict_rows(
    path: Path, name: str, required: Collection[str] = (), equal: bool = True
) -> Iterator[Row]:
    """Yields the rows of a CSV file that are not empty, the header first.

    Args:
        path: of the file.
        name: what messages call it, as in "manifest clips.csv".
        required: columns that the header must have; they decide which delimiter is meant.
        equal: refuse rows with another number of fields than the header.

    Raises:
        DataError: the file cannot be read, or a row does not add up; with its line.
    """
    with _opened(path, name) as file:
        try:
            first = file.readline()
            file.seek(0)
            if required and first.lstrip()[:1] in ("{", "["):
                raise DataError(f"{name} is JSON, not a table: write it as CSV or Parquet.")
            yield from _rows(_Lines(file), _delimiter(first, required), name, equal)
        except UnicodeDecodeError as error:
            _refuse_encoding(path, name, error)


def _rows(lines: _Lines, delimiter: str, name: str, equal: bool) -> Iterator[Row]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    width = begun = 0
    while True:
        lines.held.clear()
        begun = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            _refuse_quote(name, begun, reader.line_num, str(error))
        if any("\0" in line for line in lines.held):
            _refuse_nuls(name, begun, lines.held)
        fields = [field.strip() for field in fields]
        if not any(fields):
            continue
        width = width or len(fields)
        if len(lines.held) > 1:
            _refuse_swallowed(name, begun, lines.held, delimiter, width)
        if equal and len(fields) != width:
            raise DataError(
                f"{name}, line {begun}: {len(fields)} fields where the header has {width}; "
                'put texts that hold commas in quotes ("...") and remove what is too much.'
            )
        yield begun, fields


def _opened(path: Path, name: str) -> io.TextIOWrapper:
    try:
        with open(path, "rb") as file:
            wide = file.read(2) in UTF_16
        return open(path, newline="", encoding="utf-16" if wide else "utf-8-sig")
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror or error}).") from error


def _delimiter(header: str, required: Collection[str]) -> str:
    """Returns the first delimiter that finds the required columns in the header; else the comma."""
    for delimiter in DELIMITERS:
        names = {name.strip().strip('"') for name in header.rstrip("\r\n").split(delimiter)}
        if required and set(required) <= names:
            return delimiter
    return ","


def _refuse_quote(name: str, begun: int, line: int, reason: str) -> NoReturn:
    if "unexpected end" in reason:
        raise DataError(
            f"{name}, line {begun}: a quote is opened and never closed; "
            'close it, or write it twice ("").'
        ) from None
    where = f"line {begun}" if line == begun else f"lines {begun} to {line}"
    raise DataError(
        f"{name}, {where}: not well-formed ({reason}); "
        'a quote inside a quoted text is written twice ("").'
    ) from None


def _refuse_nuls(name: str, begun: int, lines: list[str]) -> NoReturn:
    line = begun + next(number for number, text in enumerate(lines) if "\0" in text)
    raise DataError(
        f"{name}, line {line}: NUL bytes where text belongs; the file is damaged (rows may be "
        "missing), or is UTF-16 without a byte order mark: make it again, as UTF-8."
    )


def _refuse_swallowed(name: str, begun: int, lines: list[str], delimiter: str, width: int) -> None:
    """Raises DataError if a line inside a quoted text is a row of the table."""
    own = _fields(lines[0], delimiter)
    for number, line in enumerate(lines[1:], start=begun + 1):
        fields = _fields(line, delimiter)
        if len(fields) == width > 1 and _alike(fields, own):
            raise DataError(
                f"{name}, line {begun}: a quote that is opened here swallows line {number}, which "
                'is a row of its own; close the quote, or write it twice ("").'
            )


def _fields(line: str, delimiter: str) -> list[str]:
    row = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    return [field.strip() for field in row]


def _alike(fields: list[str], own: list[str]) -> bool:
    """Returns whether a line begins like the row in which it lies: with an id, or a file's name."""
    name, mine = fields[0], own[0]
    if not ONE_WORD.fullmatch(name):
        return False
    files = [Path(row[1]).suffix for row in (fields, own) if len(row) > 1]
    of_one_kind = len(files) == 2 and bool(files[0]) and files[0] == files[1]
    return of_one_kind or _shape(name) == _shape(mine) or len(name) == len(mine) >= LONG_ID


def _shape(name: str) -> str:
    """Returns an id with its numbers and its words replaced, so that video12 is like video7."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", name))


def _refuse_encoding(path: Path, name: str, error: UnicodeDecodeError) -> NoReturn:
    content = path.read_bytes()
    line = 1
    for line, text in enumerate(content.split(b"\n"), start=1):  # noqa: B007
        try:
            text.decode("utf-8")
        except UnicodeDecodeError:
            break
    raise DataError(
        f"{name}, line {line}: not UTF-8 text ({error.reason}); save the table as UTF-8."
    ) from None
