"""Report on methods under one protocol: size, cost and retrieval in both directions.

The papers' rows are in a table of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from reports.figures.costs import hours_unit, mean_costs
from reports.kinds.report_type import ReportType
from reports.output.all_metrics import protocol_notes
from reports.output.layout import MISSING, Cell, Column, Table
from reports.output.metric_formats import metric_of
from reports.output.tables import cell_labels, headline, reading_notes, seed_count, value_cells
from reports.papers.published import paper_tables
from reports.study.sweep_results import SweepResults
from simvtp.runs.metric_names import result_group
from simvtp.runs.results import DIRECTIONS, direction_name

SHOWN = ("R1", "R5", "R10", "MdR")
COSTS = {  # head of the column -> cost
    "parameters": "parameters",
    "GMAC": "forward_gmac",
    "CPU-hours": "cpu_hours",
    "GPU-hours": "gpu_hours",
}


def tables(sweep: SweepResults) -> tuple[Table, ...]:
    """Lays out one table of everything, if retrieval was measured; else the table of a grid."""
    setting = result_group(sweep.plan.column[0])
    keys = [
        key
        for key in sweep.keys
        if setting
        and result_group(key) == setting
        and sweep.example(key).protocol.direction in DIRECTIONS
    ]
    return (_table(sweep, keys),) if keys else headline(sweep)


def _table(sweep: SweepResults, keys: Sequence[str]) -> Table:
    plan = sweep.plan
    costs = ["parameters", "GMAC", hours_unit(sweep)]
    columns = [
        *(Column(axis.label, is_label=True) for axis in plan.axes),
        Column("n"),
        *(Column(head) for head in costs),
    ]
    filled = []
    for key in keys:
        result = sweep.example(key)
        direction = direction_name(result.protocol.direction)
        for name in (name for name in SHOWN if name in result.metrics):
            columns.append(Column(metric_of(name).label, direction))
            filled.append(value_cells(sweep, plan.cells, key, name, mark_optimum=False))
    rows = []
    for number, cell in enumerate(plan.cells):
        runs = sweep.by_cell[cell]
        count = seed_count(sweep, cell, sum(keys[0] in run.results for run in runs))
        means = mean_costs(runs)
        spent = [_cost(head, means[COSTS[head]]) for head in costs]
        values = [column[number] for column in filled]
        rows.append((*cell_labels(sweep, cell), count, *spent, *values))
    notes = [
        *reading_notes(sweep, [cell for column in filled for cell in column]),
        "Parameters and GMAC (multiply-adds of one forward pass per sample, masks on) of "
        "pre-training; hours of a run, all stages and restarts.",
        "The runs, commits and fingerprints behind each row: provenance.json.",
        *protocol_notes(sweep, keys),
    ]
    caption = f"{plan.title}: measured here, under one protocol."
    return Table(plan.ablation, caption, tuple(columns), tuple(rows), tuple(notes))


def _cost(head: str, value: float | None) -> Cell:
    if value is None:
        return Cell(MISSING)
    return Cell(f"{value / 1e6:.1f} M" if head == "parameters" else f"{value:.3g}")


def published(sweep: SweepResults) -> tuple[Table, ...]:
    """Returns the papers' rows on MSR-VTT, without any of this sweep."""
    return paper_tables()


REPORT_TYPE = ReportType(tables=tables, published=published, methods=True)
