"""A laid-out table: what `render` and the page write, whatever stands in it."""

from __future__ import annotations

from dataclasses import dataclass

MISSING = "—"
DAGGER = "†"
DOUBLE_DAGGER = "‡"
TICK = "✓"


@dataclass(frozen=True)
class Cell:
    """One place of a table.

    Attributes: text: the label, or the mean as it is printed; empty where nothing was planned, a
        dash where something is missing. spread: standard deviation as it is printed; empty if there
        is a single value. place: 1 = best of its group, 2 = second best. marks: short superscripts:
        a dagger, or the number of seeds where some are missing.
    """

    text: str = ""
    spread: str = ""
    place: int = 0
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A head, under a common head for neighbouring columns of one `group`. Labels are set to the
    left, figures to the right. `width`: of a column of running text, as a share of the line; 0 = as
    wide as its longest entry."""

    head: str
    group: str = ""
    is_label: bool = False
    width: float = 0.0


@dataclass(frozen=True)
class Table:
    """A laid-out table. `name` ends the LaTeX label."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
