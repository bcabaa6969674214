"""Lays out report tables.

A `Table` knows nothing of Markdown or LaTeX (`render` does), so each kind is laid out once. The
report type (`reports.kinds`) decides which tables a report has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from reports.analysis.best_cells import rank_cells
from reports.analysis.seed_statistics import SeedSummary
from reports.analysis.sweep_model import sweep_model
from reports.output.layout import DAGGER, MISSING, Cell, Column, Table
from reports.output.metric_formats import Metric, metric_of, range_text
from reports.study.protocols import protocol_text
from reports.study.report_plan import SEARCH, CellValues, PlannedAxis
from reports.study.sweep_results import SweepResults, varied_fields


def headline(sweep: SweepResults) -> tuple[Table, ...]:
    """Lays out the plan's metric: a grid for two axes, otherwise a row for each cell."""
    return (grid if len(sweep.plan.axes) == 2 else long_table)(sweep)


def grid(sweep: SweepResults) -> tuple[Table, ...]:
    """Lays out the first axis down and the second across.

    Planned cells outside the product of the axes get a row or column of their own; cells of the
    frame that were not planned stay empty. Controls have a table of their own.
    """
    plan = sweep.plan
    down, across = plan.axes
    gridded = [cell for cell in plan.cells if not plan.is_control(cell)]
    rows_of = _in_order([*down.values, *(cell[0] for cell in gridded)], down)
    columns_of = _in_order([*across.values, *(cell[1] for cell in gridded)], across)
    frame = [(row, column) for row in rows_of for column in columns_of]
    made = dict(zip(frame, value_cells(sweep, frame, *plan.column), strict=True))
    columns = [
        Column(down.label, is_label=True),
        *(Column(across.text(value), across.label) for value in columns_of),
    ]
    rows = [
        (Cell(down.text(row)), *(made[row, column] for column in columns_of)) for row in rows_of
    ]
    return (headline_table(sweep, columns, rows), *_control_table(sweep))


def _control_table(sweep: SweepResults) -> tuple[Table, ...]:
    """Lays out the rows outside a grid, which are not ranked with its cells."""
    plan = sweep.plan
    if not plan.control_cells:
        return ()
    columns = (Column("outside the grid", is_label=True), Column(plan.metric_label), Column("n"))
    rows = []
    made = value_cells(sweep, plan.control_cells, *plan.column)
    for cell, value in zip(plan.control_cells, made, strict=True):
        count = seed_count(sweep, cell, len(sweep.values(cell, *plan.column)))
        rows.append((Cell(plan.describe(cell)), replace(value, rank=0), count))
    caption = f"{plan.title}: {plan.metric_label} outside the grid, under the same protocol."
    return (Table(f"{plan.ablation}_controls", caption, columns, tuple(rows), ()),)


def _in_order(values: Sequence[Any], axis: PlannedAxis) -> list[Any]:
    """Returns each value once; numbers by size, others in the given order."""
    once = list(dict.fromkeys(values))
    return sorted(once) if axis.numeric else once


def long_table(sweep: SweepResults) -> tuple[Table, ...]:
    """Lays out a row for each planned cell: for one axis, and for more than two."""
    plan = sweep.plan
    # The label of the published optimum is marked, so its value is not.
    made = value_cells(sweep, plan.cells, *plan.column, mark_optimum=False)
    columns = [
        *(Column(axis.label, is_label=True) for axis in plan.axes),
        Column(plan.metric_label),
        Column("n"),
    ]
    rows = []
    for cell, value in zip(plan.cells, made, strict=True):
        count = seed_count(sweep, cell, len(sweep.values(cell, *plan.column)))
        rows.append((*cell_labels(sweep, cell), value, count))
    return (headline_table(sweep, columns, rows),)


def headline_table(
    sweep: SweepResults, columns: Sequence[Column], rows: Sequence[tuple[Cell, ...]]
) -> Table:
    """Makes the table of the plan's metric: caption, protocol and how to read it."""
    plan, result = sweep.plan, sweep.headline
    chance = chance_text(sweep)
    levels = "; ".join([*([f"chance: {chance}"] if chance else []), *baselines_text(sweep)])
    dataset = result.protocol.dataset if result else plan.dataset
    data = f" on {dataset}" if dataset else ""
    protocol = "No run has finished yet."
    if result:
        protocol = f"Protocol: {protocol_text(result)}; {seeds_text(sweep)}."
    notes = [*reading_notes(sweep, [cell for row in rows for cell in row]), protocol]
    caption = f"{plan.title}: {plan.metric_label}{data}{f' ({levels})' if levels else ''}."
    return Table(plan.ablation, caption, tuple(columns), tuple(rows), tuple(notes))


# ---- cells ---------------------------------------------------------------------------------------


def value_cells(
    sweep: SweepResults,
    cells: Sequence[CellValues],
    key: str,
    name: str,
    *,
    mark_optimum: bool = True,
) -> list[Cell]:
    """Returns the values of one metric for these cells, ranked among themselves."""
    metric = metric_of(name)
    summaries = [sweep.summary(cell, key, name) for cell in cells]
    order = rank_cells(sweep, cells, key, name).ranks
    made = []
    for cell, summary, rank in zip(cells, summaries, order, strict=True):
        planned = sweep.planned(cell)
        marks: tuple[str, ...] = ()
        if mark_optimum and planned and cell == sweep.plan.published_optimum:
            marks = (DAGGER,)
        if summary is None:
            made.append(Cell(MISSING if planned else "", marks=marks))
            continue
        marks += (f"({summary.n})",) if summary.n < most_seeds(sweep) else ()
        made.append(Cell(metric.text(summary.mean), spread_text(summary, metric), rank, marks))
    return made


