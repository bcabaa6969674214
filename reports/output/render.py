"""Writes a `Table` as Markdown and as LaTeX, and frames as CSV. HTML is in templates/."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

import pandas as pd

from reports.output.escaping import csv_text, file_stem, markdown_text, visible
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


def latex(tables: Iterable[Table], comments: Sequence[str] = ()) -> str:
    """Returns floats with booktabs rules. A table that is wider than the line is scaled to it.

    Needs array, booktabs and graphicx (texlive-latex-base and -recommended have them).
    """
    head = [
        r"\usepackage{array,booktabs,graphicx} in the preamble, then \input this file.",
        *comments,
    ]
    return "\n".join(
        [*(f"% {visible(line)}" for line in head), *(_latex(table) for table in tables)]
    )


def _latex(table: Table) -> str:
    notes = " ".join(escape(note) for note in table.notes)
    return "\n".join(
        [
            r"\begin{table}[tb]",
            r"\centering"
            + (r"\footnotesize" if any(column.width for column in table.columns) else ""),
            rf"\caption{{{escape(table.caption)}}}",
            rf"\label{{tab:{file_stem(table.name)}}}",
            r"\sbox0{%",
            _tabular(table) + "}%",
            r"\ifdim\wd0>\linewidth \resizebox{\linewidth}{!}{\usebox0}\else \usebox0\fi",
            r"\par\smallskip",
            rf"\parbox{{\linewidth}}{{\footnotesize {notes}}}",
            r"\end{table}",
            "",
        ]
    )


def _tabular(table: Table) -> str:
    grouped = any(column.group for column in table.columns)
    heads: list[str] | pd.MultiIndex = [escape(column.head) for column in table.columns]
    if grouped:
        heads = pd.MultiIndex.from_tuples(
            [(escape(column.group), escape(column.head)) for column in table.columns]
        )
    body = [
        [_latex_cell(cell, column) for cell, column in zip(row, table.columns, strict=True)]
        for row in table.rows
    ]
    frame = pd.DataFrame(body, columns=heads)
    wrap = {0: "", 1: "textbf:--rwrap;", 2: "underline:--rwrap;"}
    wraps = [[wrap[cell.rank] for cell in row] for row in table.rows]
    css = pd.DataFrame(wraps, columns=heads)
    style = frame.style.apply(lambda _: css, axis=None).hide(axis="index")
    sides = "".join(_side(column) for column in table.columns)
    text = style.to_latex(hrules=True, column_format=sides, multicol_align="c").rstrip()
    if not grouped:
        return text
    lines = text.split("\n")  # \begin{tabular}, \toprule, common heads, heads, \midrule, ...
    return "\n".join([*lines[:3], _group_rules(table.columns), *lines[3:]])


def _side(column: Column) -> str:
    if column.width:
        return rf">{{\raggedright\arraybackslash}}p{{{column.width:g}\linewidth}}"
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


def _latex_cell(cell: Cell, column: Column) -> str:
    marks = "".join(escape(mark) if mark in _LATEX else rf"$^{{{mark}}}$" for mark in cell.marks)
    spread = rf" {{\footnotesize$\pm$\,{cell.spread}}}" if cell.spread else ""
    text = escape(cell.text)
    if column.width:  # names of settings are long, and LaTeX breaks no line within them
        text = text.replace(r"\_", r"\_\allowbreak{}").replace("/", r"/\allowbreak{}")
    return f"{text}{spread}{marks}" if cell.text else ""


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
