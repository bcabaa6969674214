"""Methods under one protocol: size, cost and retrieval in both directions side by side, and the
papers' rows in a table of their own.
"""

from __future__ import annotations

from reports.figures.costs import means
from reports.kinds.report_kind import Kind
from reports.output.layout import MISSING, Cell, Column, Table
from reports.output.metric_formats import metric_of
from reports.output.tables import (
    DIRECTIONS,
    cell_labels,
    figures,
    headline,
    protocol_notes,
    reading_notes,
    seed_count,
)
from reports.papers.published import paper_tables
from reports.study.collect import Study
from simvtp.runs.metric_names import result_group

SHOWN = ("R1", "R5", "R10", "MdR")
_COSTS = {
    "parameters": 4,
    "GMAC": 5,
    "CPU-hours": 0,
    "GPU-hours": 1,
}  # head -> place in `costs.means`


def tables(study: Study) -> tuple[Table, ...]:
    """One table of everything, if retrieval was measured; else the table of any grid."""
    keys = [
        key
        for key in study.keys
        if result_group(key) and result_group(study.plan.column[0]) == result_group(key)
    ]
    directed = [key for key in keys if study.example(key).protocol.direction in DIRECTIONS]  # type: ignore[union-attr]
    return (_table(study, directed),) if directed else headline(study)


def _table(study: Study, keys: list[str]) -> Table:
    plan = study.plan
    gpu = any(run.gpu_hours for run in study.runs)
    costs = [head for head in _COSTS if head != ("CPU-hours" if gpu else "GPU-hours")]
    columns = [
        *(Column(axis.label, is_label=True) for axis in plan.axes),
        Column("n"),
        *(Column(head) for head in costs),
    ]
    filled = []
    for key in keys:
        result = study.example(key)
        assert result is not None, "keys are those of measured results"
        names = [name for name in SHOWN if name in result.metrics]
        columns += [
            Column(metric_of(name).label, DIRECTIONS[result.protocol.direction]) for name in names
        ]
        filled += [figures(study, plan.cells, key, name, mark_optimum=False) for name in names]
    rows = []
    for number, cell in enumerate(plan.cells):
        count = seed_count(study, cell, sum(keys[0] in run.results for run in study.by_cell[cell]))
        spent = means(study.by_cell[cell])
        sizes = [_cost(head, spent[_COSTS[head]]) for head in costs]
        rows.append(
            (*cell_labels(study, cell), count, *sizes, *(column[number] for column in filled))
        )
    notes = [
        *reading_notes(study, [cell for column in filled for cell in column]),
        "Parameters and GMAC (multiply-adds of one forward pass per sample, masks on) of pre-training; hours of a run, all stages and restarts.",
        "The runs, commits and fingerprints behind each row: provenance.json.",
        *protocol_notes(study, keys),
    ]
    return Table(
        plan.ablation,
        f"{plan.title}: measured here, under one protocol.",
        tuple(columns),
        tuple(rows),
        tuple(notes),
    )


def _cost(head: str, value: float | None) -> Cell:
    if value is None:
        return Cell(MISSING)
    return Cell(f"{value / 1e6:.1f} M" if head == "parameters" else f"{value:.3g}")


def published(study: Study) -> tuple[Table, ...]:
    """The papers' rows on MSR-VTT, with nothing of this study in them."""
    return paper_tables([])


KIND = Kind(tables=tables, published=published, methods=True)
