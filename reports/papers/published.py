"""Lays out what the papers print, with sources and doubts, separate from what was measured here.

`ablations/published.csv` has whole rows of comparisons, `ablations/published_cells.csv` single
cells of ablations. Nothing is filled in.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reports.output.layout import DOUBLE_DAGGER, MISSING, Cell, Column, Table
from reports.output.metric_formats import metric_of
from reports.output.tables import cell_labels, seed_count, value_cells
from reports.study.archive import MeasuredRow
from reports.study.report_plan import SEARCH, CellValues
from reports.study.sweep_results import SweepResults

FOLDER = Path(__file__).resolve().parents[2] / "ablations"
ROWS, CELLS = FOLDER / "published.csv", FOLDER / "published_cells.csv"
METRICS = ("R1", "R5", "R10", "MdR")
FILE_COLUMNS = {"R1": "R@1", "R5": "R@5", "R10": "R@10", "MdR": "MdR"}
MSRVTT = ("MSR-VTT", "1k-A", "finetuned", "t2v")
PROTOCOL = "MSR-VTT 1k-A, fine-tuned, text to video"
SIMVTP = (
    "HERO",
    "AVLnet",
    "Frozen",
    "OA-Trans",
    "RegionLearner",
    "LocVTP",
    "BridgeFormer",
    "SimVTP",
)
MAC_ROWS = 16  # of the paper's table
TENTH, WHOLE = "SimVTP (10% of WebVid2M)", "SimVTP"  # rows of the data-efficiency curve


@dataclass(frozen=True)
class PublishedRow:
    """A published row; every value is the text of the file, empty if unknown."""

    method: str
    visual_init: str
    pretrain_data: str
    pairs: str
    frames: str
    values: Mapping[str, str]
    source: str
    note: str


def read_rows(path: Path = ROWS) -> list[PublishedRow]:
    """Returns the fine-tuned text-to-video rows on MSR-VTT 1k-A, in the order of the file."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        PublishedRow(
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
        if (row["dataset"], row["split"], row["setting"], row["direction"]) == MSRVTT
    ]


def simvtp_rows(rows: Sequence[PublishedRow]) -> list[PublishedRow]:
    """Returns the eight rows of SimVTP's comparison."""
    return [next(row for row in rows if row.method == name) for name in SIMVTP]


def mac_rows(rows: Sequence[PublishedRow]) -> list[PublishedRow]:
    """Returns the known rows of MAC's Table 1, with MAC last.

    They have it as source, or a note that says what it prints.
    """
    found = [
        row for row in rows if row.source == "MAC Table 1" or "MAC's Table 1 prints" in row.note
    ]
    return sorted(found, key=lambda row: (row.method == "MAC", float(row.values["R1"] or 0)))


def paper_tables(measured: Sequence[MeasuredRow], path: Path = ROWS) -> tuple[Table, ...]:
    """Lays out both comparisons on MSR-VTT, then the rows measured here in columns of their own."""
    rows = read_rows(path)
    mac = mac_rows(rows)
    known = ""
    if len(mac) < MAC_ROWS:
        known = f"{len(mac)} of the {MAC_ROWS} rows of the paper's table are in our sources."
    simvtp = simvtp_rows(rows)
    title = "comparison on MSR-VTT 1k-A"
    return (
        _comparison("published_simvtp", f"SimVTP's {title}", simvtp, measured, ""),
        _comparison("published_mac", f"MAC's {title}", mac, measured, known),
    )


def _comparison(
    name: str,
    title: str,
    rows: Sequence[PublishedRow],
    measured: Sequence[MeasuredRow],
    remark: str,
) -> Table:
    protocols = list(dict.fromkeys(row.protocol for row in measured))
    columns = [
        Column("method", is_label=True),
        Column("visual init", is_label=True),
        Column("pre-training data", is_label=True),
        Column("pairs"),
        Column("frames"),
        *(Column(metric_of(metric).label, "published") for metric in METRICS),
    ]
    for number in range(1, len(protocols) + 1):
        columns += _measured_columns(number, len(protocols))
    made = [
        *_published_cells(rows, len(protocols)),
        *_measured_cells(measured, protocols),
    ]
    notes = [*_source_notes(rows, remark), *_measured_notes(measured, protocols)]
    caption = f"{title}, fine-tuned, text to video."
    return Table(name, caption, tuple(columns), tuple(made), tuple(notes))


