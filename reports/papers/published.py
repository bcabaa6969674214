"""Lays out what the papers print, with sources and doubts, separate from what was measured here.

`ablations/published.csv` has whole rows of comparisons, one for each paper that prints them,
`ablations/published_cells.csv` single cells of ablations. Nothing is filled in.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reports.output.layout import MISSING, Cell, Column, Table
from reports.output.metric_formats import metric_of
from reports.output.tables import cell_labels, seed_count, value_cells
from reports.study.report_plan import SEARCH, CellValues
from reports.study.sweep_results import SweepResults
from simvtp.runs.results import direction_name

FOLDER = Path(__file__).resolve().parents[2] / "ablations"
ROWS, CELLS = FOLDER / "published.csv", FOLDER / "published_cells.csv"
METRICS = ("R1", "R5", "R10", "MdR")
FILE_COLUMNS = {"R1": "R@1", "R5": "R@5", "R10": "R@10", "MdR": "MdR"}
MSRVTT = ("MSR-VTT", "1k-A", "finetuned", "t2v")
PROTOCOL = "MSR-VTT 1k-A, fine-tuned, text to video"
PRINTED_NONE = "-"  # a paper's sign for no pre-training data, which is not the same as unknown
TENTH, WHOLE = "SimVTP (10% of WebVid2M)", "SimVTP"  # rows of the data-efficiency curve


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper.

    Attributes:
        name: end of the LaTeX label.
        title: in the caption.
        sources: values of `source` of its rows: the same method may be printed differently in two
            papers, and each has a row of its own.
        rows: number of rows that the paper prints.
        remark: what is not known of it.
    """

    name: str
    title: str
    sources: tuple[str, ...]
    rows: int
    remark: str = ""


PAPER_TABLES = (
    PaperTable(
        "published_simvtp",
        "SimVTP's comparison on MSR-VTT 1k-A",
        ("SimVTP README", "SimVTP README (Mar 2023)"),
        8,
    ),
    PaperTable(
        "published_mac",
        "MAC's comparison on MSR-VTT 1k-A (Table 1)",
        ("MAC Table 1",),
        16,
        "By R@1: the order in the paper is not known here.",
    ),
)


@dataclass(frozen=True)
class PublishedRow:
    """A row as one paper prints it; every value is the text of the file, empty if unknown."""

    protocol: tuple[str, str, str, str]
    method: str
    visual_init: str
    pretrain_data: str
    pairs: str
    frames: str
    values: Mapping[str, str]
    source: str
    note: str


