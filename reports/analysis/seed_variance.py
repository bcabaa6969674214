"""Variance over seeds of each source of chance, with intervals.

The values of a cell are runs in which one source varies and the others are held; their variance is
the part of that source, given the others. Intervals are those of the chi-squared distribution, for
normal values. Parts need not add up to the variance of all sources together, which interact.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, variance

from scipy import stats

from reports.output.layout import MISSING, Cell, Column, Table
from reports.output.metric_formats import metric_of
from reports.study.report_plan import CellValues
from reports.study.sweep_results import SweepResults

ALL = "all"  # the cell in which every source varies
LEVEL = 0.95


@dataclass(frozen=True)
class VarianceComponent:
    """The spread that one source of chance causes.

    Attributes:
        cell: the cell in which it varies.
        n: number of runs.
        mean: of the metric.
        variance: of the metric; None for fewer than two runs.
        interval: of the variance, 95 %; None where there is no variance.
        share: variance over that of all sources together; None without that.
    """

    cell: CellValues
    n: int
    mean: float
    variance: float | None
    interval: tuple[float, float] | None
    share: float | None


def variance_components(sweep: SweepResults) -> tuple[VarianceComponent, ...]:
    """Returns the measured cells in the order of the plan."""
    measured = {cell: sweep.values(cell, *sweep.plan.column) for cell in sweep.plan.cells}
    samples = {cell: list(by_seed.values()) for cell, by_seed in measured.items() if by_seed}
    total = samples.get((ALL,), [])
    whole = variance(total) if len(total) > 1 else 0.0
    found = []
    for cell, values in samples.items():
        spread = variance(values) if len(values) > 1 else None
        ends = None if spread is None else variance_interval(spread, len(values))
        share = spread / whole if spread is not None and whole > 0 else None
        found.append(VarianceComponent(cell, len(values), fmean(values), spread, ends, share))
    return tuple(found)


def variance_interval(value: float, n: int) -> tuple[float, float]:
    """Returns the 95 % interval of the variance of n normal values whose variance is `value`."""
    tail = (1 - LEVEL) / 2
    high, low = stats.chi2.ppf([tail, 1 - tail], n - 1)
    return float((n - 1) * value / low), float((n - 1) * value / high)


def variance_table(sweep: SweepResults) -> tuple[Table, ...]:
    """Lays out a row for each source: standard deviation, its interval, share of the variance."""
    found = variance_components(sweep)
    if not any(one.variance is not None for one in found):
        return ()
    plan, metric = sweep.plan, metric_of(sweep.plan.column[1])
    columns = (
        Column(plan.axes[0].label, is_label=True),
        Column("n"),
        Column("mean"),
        Column("standard deviation"),
        Column("95 % CI"),
        Column("share of the variance"),
    )
    rows = []
    for one in found:
        spread, ends = one.variance, one.interval
        root = None if ends is None else (ends[0] ** 0.5, ends[1] ** 0.5)
        rows.append(
            (
                Cell(plan.describe(one.cell).removeprefix(f"{plan.axes[0].label} ")),
                Cell(str(one.n)),
                Cell(metric.text(one.mean)),
                Cell(MISSING if spread is None else metric.text(spread**0.5)),
                Cell(MISSING if root is None else metric.interval(root)),
                Cell(MISSING if one.share is None else f"{one.share:.2f}"),
            )
        )
    notes = (
        f"{metric.label}. A row: runs in which that source of chance varies and the others are "
        "held. Intervals: chi-squared, for normal values.",
        "Share: of the variance of all sources together. Shares need not add up to 1, because "
        "sources interact and each is measured from few runs.",
    )
    caption = f"{plan.title}: spread of {plan.metric_label} that each one causes."
    return (Table(f"{plan.ablation}_variance", caption, columns, tuple(rows), notes),)