def most_seeds(sweep: SweepResults) -> int:
    """Returns the n of a table's note: the planned seeds of the cell that has most of them."""
    return max((sweep.planned(cell) for cell in sweep.plan.cells), default=1)


def spread_text(summary: SeedSummary, metric: Metric) -> str:
    """Returns the standard deviation as it is printed; empty for a single value."""
    return "" if summary.std is None else metric.text(summary.std)


def seed_count(sweep: SweepResults, cell: CellValues, number: int) -> Cell:
    """Returns `3`, or `2 of 3` if seeds are missing."""
    planned = sweep.planned(cell)
    return Cell(str(number) if number == planned else f"{number} of {planned}")


def cell_labels(sweep: SweepResults, cell: CellValues) -> tuple[Cell, ...]:
    """Returns the values of a cell as labels, the published optimum marked."""
    made = [Cell(text) for text in sweep.plan.labels(cell)]
    if cell == sweep.plan.published_optimum:
        made[-1] = replace(made[-1], marks=(DAGGER,))
    return tuple(made)


# ---- words ---------------------------------------------------------------------------------------


def chance_text(sweep: SweepResults) -> str:
    """Returns the value of guessing for the plan's metric; empty if nothing was measured."""
    _, name = sweep.plan.column
    result = sweep.headline
    if result is None or name not in result.chance:
        return ""
    metric = metric_of(name)
    return f"{metric.label} {metric.guess(result.chance[name])}"


def baselines_text(sweep: SweepResults) -> tuple[str, ...]:
    """Returns `prior: accuracy 31.00 %` for each baseline of the plan's metric."""
    return _levels_text(sweep, sweep.baselines(*sweep.plan.column))


def levels_text(sweep: SweepResults) -> tuple[str, ...]:
    """Returns the same of the baselines and of the rows outside a grid."""
    return _levels_text(sweep, sweep.levels(*sweep.plan.column))


def _levels_text(
    sweep: SweepResults, levels: Mapping[str, Mapping[CellValues, float]]
) -> tuple[str, ...]:
    metric = metric_of(sweep.plan.column[1])
    return tuple(
        f"{name}: {metric.label} {range_text(metric, values.values())}"
        for name, values in levels.items()
    )


def states_text(sweep: SweepResults) -> str:
    """Returns `17 of 20 trials finished, 3 of 20 trials pruned`."""
    total = len(sweep.plan.points)
    noun = "trials" if sweep.plan.kind == SEARCH else "planned runs"
    states = {"finished": 0} | sweep.states
    return ", ".join(f"{count} of {total} {noun} {state}" for state, count in states.items())


def seeds_text(sweep: SweepResults) -> str:
    """Returns `seeds 0, 1, 2`."""
    seeds = sweep.plan.seeds
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def reading_notes(sweep: SweepResults, cells: Sequence[Cell]) -> list[str]:
    """Explains spreads, ranks and marks of a table, as far as they occur, and its sources."""
    most = most_seeds(sweep)
    notes = [f"Mean ± standard deviation over n = {most} seeds."]
    if most == 1:
        notes = [
            "One seed for each cell (n = 1): the figures say nothing about noise between seeds."
        ]
    notes += _rank_notes(sweep, cells)
    marks = {mark for cell in cells for mark in cell.marks}
    if any(mark.startswith("(") for mark in marks):
        notes.append("A raised number in brackets: so many seeds only.")
    if any(cell.text == MISSING for cell in cells):
        notes.append(f"{MISSING}: planned, no figure from a finished run.")
    return [*notes, *_optimum_notes(sweep), *_source_notes(sweep)]


def _rank_notes(sweep: SweepResults, cells: Sequence[Cell]) -> list[str]:
    ranks = {cell.rank for cell in cells} - {0}
    if not ranks:
        return []
    ranked = "best, underlined: second best, ranked on the rounded means; ties share a rank."
    if sweep_model(sweep).model is None:
        return [f"Bold: {ranked} Nothing is tested."]
    first = ", by the seeds of the first look" if sweep.plan.until_decided is not None else ""
    notes = [
        "Bold: the best and all that are not different from it over the seeds (Tukey's 95 % "
        f"intervals, which hold for any pair{first})."
    ]
    return [*notes, f"Without a test, bold: {ranked}"] if 2 in ranks else notes


def _optimum_notes(sweep: SweepResults) -> list[str]:
    optimum = sweep.plan.published_optimum
    if not optimum:
        return []
    described = sweep.plan.describe(optimum)
    if optimum in sweep.plan.cells:
        return [f"{DAGGER}: the published optimum ({described})."]
    return [f"The published optimum ({described}) is not in this grid."]


def _source_notes(sweep: SweepResults) -> list[str]:
    """Returns what differs between the runs of the rows: protocol, uncommitted changes, commits."""
    notes = []
    for name, values in varied_fields(sweep, sweep.plan.column[0]).items():
        notes.append(
            f"The rows differ in the {name} of their test ({', '.join(map(str, values))}), "
            "which this sweep varies; all else is equal."
        )
    dirty = sum(run.dirty for run in sweep.runs)
    if dirty:
        notes.append(
            f"{dirty} of {len(sweep.runs)} runs came from a tree with uncommitted changes."
        )
    commits = {run.commit for run in sweep.runs if run.commit}
    if len(commits) > 1:
        notes.append(f"The runs came from {len(commits)} different commits of the code.")
    return notes
