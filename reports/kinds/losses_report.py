"""Report on sets of losses: a tick for each loss that is on, and the scores in one column."""

from __future__ import annotations

import re

from reports.figures.dots import dot_plot
from reports.figures.style import Plot
from reports.kinds.report_type import ReportType, grid_plots
from reports.output.layout import TICK, Cell, Column, Table
from reports.output.tables import headline, headline_table, seed_count, value_cells
from reports.study.report_plan import CellValues
from reports.study.sweep_results import SweepResults

# One part of a name: `MVM`, or with a weight `0.5 VTC`, `VTC×0.5`, `VTC=0.5`.
PART = re.compile(
    r"(?:(?P<before>[\d.]+)\s*[×x*]?\s*)?(?P<loss>[A-Za-z]+)(?:\s*[×x*=:]\s*(?P<after>[\d.]+))?"
)


# Rows without a set of losses, or with more than the set.
CONTROLS = ("none", "text only", "shuffled pairs")


def parts(name: str) -> dict[str, str] | None:
    """Returns {loss: tick or weight} of `MVM+MLM+0.5 VTC`; None for a name of another form."""
    if name in CONTROLS:
        return {}
    found: dict[str, str] = {}
    for part in name.split("+"):
        match = PART.fullmatch(part.strip())
        if match is None:
            return None
        found[match["loss"].upper()] = match["before"] or match["after"] or TICK
    return found


def tables(sweep: SweepResults) -> tuple[Table, ...]:
    """Lays out a column for each loss; other names, or several axes, get the table of a grid."""
    plan = sweep.plan
    weights = {cell: parts(_name(sweep, cell)) for cell in plan.cells}
    if len(plan.axes) != 1 or None in weights.values() or not any(weights.values()):
        return headline(sweep)
    names = list(dict.fromkeys(loss for on in weights.values() for loss in on or ()))
    controls = [cell for cell in plan.cells if not weights[cell]]
    columns = [
        *([Column("control", is_label=True)] if controls else []),
        *(Column(name, is_label=True) for name in names),
        Column(plan.metric_label),
        Column("n"),
    ]
    made = value_cells(sweep, plan.cells, *plan.column)
    rows = []
    for cell, value in zip(plan.cells, made, strict=True):
        ticks = [Cell((weights[cell] or {}).get(name, "")) for name in names]
        if controls:
            ticks.insert(0, Cell(_name(sweep, cell) if cell in controls else ""))
        count = seed_count(sweep, cell, len(sweep.values(cell, *plan.column)))
        rows.append((*ticks, value, count))
    return (headline_table(sweep, columns, rows),)


def plots(sweep: SweepResults) -> list[Plot]:
    """Returns the figure of named cells, or of several axes those of a grid."""
    return dot_plot(sweep, "losses") if len(sweep.plan.axes) == 1 else grid_plots(sweep)


def _name(sweep: SweepResults, cell: CellValues) -> str:
    return sweep.plan.axes[0].text(cell[0])


REPORT_TYPE = ReportType(tables=tables, plots=plots)