def read_rows(path: Path = ROWS) -> list[PublishedRow]:
    """Returns all published rows in the order of the file; one for each paper that prints it."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        PublishedRow(
            (row["dataset"], row["split"], row["setting"], row["direction"]),
            row["method"],
            row["visual_init"],
            row["pretrain_data"],
            row["pairs"],
            row["frames"],
            {name: row[column] for name, column in FILE_COLUMNS.items()},
            row["source"],
            row["note"],
        )
        for row in rows
    ]


def paper_tables(path: Path = ROWS) -> tuple[Table, ...]:
    """Lays out each table of a paper as that paper prints it."""
    rows = [row for row in read_rows(path) if row.protocol == MSRVTT]
    made = []
    for paper in PAPER_TABLES:
        own = [row for row in rows if row.source in paper.sources]
        known = paper.remark
        if len(own) < paper.rows:
            known = f"{len(own)} of the {paper.rows} rows of the table are known here. {known}"
        caption = f"{paper.title}, fine-tuned, text to video."
        made.append(_table(paper.name, caption, own, known.strip()))
    return tuple(made)


def other_tables(path: Path = ROWS) -> tuple[Table, ...]:
    """Lays out published rows on other data sets and settings, a table for each."""
    groups: dict[tuple[str, str, str, str], list[PublishedRow]] = {}
    for row in read_rows(path):
        if row.protocol != MSRVTT:
            groups.setdefault(row.protocol, []).append(row)
    made = []
    for (dataset, split, setting, direction), rows in groups.items():
        where = f"{dataset} {split}" if split != "test" else dataset
        caption = f"Published on {where}, {setting}, {direction_name(direction)}."
        name = "_".join(re.findall(r"[a-z0-9]+", f"published {dataset} {setting}".lower()))
        made.append(_table(name, caption, rows, ""))
    return tuple(made)


def _table(name: str, caption: str, rows: Sequence[PublishedRow], remark: str) -> Table:
    columns = (
        Column("method", is_label=True),
        Column("visual init", is_label=True),
        Column("pre-training data", is_label=True),
        Column("pairs"),
        Column("frames"),
        *(Column(metric_of(metric).label) for metric in METRICS),
    )
    notes, made = list(dict.fromkeys(row.note for row in rows if row.note)), []
    for row in rows:
        marks = (f"({notes.index(row.note) + 1})",) if row.note else ()
        about = (row.visual_init, row.pretrain_data, row.pairs, row.frames)
        texts = (*about, *(row.values[metric] for metric in METRICS))
        made.append((Cell(row.method, marks=marks), *(Cell(_printed(text)) for text in texts)))
    by_source: dict[str, list[str]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row.method)
    sources = "; ".join(f"{source}: {', '.join(names)}" for source, names in by_source.items())
    known = f"Copied as printed, not measured here. {MISSING}: not known. {remark}".strip()
    return Table(
        name,
        caption,
        columns,
        tuple(made),
        (
            known,
            f"Sources. {sources}.",
            *(f"({number}) {note}." for number, note in enumerate(notes, 1)),
        ),
    )


def _printed(text: str) -> str:
    return "none" if text == PRINTED_NONE else text or MISSING


# ---- cells of ablations --------------------------------------------------------------------------


@dataclass(frozen=True)
class PublishedCell:
    """A value that a paper prints for a cell of an ablation."""

    cell: Mapping[str, object]
    metric: str
    value: str
    protocol: str
    source: str
    note: str


def read_cells(ablation: str, path: Path = CELLS) -> list[PublishedCell]:
    """Returns the published cells of an ablation."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["ablation"] == ablation]
    return [
        PublishedCell(
            json.loads(row["cell"]),
            row["metric"],
            row["value"],
            row["protocol"],
            row["source"],
            row["note"],
        )
        for row in rows
    ]


def published_table(sweep: SweepResults, path: Path = CELLS) -> tuple[Table, ...]:
    """Lays out each cell as measured here and, in a column of its own, as the paper prints it.

    The published value is mostly unknown, which is a dash.
    """
    plan = sweep.plan
    if plan.kind == SEARCH or not plan.paper_says:
        return ()
    known = read_cells(plan.ablation, path)
    printed = {_values(sweep, one): one.value for one in reversed(known) if one.metric == "R1"}
    key, name = plan.column
    columns = [
        *(Column(axis.label, is_label=True) for axis in plan.axes),
        Column(plan.metric_label, "measured here"),
        Column("n", "measured here"),
        Column(metric_of("R1").label, "published"),
    ]
    rows = []
    made = value_cells(sweep, plan.cells, key, name, mark_optimum=False)
    for cell, value in zip(plan.cells, made, strict=True):
        count = seed_count(sweep, cell, len(sweep.values(cell, key, name)))
        rows.append((*cell_labels(sweep, cell), value, count, Cell(printed.get(cell, MISSING))))
    notes = [
        f"{MISSING} in the published column: the paper's figure is not known; in the measured one: "
        "no figure from a finished run.",
        f"Published: {PROTOCOL}. The two columns are different protocols on different data: "
        "nothing is ranked across them.",
    ]
    for one in known:
        cell = _values(sweep, one)
        if cell in plan.cells:
            notes.append(f"Published, {plan.describe(cell)}: {one.source}; {one.note}.")
    caption = f"{plan.title}: measured here and as the paper prints it."
    return (
        Table(f"{plan.ablation}_published", caption, tuple(columns), tuple(rows), tuple(notes)),
    )


def _values(sweep: SweepResults, one: PublishedCell) -> CellValues:
    return tuple(one.cell.get(axis.key) for axis in sweep.plan.axes)
