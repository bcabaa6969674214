"""What stands in which cell. A `Table` knows nothing of Markdown or LaTeX (`render` does), so each kind is laid out once.

Which tables a report has is said by its kind (`kinds`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from reports.collect import Study, protocol_text
from reports.plan import SEARCH, Axis, Values
from reports.stats import Summary, places
from simvtp.results import Protocol

MISSING = "—"
DAGGER = "†"
DOUBLE_DAGGER = "‡"
TICK = "✓"


@dataclass(frozen=True)
class Metric:
    """How a metric is written and which way is better."""

    label: str
    unit: str
    decimals: int
    higher_is_better: bool

    @property
    def title(self) -> str:
        return f"{self.label} ({self.unit})"

    def text(self, value: float) -> str:
        return f"{value:.{self.decimals}f}"


METRICS = {
    "R1": Metric("R@1", "%", 1, True),
    "R5": Metric("R@5", "%", 1, True),
    "R10": Metric("R@10", "%", 1, True),
    "R50": Metric("R@50", "%", 1, True),
    "MdR": Metric("MdR", "rank", 1, False),
    "MnR": Metric("MnR", "rank", 1, False),
}
SHOWN = ("R1", "R5", "R10", "MdR", "MnR")  # columns of the table of all metrics
DIRECTIONS = {"t2v": "text to video", "v2t": "video to text"}


@dataclass(frozen=True)
class Cell:
    """One place of a table.

    Attributes:
        text: the label, or the mean as it is printed; empty where nothing was planned, a dash where something is missing.
        spread: standard deviation as it is printed; empty if there is a single value.
        place: 1 = best of its group, 2 = second best.
        marks: short superscripts: a dagger, or the number of seeds where some are missing.
    """

    text: str = ""
    spread: str = ""
    place: int = 0
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A head, under a common head for neighbouring columns of one `group`. Labels are set to the left, figures to the right."""

    head: str
    group: str = ""
    is_label: bool = False


@dataclass(frozen=True)
class Table:
    """A laid-out table. `name` ends the LaTeX label."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]


def metric_of(name: str) -> Metric:
    """How to write a metric; one that is not known is written by its own name, two decimals, more is better."""
    return METRICS.get(name, Metric(name, "", 2, True))


def headline(study: Study) -> tuple[Table, ...]:
    """The table of the plan's metric: a grid for two axes, else a row for each cell."""
    return (grid if len(study.plan.axes) == 2 else long_table)(study)


def grid(study: Study) -> tuple[Table, ...]:
    """First axis down, second axis across. Cells of the frame that were not planned stay empty."""
    plan = study.plan
    down, across = plan.axes
    # planned cells outside the product of the axes get a row or column of their own
    outer = [_in_order([*axis.values, *(cell[i] for cell in plan.cells)], axis) for i, axis in enumerate(plan.axes)]
    frame = [(row, column) for row in outer[0] for column in outer[1]]
    made = dict(zip(frame, figures(study, frame, *plan.column), strict=True))
    columns = [Column(down.label, is_label=True), *(Column(across.text(value), across.label) for value in outer[1])]
    rows = [(Cell(down.text(row)), *(made[row, column] for column in outer[1])) for row in outer[0]]
    return (headline_table(study, columns, rows),)


def _in_order(values: Sequence[Any], axis: Axis) -> list[Any]:
    """Each value once; numbers by size, others as they come."""
    once = list(dict.fromkeys(values))
    return sorted(once) if axis.numeric else once


def long_table(study: Study) -> tuple[Table, ...]:
    """A row for each planned cell: for one axis, and for more than two."""
    plan = study.plan
    made = figures(study, plan.cells, *plan.column, mark_optimum=False)  # its label is marked
    columns = [*(Column(axis.label, is_label=True) for axis in plan.axes), Column(plan.metric_label), Column("n")]
    counts = [seed_count(study, cell, len(study.values(cell, *plan.column))) for cell in plan.cells]
    rows = [(*cell_labels(study, cell), figure, n) for cell, figure, n in zip(plan.cells, made, counts, strict=True)]
    return (headline_table(study, columns, rows),)


