"""Laid-out tables: what `render` and the pages write, whatever the content."""

from __future__ import annotations

from dataclasses import dataclass

MISSING = "—"
DAGGER = "†"
DOUBLE_DAGGER = "‡"
TICK = "✓"


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: the label, or the mean as it is printed; empty if nothing was planned, a dash if
            something is missing.
        spread: standard deviation as it is printed; empty if there is a single value.
        rank: 1 = best of its group, 2 = second best, 0 = other.
        marks: short superscripts: a dagger, or the number of seeds if some are missing.
    """

    text: str = ""
    spread: str = ""
    rank: int = 0
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        group: common head of neighbouring columns.
        is_label: labels are aligned left, values right.
        width: of a column of running text, as a fraction of the line; 0 = as wide as its longest
            entry.
    """

    head: str
    group: str = ""
    is_label: bool = False
    width: float = 0.0


@dataclass(frozen=True)
class Table:
    """A laid-out table; `name` is the end of its LaTeX label."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
