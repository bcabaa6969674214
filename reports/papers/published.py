"""What the papers print, with its sources and doubts, beside what was measured here: never in one
column, and nothing is filled in.

`ablations/published.csv` has whole rows of comparisons, `ablations/published_cells.csv` single
cells of ablations."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reports.output.layout import DOUBLE_DAGGER, MISSING, Cell, Column, Table
from reports.output.metric_formats import metric_of
from reports.output.tables import cell_labels, figures, seed_count
from reports.study.archive import Measured
from reports.study.collect import Study
from reports.study.report_plan import SEARCH, Values

FOLDER = Path(__file__).resolve().parents[2] / "ablations"
ROWS, CELLS = FOLDER / "published.csv", FOLDER / "published_cells.csv"
METRICS = ("R1", "R5", "R10", "MdR")
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
TENTH, WHOLE = "SimVTP (10% of WebVid2M)", "SimVTP"  # rows of the data-efficiency curve


@dataclass(frozen=True)
class Row:
    """A published row; every value is the text of the file, empty where unknown."""

    method: str
    visual_init: str
    pretrain_data: str
    pairs: str
    frames: str
    figures: Mapping[str, str]
    source: str
    note: str


def read_rows(path: Path = ROWS) -> list[Row]:
    """The fine-tuned text-to-video rows on MSR-VTT 1k-A, in the order of the file."""
    with open(path, newline="", encoding="utf-8") as file:
        found = [
            r
            for r in csv.DictReader(file)
            if (r["dataset"], r["split"], r["setting"], r["direction"]) == _MSRVTT
        ]
    columns = {"R1": "R@1", "R5": "R@5", "R10": "R@10", "MdR": "MdR"}
    return [
        Row(
            r["method"],
            r["visual_init"],
            r["pretrain_data"],
            r["pairs"],
            r["frames"],
            {name: r[column] for name, column in columns.items()},
            r["source"],
            r["note"],
        )
        for r in found
    ]


_MSRVTT = ("MSR-VTT", "1k-A", "finetuned", "t2v")


def simvtp_rows(rows: Sequence[Row]) -> list[Row]:
    """The eight rows of SimVTP's comparison."""
    return [next(row for row in rows if row.method == name) for name in SIMVTP]


