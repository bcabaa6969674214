"""Writes a `Table` as Markdown, and frames as CSV. LaTeX is in latex.py, HTML in templates/."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from reports.output.escaping import csv_text, markdown_text
from reports.output.layout import Cell, Column, Table

RANK_MARKUP = {1: ("**", "**"), 2: ("<ins>", "</ins>")}  # GitHub keeps <ins> and drops <u>


def markdown(tables: Iterable[Table]) -> str:
    """Returns caption, table in pipes and notes of each table."""
    return "\n".join(_markdown(table) for table in tables)


def _markdown(table: Table) -> str:
    rows = [list(map(markdown_cell, row)) for row in table.rows]
    frame = pd.DataFrame(rows, columns=_heads(table.columns))
    notes = list(map(markdown_text, table.notes))
    sides = ["left" if column.is_label else "right" for column in table.columns]
    body = frame.to_markdown(index=False, disable_numparse=True, colalign=sides)
    return "\n".join(
        [
            f"**{markdown_text(table.caption)}**",
            "",
            body,
            "",
            *(f"{note}  " for note in notes[:-1]),
            *notes[-1:],
            "",
        ]
    )


def _heads(columns: Sequence[Column]) -> list[str]:
    """Returns the single line of heads that Markdown has.

    A single group goes into the corner; with several, each head names its own.
    """
    groups = list(dict.fromkeys(column.group for column in columns if column.group))
    if len(groups) != 1:
        return [markdown_text(f"{column.group} {column.head}".strip()) for column in columns]
    corner, *rest = [markdown_text(column.head) for column in columns]
    return [f"{corner} ↓ {markdown_text(groups[0])} →", *rest]


def markdown_cell(cell: Cell) -> str:
    """Returns a cell with its rank, spread and marks."""
    before, after = RANK_MARKUP.get(cell.rank, ("", ""))
    marks = "".join(f"<sup>{mark}</sup>" for mark in cell.marks)
    spread = f" ± {cell.spread}" if cell.spread else ""
    text = markdown_text(cell.text)
    return f"{before}{text}{spread}{after}{marks}" if cell.text else ""


def csv(frame: pd.DataFrame) -> str:
    """Returns CSV in full precision with unix line ends; text that is a formula is escaped."""
    safe = frame.rename(columns=lambda name: csv_text(str(name)))
    for number, kind in enumerate(frame.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            values = [_csv_value(value) for value in frame.iloc[:, number]]
            safe.isetitem(number, pd.array(values, dtype=object))
    return safe.to_csv(index=False, lineterminator="\n")


def _csv_value(value: object) -> object:
    return csv_text(value) if isinstance(value, str) else value