def all_metrics(study: Study, by_direction: bool = False) -> tuple[Table, ...]:
    """Every metric, a row for each cell; a table for each setting (zero-shot, fine-tuned), since they share no column.

    Both directions stand side by side, or, for narrow pages, in tables of their own.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for key in study.keys:
        protocol = study.example(key).protocol
        groups.setdefault((protocol.split, protocol.setting, protocol.direction if by_direction else ""), []).append(key)
    return tuple(_setting_table(study, setting, direction, keys) for (_, setting, direction), keys in groups.items())


def _setting_table(study: Study, setting: str, only: str, keys: Sequence[str]) -> Table:
    plan = study.plan
    columns = [Column(axis.label, is_label=True) for axis in plan.axes] + [Column("n")]
    filled: list[list[Cell]] = []
    chances = []
    for key in keys:
        result = study.example(key)
        direction = DIRECTIONS.get(result.protocol.direction, result.protocol.direction)
        names = [name for name in SHOWN if name in result.metrics] or sorted(result.metrics)
        columns += [Column(metric_of(name).label, direction) for name in names]
        filled += [figures(study, plan.cells, key, name, mark_optimum=False) for name in names]
        found = [f"{metric_of(name).label} {result.chance[name]:.1f}" for name in names if name in result.chance]
        chances.append(f"{direction} {', '.join(found)}")
    counts = [seed_count(study, cell, sum(any(key in run.results for key in keys) for run in study.by_cell[cell])) for cell in plan.cells]
    rows = [(*cell_labels(study, cell), counts[i], *(column[i] for column in filled)) for i, cell in enumerate(plan.cells)]
    notes = [
        "R@K in %, higher is better; MdR and MnR are ranks from 1, lower is better.",
        *_reading_notes(study, [cell for column in filled for cell in column]),
        f"Chance: {'; '.join(chances)}.",
        f"Protocol: {_protocols_text(study, keys)}; {seeds_text(study)}.",
    ]
    which = f"{setting}, {DIRECTIONS.get(only, only)}" if only else setting
    caption = f"{plan.title}: all retrieval metrics, {which}, on {study.example(keys[0]).protocol.dataset}."
    words = [plan.ablation, "all", *re.findall(r"[a-z0-9]+", f"{setting} {only}".lower())]
    return Table("_".join(words), caption, tuple(columns), tuple(rows), tuple(notes))


def _protocols_text(study: Study, keys: Sequence[str]) -> str:
    """The protocols of several columns; directions that differ in nothing else are told together."""
    told: dict[str, list[str]] = {}
    for key in keys:
        direction, _, rest = protocol_text(study.example(key)).partition(" ")
        told.setdefault(rest, []).append(direction)
    return "; ".join(f"{' and '.join(directions)} {rest}" for rest, directions in told.items())


def figures(study: Study, cells: Sequence[Values], key: str, name: str, *, mark_optimum: bool = True) -> list[Cell]:
    """The figures of one metric for these cells, ranked among themselves on the rounded means."""
    metric = metric_of(name)
    summaries = [study.summary(cell, key, name) for cell in cells]
    order = places([summary.mean if summary else None for summary in summaries], metric.decimals, metric.higher_is_better)
    made = []
    for cell, summary, place in zip(cells, summaries, order, strict=True):
        planned = study.planned(cell)
        marks = (DAGGER,) if mark_optimum and planned and cell == study.plan.published_optimum else ()
        if summary is None:
            made.append(Cell(MISSING if planned else "", marks=marks))
            continue
        marks += (f"({summary.n})",) if summary.n < planned else ()
        made.append(Cell(metric.text(summary.mean), spread_text(summary, metric), place, marks))
    return made


def spread_text(summary: Summary, metric: Metric) -> str:
    return "" if summary.std is None else metric.text(summary.std)


def chance_text(study: Study) -> str:
    """What guessing gives for the plan's metric, with its unit; empty while nothing was measured."""
    key, name = study.plan.column
    result = study.example(key)
    if result is None or name not in result.chance:
        return ""
    metric = metric_of(name)
    return f"{metric.label} {result.chance[name]:.2f} {metric.unit}".strip()


def states_text(study: Study) -> str:
    """`17 of 20 trials finished, 3 of 20 trials pruned`: where the planned points stand."""
    total, what = len(study.plan.points), "trials" if study.plan.kind == SEARCH else "planned runs"
    states = {"finished": 0} | study.states
    return ", ".join(f"{count} of {total} {what} {state}" for state, count in states.items())


def seeds_text(study: Study) -> str:
    seeds = study.plan.seeds
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def seed_count(study: Study, cell: Values, number: int) -> Cell:
    """`3`, or `2 of 3` where seeds are missing."""
    planned = study.planned(cell)
    return Cell(str(number) if number == planned else f"{number} of {planned}")


def cell_labels(study: Study, cell: Values) -> tuple[Cell, ...]:
    made = [Cell(axis.text(value)) for axis, value in zip(study.plan.axes, cell, strict=True)]
    if cell == study.plan.published_optimum:
        made[-1] = replace(made[-1], marks=(DAGGER,))
    return tuple(made)