def mac_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of MAC's Table 1 that are known: those with it as source, and those whose note says
    what it prints. MAC comes last.
    """
    found = [
        row for row in rows if row.source == "MAC Table 1" or "MAC's Table 1 prints" in row.note
    ]
    return sorted(found, key=lambda row: (row.method == "MAC", _number(row.figures["R1"])))


def _number(text: str) -> float:
    return float(text) if text else 0.0


def paper_tables(measured: Sequence[Measured], path: Path = ROWS) -> tuple[Table, ...]:
    """Both comparisons on MSR-VTT, each followed by the rows that were measured here, in columns of
    their own.
    """
    rows = read_rows(path)
    mac = mac_rows(rows)
    short = (
        f"{len(mac)} of the 16 rows of the paper's table are in our sources."
        if len(mac) < 16
        else ""
    )
    return (
        _comparison(
            "published_simvtp",
            "SimVTP's comparison on MSR-VTT 1k-A",
            simvtp_rows(rows),
            measured,
            "",
        ),
        _comparison("published_mac", "MAC's comparison on MSR-VTT 1k-A", mac, measured, short),
    )


def _comparison(
    name: str, title: str, rows: Sequence[Row], measured: Sequence[Measured], remark: str
) -> Table:
    protocols = list(dict.fromkeys(row.protocol for row in measured))
    published = [Column(metric_of(metric).label, "published") for metric in METRICS]
    here = [_here_columns(number, len(protocols)) for number in range(1, len(protocols) + 1)]
    columns = [
        Column("method", is_label=True),
        Column("visual init", is_label=True),
        Column("pre-training data", is_label=True),
    ]
    columns += [
        Column("pairs"),
        Column("frames"),
        *published,
        *(column for group in here for column in group),
    ]
    names = _short_names(measured)
    notes_of = list(dict.fromkeys(row.note for row in rows if row.note))
    made = []
    for row in rows:
        marks = (f"({notes_of.index(row.note) + 1})",) if row.note else ()
        labels = [
            Cell(row.method, marks=marks),
            *(Cell(text or MISSING) for text in (row.visual_init, row.pretrain_data)),
        ]
        sizes = [Cell(text or MISSING) for text in (row.pairs, row.frames)]
        made.append(
            (
                *labels,
                *sizes,
                *(Cell(row.figures[metric] or MISSING) for metric in METRICS),
                *[Cell()] * 5 * len(protocols),
            )
        )
    for one, short in zip(measured, names, strict=True):
        before = protocols.index(one.protocol)
        labels = [Cell(short, marks=(DOUBLE_DAGGER,)), *[Cell()] * 4, *[Cell()] * len(METRICS)]
        after = len(protocols) - before - 1
        made.append((*labels, *[Cell()] * 5 * before, *_here(one), *[Cell()] * 5 * after))
    sources = list(dict.fromkeys(row.source for row in rows))
    by_source = [
        f"{source}: {', '.join(row.method for row in rows if row.source == source)}"
        for source in sources
    ]
    notes = [
        f"Published ({PROTOCOL}): copied as printed, not measured here. "
        + f"{MISSING}: not known. {remark}".strip(),
        f"Sources. {'; '.join(by_source)}.",
        *(f"({number}) {note}." for number, note in enumerate(notes_of, 1)),
    ]
    if measured:
        notes.append(
            f"{DOUBLE_DAGGER}: measured here, mean ± standard deviation over n seeds; on other data, so nothing is ranked across."
        )
        notes += [
            f"{short}: {one.label.partition(': ')[2]}."
            for one, short in zip(measured, names, strict=True)
        ]
        notes += [
            f"Measured here{_which(number, len(protocols))}: {text}."
            for number, text in enumerate(protocols, 1)
        ]
    else:
        notes.append("Nothing was measured here yet that could stand beside these rows.")
    return Table(
        name, f"{title}, fine-tuned, text to video.", tuple(columns), tuple(made), tuple(notes)
    )


def _short_names(measured: Sequence[Measured]) -> list[str]:
    """`ours, tiny`: the recipe, numbered where it comes more than once."""
    recipes = [one.label.partition(":")[0] for one in measured]
    return [
        f"ours, {recipe}"
        + (f" {recipes[: number + 1].count(recipe)}" if recipes.count(recipe) > 1 else "")
        for number, recipe in enumerate(recipes)
    ]


def _which(number: int, of: int) -> str:
    return f" ({number})" if of > 1 else ""


def _here_columns(number: int, of: int) -> list[Column]:
    group = f"measured here{_which(number, of)}"
    return [*(Column(metric_of(metric).label, group) for metric in METRICS), Column("n", group)]


def _here(one: Measured) -> list[Cell]:
    cells = []
    for name in METRICS:
        summary, metric = one.figures.get(name), metric_of(name)
        spread = metric.text(summary.std) if summary and summary.std is not None else ""
        cells.append(Cell(metric.text(summary.mean) if summary else MISSING, spread))
    return [*cells, Cell(str(one.seeds))]


# ---- cells of ablations --------------------------------------------------------------------------


@dataclass(frozen=True)
class PublishedCell:
    """One figure that a paper prints for a cell of an ablation."""

    cell: Mapping[str, object]
    metric: str
    value: str
    protocol: str
    source: str
    note: str


def read_cells(ablation: str, path: Path = CELLS) -> list[PublishedCell]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["ablation"] == ablation]
    return [
        PublishedCell(
            json.loads(r["cell"]), r["metric"], r["value"], r["protocol"], r["source"], r["note"]
        )
        for r in rows
    ]


def beside_published(study: Study, path: Path = CELLS) -> tuple[Table, ...]:
    """A row for each cell: what was measured here, and in a column of its own what the paper prints
    for it, mostly a dash.
    """
    plan = study.plan
    if plan.kind == SEARCH or not plan.paper_says:
        return ()
    known = read_cells(plan.ablation, path)
    key, name = plan.column
    columns = [*(Column(axis.label, is_label=True) for axis in plan.axes)]
    columns += [
        Column(plan.metric_label, "measured here"),
        Column("n", "measured here"),
        Column(metric_of("R1").label, "published"),
    ]
    made = figures(study, plan.cells, key, name, mark_optimum=False)
    rows = []
    for cell, figure in zip(plan.cells, made, strict=True):
        printed = _printed(study, cell, known)
        count = seed_count(study, cell, len(study.values(cell, key, name)))
        rows.append(
            (*cell_labels(study, cell), figure, count, Cell(printed.value if printed else MISSING))
        )
    notes = [
        f"{MISSING} in the published column: the paper's figure is not known; in the measured one: no figure from a finished run.",
        f"Published: {PROTOCOL}. The two columns are different protocols on different data: nothing is ranked across them.",
        *(
            f"Published, {plan.describe(_values(study, one))}: {one.source}; {one.note}."
            for one in known
            if _values(study, one) in plan.cells
        ),
    ]
    caption = f"{plan.title}: measured here beside what the paper prints."
    return (
        Table(f"{plan.ablation}_published", caption, tuple(columns), tuple(rows), tuple(notes)),
    )


def _printed(study: Study, cell: Values, known: Sequence[PublishedCell]) -> PublishedCell | None:
    return next((one for one in known if _values(study, one) == cell and one.metric == "R1"), None)


def _values(study: Study, one: PublishedCell) -> Values:
    return tuple(one.cell.get(axis.key) for axis in study.plan.axes)
