"""Lays out rows measured here like the papers' rows, on a page of their own.

Data, models and protocol differ from the papers', so they share no table with published values.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from reports.output.layout import MISSING, Cell, Column, Table
from reports.output.metric_formats import metric_of
from reports.papers.published import METRICS
from reports.study.archive import MeasuredRow


def measured_tables(rows: Sequence[MeasuredRow]) -> tuple[Table, ...]:
    """Lays out a table for each protocol, a row for each cell."""
    protocols = list(dict.fromkeys(row.protocol for row in rows))
    columns = (
        Column("recipe", is_label=True),
        Column("cell", is_label=True),
        Column("n"),
        *(Column(metric_of(metric).label) for metric in METRICS),
    )
    tables = []
    for number, protocol in enumerate(protocols, 1):
        made = []
        for row in (row for row in rows if row.protocol == protocol):
            recipe, _, cell = row.label.partition(": ")
            made.append((Cell(recipe), Cell(cell), Cell(str(row.seeds)), *_values(row)))
        notes = (
            "Mean ± standard deviation over n seeds. Not comparable with the papers' tables: data, "
            "models and protocol are others. Nothing is ranked; each report has its own tests.",
            f"Protocol: {protocol}.",
        )
        name = "measured" if len(protocols) == 1 else f"measured_{number}"
        caption = "Text-to-video retrieval, measured here."
        tables.append(Table(name, caption, columns, tuple(made), notes))
    return tuple(tables)


def _values(row: MeasuredRow) -> list[Cell]:
    cells = []
    for name in METRICS:
        summary, metric = row.values.get(name), metric_of(name)
        spread = metric.text(summary.std) if summary and summary.std is not None else ""
        cells.append(Cell(metric.text(summary.mean) if summary else MISSING, spread))
    return cells


def measured_frame(rows: Sequence[MeasuredRow]) -> pd.DataFrame:
    """Returns the measured rows in full precision, with the runs behind each."""
    made = []
    for row in rows:
        values: dict[str, object] = {
            "row": row.label,
            "ablation": row.ablation,
            "protocol": row.protocol,
            "n": row.seeds,
        }
        for name in METRICS:
            summary = row.values.get(name)
            values[name] = summary.mean if summary else None
            values[f"{name}/std"] = summary.std if summary else None
        values |= {
            "cpu_hours": row.cpu_hours,
            "gpu_hours": row.gpu_hours,
            "commits": " ".join(row.commits),
            "runs": " ".join(row.runs),
        }
        made.append(values)
    return pd.DataFrame(made)