def headline_table(study: Study, columns: Sequence[Column], rows: Sequence[tuple[Cell, ...]]) -> Table:
    plan = study.plan
    result = study.example(plan.column[0])
    chance = chance_text(study)
    data = f" on {result.protocol.dataset}" if result else f" on {plan.dataset}" if plan.dataset else ""
    notes = [
        *_reading_notes(study, [cell for row in rows for cell in row]),
        f"Protocol: {protocol_text(result)}; {seeds_text(study)}." if result else "No run has finished yet.",
    ]
    caption = f"{plan.title}: {plan.metric_label}{data}{f' (chance: {chance})' if chance else ''}."
    return Table(plan.ablation, caption, tuple(columns), tuple(rows), tuple(notes))


def _reading_notes(study: Study, cells: Sequence[Cell]) -> list[str]:
    """How to read the marks: only those that occur."""
    most = max((study.planned(cell) for cell in study.plan.cells), default=1)
    if most > 1:
        notes = [f"Mean ± standard deviation over n = {most} seeds."]
    else:
        notes = ["One seed for each cell (n = 1): the figures say nothing about noise between seeds."]
    if any(cell.place for cell in cells):
        notes.append("Bold: best, underlined: second best, ranked on the rounded means; ties share a place.")
    marks = {mark for cell in cells for mark in cell.marks}
    if any(mark.startswith("(") for mark in marks):
        notes.append("A raised number in brackets: so many seeds only, of those planned.")
    if any(cell.text == MISSING for cell in cells):
        notes.append(f"{MISSING}: planned, no figure from a finished run.")
    optimum = study.plan.published_optimum
    if optimum and optimum in study.plan.cells:
        notes.append(f"{DAGGER}: the published optimum ({study.plan.describe(optimum)}).")
    elif optimum:
        notes.append(f"The published optimum ({study.plan.describe(optimum)}) is not in this grid.")
    dirty = sum(run.dirty for run in study.runs)
    if dirty:
        notes.append(f"{dirty} of {len(study.runs)} runs came from a tree with uncommitted changes.")
    commits = {run.commit for run in study.runs if run.commit}
    if len(commits) > 1:
        notes.append(f"The runs came from {len(commits)} different commits of the code.")
    return notes


# ---- long form ------------------------------------------------------------------------------------------------------------


def points_frame(study: Study) -> pd.DataFrame:
    """One row a planned point: the cell, the seed, the plan's metric, the run. Empty values where there is no finished run."""
    key, name = study.plan.column
    runs = {run.point: run for run in study.runs}
    rows = []
    for point in sorted(study.plan.points, key=lambda point: (study.plan.cells.index(point.cell), point.seed)):
        run = runs.get(point)
        value = study.values(point.cell, key, name).get(point.seed)
        rows.append(
            {
                **_settings(study, point.cell),
                "seed": point.seed,
                study.plan.metric: value,
                "run_id": run.run_id if run else "",
                "fingerprint": point.fingerprint,
            }
        )
    return pd.DataFrame(rows)


def metrics_frame(study: Study) -> pd.DataFrame:
    """One row a number: the cell, the seed, the run, the protocol, the metric, its value and what guessing gives."""
    rows = []
    for run in (run for cell in study.plan.cells for run in study.by_cell[cell]):
        for key in (key for key in study.keys if key in run.results):
            result = run.results[key]
            for name in (name for name in result.metrics if run.point.seed in study.values(run.point.cell, key, name)):
                rows.append(
                    {
                        **_settings(study, run.point.cell),
                        "run_id": run.run_id,
                        **vars(result.protocol),
                        "queries": result.queries,
                        "gallery": result.gallery,
                        "metric": name,
                        "value": result.metrics[name],
                        "chance": result.chance.get(name),
                    }
                )
    measured = ("run_id", *Protocol.__dataclass_fields__, "queries", "gallery", "metric", "value", "chance")
    return pd.DataFrame(rows, columns=[*(axis.key for axis in study.plan.axes), *measured])


def _settings(study: Study, cell: Values) -> dict[str, Any]:
    return {axis.key: value for axis, value in zip(study.plan.axes, cell, strict=True)}


def cells_frame(study: Study) -> pd.DataFrame:
    """One row a planned cell: for every metric of every protocol mean, standard deviation and number of seeds."""
    rows = []
    for cell in study.plan.cells:
        row = _settings(study, cell)
        for key in study.keys:
            for name in study.example(key).metrics:
                summary = study.summary(cell, key, name)
                row[f"{key}/{name}"] = summary.mean if summary else None
                row[f"{key}/{name}/std"] = summary.std if summary else None
                row[f"{key}/{name}/n"] = summary.n if summary else 0
        rows.append(row)
    return pd.DataFrame(rows)
