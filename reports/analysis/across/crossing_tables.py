"""Lays out the compute at which cells overtake the baseline."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from reports.analysis.across.crossings import Crossing, Unit, crossings, learning_curves
from reports.analysis.comparisons import interval_text, signed
from reports.analysis.seed_statistics import Difference
from reports.analysis.sweep_model import baseline_of
from reports.output.layout import MISSING, Cell, Column, Table
from reports.output.metric_formats import Metric, metric_of
from reports.study.sweep_results import SweepResults


def crossing_tables(sweep: SweepResults) -> tuple[Table, ...]:
    """Lays out a row for each cell with a curve; nothing if no run was scored on its way."""
    curves, found, plan = learning_curves(sweep), crossings(sweep), sweep.plan
    baseline = baseline_of(sweep)
    if curves is None or baseline is None or not found:
        return ()
    metric, unit = metric_of(curves.metric), curves.unit
    columns = (
        *(Column(axis.label, is_label=True) for axis in plan.axes),
        Column(unit, "from"),
        Column("difference", "from"),
        Column("95 % CI", "from"),
        Column(unit, "to"),
        Column("difference", "to"),
        Column("95 % CI", "to"),
        Column(unit, "crossing"),
        Column("95 % CI", "crossing"),
        Column("order", is_label=True),
    )
    rows = []
    for one in found:
        labels = [Cell(text) for text in plan.labels(one.cell)]
        ends = [
            *_end(metric, unit, one.start, one.first),
            *_end(metric, unit, one.end, one.last),
        ]
        at = Cell(MISSING if one.at is None else compute_text(one.at, unit))
        rows.append((*labels, *ends, at, Cell(range_of_crossing(one, unit)), Cell(order(one))))
    caption = f"{plan.title}: cells against the baseline at equal compute."
    table = Table(f"{plan.ablation}_crossings", caption, columns, tuple(rows), tuple(_notes(sweep)))
    return (table,)


def _end(metric: Metric, unit: Unit, place: float, gap: Difference) -> list[Cell]:
    texts = (
        compute_text(place, unit),
        signed(metric, gap.mean),
        interval_text(metric, gap.interval),
    )
    return [Cell(text) for text in texts]


def order(one: Crossing) -> str:
    """Returns what happens at the crossing, or a dash."""
    if one.at is None:
        return MISSING
    return "overtakes the baseline" if one.overtakes else "is overtaken"


def range_of_crossing(one: Crossing, unit: Unit) -> str:
    """Returns `[1.1e12, 2.0e12]`; a side that is open has no number, and without a test a dash."""
    if one.at is None or one.interval is None:
        return MISSING
    low, high = one.interval
    left = "(below" if low is None else f"[{compute_text(low, unit)}"
    right = "beyond)" if high is None else f"{compute_text(high, unit)}]"
    return f"{left}, {right}"


def compute_text(value: float, unit: Unit) -> str:
    """Returns `1.23e12` operations, or `5952` clips."""
    return f"{value:.0f}" if unit == Unit.CLIPS else f"{value:.2e}".replace("e+", "e")


def _notes(sweep: SweepResults) -> Sequence[str]:
    curves, baseline = learning_curves(sweep), baseline_of(sweep)
    assert curves is not None and baseline is not None
    metric = metric_of(curves.metric)
    count = max(len(runs) for runs in curves.runs.values())
    return (
        f"Baseline: {sweep.plan.describe(baseline)}. {metric.label}, zero-shot, on the validation "
        f"split, during pre-training; straight lines between the points; up to {count} seeds.",
        "From, to: the ends of the range of compute that all runs of both cells share, with the "
        "difference to the baseline there and the 95 % interval of one difference, in the model of "
        "all cells that have been there.",
        f"Crossing: the last compute at which the means change their order; {MISSING}: they do "
        "not. Its interval ends where the earlier order is last shown and where the later one is "
        "shown from there on. It is open (below, beyond) on a side where no order is shown: then "
        "the crossing itself is not shown.",
        "A learning rate that falls to its end makes the last scores of a run better than those "
        "of a longer run at the same compute; with schedule=wsd this holds for the decay alone.",
    )


def crossings_frame(sweep: SweepResults) -> pd.DataFrame:
    """Returns the table in full precision."""
    curves, rows = learning_curves(sweep), []
    for one in crossings(sweep):
        row = {**sweep.plan.settings(one.cell), "unit": curves.unit.value if curves else ""}
        for name, place, gap in (("from", one.start, one.first), ("to", one.end, one.last)):
            low, high = gap.interval or (None, None)
            row |= {name: place, f"{name}_difference": gap.mean}
            row |= {f"{name}_low": low, f"{name}_high": high}
        low, high = one.interval or (None, None)
        row |= {"at": one.at, "at_low": low, "at_high": high, "order": order(one)}
        rows.append(row)
    return pd.DataFrame(rows)
