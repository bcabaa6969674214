"""Writes a `Table` as LaTeX that fits the line without scaling.

A table that is too wide gets smaller letters and less space between its columns, but never letters
below footnotesize, whose superscripts have 6 pt; then the width of both columns, where a page
has two; then it is cut into blocks below each other, each with the labels of the rows. Widths are
estimated from above by `text_points`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from reports.output.escaping import file_stem, visible
from reports.output.layout import DAGGER, DOUBLE_DAGGER, MISSING, TICK, Cell, Column, Table

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "→": r"$\rightarrow$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    DAGGER: r"$^\dagger$",
    DOUBLE_DAGGER: r"$^\ddagger$",
    MISSING: "---",
    TICK: r"$\surd$",
}
POINTS_PER_INCH = 72.27
BOLD = 1.16  # width of bold letters, of that of the others
# Width of letters in Computer Modern, of the size of the letters, rounded up; Times is narrower.
NARROW_LETTERS, WIDE_LETTERS = frozenset("il|.,:;!'()[]jtfrI/-’"), frozenset("mwMW@%—×±→≤≥∞✓†‡")
LETTER_WIDTHS = {"narrow": 0.42, "wide": 1.06, "upper": 0.79, "digit": 0.52, "space": 0.35}
OTHER_WIDTH = 0.58


@dataclass(frozen=True)
class TextSize:
    """A size of the letters of a table.

    Attributes:
        command: of LaTeX.
        points: of the letters in a document of 10 pt.
        separation: half of the space between two columns, points.
        spread: command for the standard deviation.
    """

    command: str
    points: float
    separation: float
    spread: str


SIZES = (
    TextSize("", 10.0, 6.0, r"\footnotesize"),
    TextSize(r"\small", 9.0, 4.0, r"\footnotesize"),
    TextSize(r"\footnotesize", 8.0, 3.0, ""),
)


@dataclass(frozen=True)
class LatexPage:
    """Widths in inches of a column and of the text over all columns of a page."""

    column: float = 4.75
    page: float = 4.75


@dataclass(frozen=True)
class LatexBlock:
    """Columns of a table that stand side by side, in letters of one size."""

    table: Table
    size: TextSize


def escape(text: str) -> str:
    """Returns plain text for pdflatex with its standard fonts.

    Letters of other scripts, which these fonts lack, become question marks.
    """
    shown = visible(text)
    return "".join(_LATEX.get(character) or _latin(character) for character in shown)


def _latin(character: str) -> str:
    if character < "\u0180":  # ASCII and the accented letters of Europe
        return character
    return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"


def latex(
    tables: Iterable[Table], comments: Sequence[str] = (), page: LatexPage | None = None
) -> str:
    """Returns floats with booktabs rules, each as wide as a column or as the page.

    Needs array and booktabs (texlive-latex-base and -recommended have them).
    """
    head = [
        r"\usepackage{array,booktabs} in the preamble, then \input this file.",
        *comments,
    ]
    floats = [_float(table, page or LatexPage()) for table in tables]
    return "\n".join([*(f"% {visible(line)}" for line in head), *floats])


def _float(table: Table, page: LatexPage) -> str:
    blocks, starred = fitted(table, page)
    notes = " ".join(escape(note) for note in table.notes)
    environment = "table*" if starred else "table"
    parts = []
    for block in blocks:
        inches = page.page if starred else page.column
        size, separation = block.size, rf"\setlength{{\tabcolsep}}{{{block.size.separation:g}pt}}"
        parts.append(f"{{{size.command}{separation}%\n{_tabular(block, inches)}}}")
    return "\n".join(
        [
            rf"\begin{{{environment}}}[tb]",
            r"\centering",
            rf"\caption{{{escape(table.caption)}}}",
            rf"\label{{tab:{file_stem(table.name)}}}",
            "\n\\par\\medskip\n".join(parts),
            r"\par\smallskip",
            rf"\parbox{{\linewidth}}{{\footnotesize {notes}}}",
            rf"\end{{{environment}}}",
            "",
        ]
    )


# ---- widths --------------------------------------------------------------------------------------


def fitted(table: Table, page: LatexPage) -> tuple[list[LatexBlock], bool]:
    """Returns the blocks of a table, and whether they are as wide as the page (`table*`)."""
    wide = page.page > page.column
    if any(column.width for column in table.columns):  # running text, which is broken into lines
        return [LatexBlock(table, SIZES[-1])], wide
    for starred in (False, True) if wide else (False,):
        inches = page.page if starred else page.column
        for size in SIZES:
            if table_points(table, size) <= inches * POINTS_PER_INCH:
                return [LatexBlock(table, size)], starred
    return [LatexBlock(part, SIZES[-1]) for part in _cut(table, page.page)], wide


def _cut(table: Table, inches: float) -> list[Table]:
    """Cuts a table into parts that fit, each with the labels; between groups where that goes."""
    labels = [number for number, column in enumerate(table.columns) if column.is_label]
    rest = [number for number in range(len(table.columns)) if number not in labels]
    groups = [
        list(members) for _, members in groupby(rest, key=lambda n: table.columns[n].group or n)
    ]
    parts: list[list[int]] = []
    for group in groups:
        pieces = [group] if _fits(table, [*labels, *group], inches) else [[n] for n in group]
        for piece in pieces:
            if parts and _fits(table, [*labels, *parts[-1], *piece], inches):
                parts[-1] += piece
            else:
                parts.append(list(piece))
    return [_columns_of(table, [*labels, *part]) for part in parts]


def _fits(table: Table, numbers: Sequence[int], inches: float) -> bool:
    return table_points(_columns_of(table, numbers), SIZES[-1]) <= inches * POINTS_PER_INCH


def _columns_of(table: Table, numbers: Sequence[int]) -> Table:
    columns = tuple(table.columns[number] for number in numbers)
    rows = [tuple(row[number] for number in numbers) for row in table.rows]
    return Table(table.name, table.caption, columns, tuple(rows), table.notes)


def table_points(table: Table, size: TextSize) -> float:
    """Returns the width of a table in points, estimated from above."""
    widths = [_column_points(table, number, size) for number in range(len(table.columns))]
    start = 0
    for group, members in groupby(table.columns, key=lambda column: column.group):
        count = len(list(members))
        inner = sum(widths[start : start + count]) + 2 * size.separation * (count - 1)
        if group:  # a common head that is wider than its columns widens the last one
            widths[start + count - 1] += max(0.0, text_points(group, size.points) - inner)
        start += count
    return sum(widths) + 2 * size.separation * len(widths)


def _column_points(table: Table, number: int, size: TextSize) -> float:
    cells = [cell_points(row[number], size) for row in table.rows]
    return max([text_points(table.columns[number].head, size.points), *cells])


def cell_points(cell: Cell, size: TextSize) -> float:
    """Returns the width of a cell in points, estimated from above."""
    spread = f" ±{cell.spread} " if cell.spread else ""
    spread_size = 8.0 if size.spread else size.points
    marks = sum(text_points(mark, 0.75 * size.points) for mark in cell.marks)
    text = text_points(cell.text, size.points) * (BOLD if cell.rank == 1 else 1.0)
    return text + text_points(spread, spread_size) + marks


def text_points(text: str, size: float) -> float:
    """Returns the width of a text in points, estimated from above for Computer Modern."""
    return size * sum(map(_letter_width, text))


def _letter_width(letter: str) -> float:
    if letter in NARROW_LETTERS:
        return LETTER_WIDTHS["narrow"]
    if letter in WIDE_LETTERS:
        return LETTER_WIDTHS["wide"]
    if letter.isdigit():
        return LETTER_WIDTHS["digit"]
    if letter.isspace():
        return LETTER_WIDTHS["space"]
    return LETTER_WIDTHS["upper"] if letter.isupper() else OTHER_WIDTH


# ---- the tabular ---------------------------------------------------------------------------------


def _tabular(block: LatexBlock, inches: float) -> str:
    table = block.table
    grouped = any(column.group for column in table.columns)
    heads: list[str] | pd.MultiIndex = [escape(column.head) for column in table.columns]
    if grouped:
        heads = pd.MultiIndex.from_tuples(
            [(escape(column.group), escape(column.head)) for column in table.columns]
        )
    body = [
        [_cell(cell, column, block.size) for cell, column in zip(row, table.columns, strict=True)]
        for row in table.rows
    ]
    frame = pd.DataFrame(body, columns=heads)
    wrap = {0: "", 1: "textbf:--rwrap;", 2: "underline:--rwrap;"}
    wraps = [[wrap[cell.rank] for cell in row] for row in table.rows]
    css = pd.DataFrame(wraps, columns=heads)
    style = frame.style.apply(lambda _: css, axis=None).hide(axis="index")
    text_width = _text_width(table, block.size, inches)
    sides = "".join(_side(column, text_width) for column in table.columns)
    text = style.to_latex(hrules=True, column_format=sides, multicol_align="c").rstrip()
    if not grouped:
        return text
    lines = text.split("\n")  # \begin{tabular}, \toprule, common heads, heads, \midrule, ...
    return "\n".join([*lines[:3], _group_rules(table.columns), *lines[3:]])


def _text_width(table: Table, size: TextSize, inches: float) -> float:
    """Returns the part of the line that all columns of running text share, space left out."""
    plain = [number for number, column in enumerate(table.columns) if not column.width]
    taken = table_points(_columns_of(table, plain), size) if plain else 0.0
    taken += 2 * size.separation * (len(table.columns) - len(plain))
    return max(0.3, 1 - taken / (inches * POINTS_PER_INCH)) / max(
        1e-9, sum(column.width for column in table.columns)
    )


def _side(column: Column, text_width: float) -> str:
    if column.width:
        width = column.width * text_width
        return rf">{{\raggedright\arraybackslash}}p{{{width:.3f}\linewidth}}"
    return "l" if column.is_label else "r"


def _group_rules(columns: Sequence[Column]) -> str:
    """Returns a thin rule under each common head."""
    rules = []
    start = 0
    for end in range(1, len(columns) + 1):
        if end == len(columns) or columns[end].group != columns[start].group:
            if columns[start].group:
                rules.append(rf"\cmidrule(lr){{{start + 1}-{end}}}")
            start = end
    return " ".join(rules)


def _cell(cell: Cell, column: Column, size: TextSize) -> str:
    marks = "".join(escape(mark) if mark in _LATEX else rf"$^{{{mark}}}$" for mark in cell.marks)
    smaller = f"{size.spread} " if size.spread else ""
    spread = rf" {{{smaller}$\pm$\,{cell.spread}}}" if cell.spread else ""
    text = escape(cell.text)
    if column.width:  # names of settings are long, and LaTeX breaks no line within them
        text = text.replace(r"\_", r"\_\allowbreak{}").replace("/", r"/\allowbreak{}")
    return f"{text}{spread}{marks}" if cell.text else ""