def _published_cells(rows: Sequence[PublishedRow], protocols: int) -> list[tuple[Cell, ...]]:
    """Returns the published rows; their columns of measured values are empty."""
    notes = _notes_of(rows)
    empty = [Cell()] * (len(METRICS) + 1) * protocols
    made = []
    for row in rows:
        marks = (f"({notes.index(row.note) + 1})",) if row.note else ()
        texts = (row.visual_init, row.pretrain_data, row.pairs, row.frames)
        about = [Cell(text or MISSING) for text in texts]
        values = [Cell(row.values[metric] or MISSING) for metric in METRICS]
        made.append((Cell(row.method, marks=marks), *about, *values, *empty))
    return made


def _measured_cells(
    measured: Sequence[MeasuredRow], protocols: Sequence[str]
) -> list[tuple[Cell, ...]]:
    """Returns the measured rows, each in the columns of its protocol."""
    width = len(METRICS) + 1
    made = []
    for row, short in zip(measured, _short_names(measured), strict=True):
        before = protocols.index(row.protocol)
        label = Cell(short, marks=(DOUBLE_DAGGER,))
        left = [Cell()] * (4 + len(METRICS) + width * before)
        right = [Cell()] * (width * (len(protocols) - before - 1))
        made.append((label, *left, *_values_of(row), *right))
    return made


def _notes_of(rows: Sequence[PublishedRow]) -> list[str]:
    return list(dict.fromkeys(row.note for row in rows if row.note))


def _source_notes(rows: Sequence[PublishedRow], remark: str) -> list[str]:
    by_source: dict[str, list[str]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row.method)
    sources = "; ".join(f"{source}: {', '.join(names)}" for source, names in by_source.items())
    copied = f"Published ({PROTOCOL}): copied as printed, not measured here."
    return [
        f"{copied} {MISSING}: not known. {remark}".strip(),
        f"Sources. {sources}.",
        *(f"({number}) {note}." for number, note in enumerate(_notes_of(rows), 1)),
    ]


def _measured_notes(measured: Sequence[MeasuredRow], protocols: Sequence[str]) -> list[str]:
    if not measured:
        return ["Nothing was measured here yet that is comparable with these rows."]
    notes = [
        f"{DOUBLE_DAGGER}: measured here, mean ± standard deviation over n seeds; "
        "on other data, so nothing is ranked across."
    ]
    for row, short in zip(measured, _short_names(measured), strict=True):
        notes.append(f"{short}: {row.label.partition(': ')[2]}.")
    for number, text in enumerate(protocols, 1):
        notes.append(f"Measured here{_number(number, len(protocols))}: {text}.")
    return notes


def _short_names(measured: Sequence[MeasuredRow]) -> list[str]:
    """Returns `ours, tiny`: the recipe, numbered if it occurs more than once."""
    recipes = [row.label.partition(":")[0] for row in measured]
    names = []
    for position, recipe in enumerate(recipes):
        count = recipes[: position + 1].count(recipe)
        names.append(f"ours, {recipe}" + (f" {count}" if recipes.count(recipe) > 1 else ""))
    return names


def _number(number: int, of: int) -> str:
    return f" ({number})" if of > 1 else ""


def _measured_columns(number: int, of: int) -> list[Column]:
    group = f"measured here{_number(number, of)}"
    return [*(Column(metric_of(metric).label, group) for metric in METRICS), Column("n", group)]


def _values_of(row: MeasuredRow) -> list[Cell]:
    cells = []
    for name in METRICS:
        summary, metric = row.values.get(name), metric_of(name)
        spread = metric.text(summary.std) if summary and summary.std is not None else ""
        cells.append(Cell(metric.text(summary.mean) if summary else MISSING, spread))
    return [*cells, Cell(str(row.seeds))]


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
