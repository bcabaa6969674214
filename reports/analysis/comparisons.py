"""Compares each cell with the baseline cell.

Two questions, two tests. Welch's test over the seeds: would another training give the same order?
The paired bootstrap over the test items: would the same trained models give the same order on other
test items? Only the first says something about a setting, so it alone decides between "better",
"worse" and "not distinguishable"; with one seed nothing is decided. P-values are corrected by
Holm's method over the rows of the table, for each test separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.analysis.paired_bootstrap import paired, why_unpaired
from reports.analysis.seed_statistics import Difference, SeedSummary, difference, holm
from reports.output.layout import MISSING, Cell, Column, Table
from reports.output.metric_formats import Metric, capital, metric_of
from reports.study.report_plan import SEARCH, CellValues
from reports.study.sweep_results import SweepResults

LEVEL = 0.05
BETTER, WORSE, EQUAL, UNDECIDED = "better", "worse", "not distinguishable", "no test"


@dataclass(frozen=True)
class Comparison:
    """One cell against the baseline.

    Attributes:
        seeds, p_seeds: difference of the means with Welch's interval; its p-value after Holm's
            correction.
        items, p_items: the same by the paired bootstrap over test items; None without items.
        outcome: BETTER, WORSE or EQUAL by p_seeds; UNDECIDED if a side has a single seed or the
            seeds do not differ.
    """

    cell: CellValues
    baseline: CellValues
    summary: SeedSummary
    other: SeedSummary
    seeds: Difference
    p_seeds: float | None
    items: Difference | None
    p_items: float | None
    outcome: str


def baseline_of(sweep: SweepResults) -> CellValues | None:
    """Returns the cell that the others are compared with.

    That is the first measured one of: the plan's baseline, the published optimum, the first cell.
    """
    plan = sweep.plan
    wanted = (plan.baseline, plan.published_optimum, *plan.cells)
    return next(
        (cell for cell in wanted if cell is not None and sweep.values(cell, *plan.column)), None
    )


def compare(sweep: SweepResults) -> tuple[Comparison, ...]:
    """Returns all measured cells but the baseline, in the order of the plan.

    Of a search there are none: its trials are no repeats of settings.
    """
    if "comparisons" not in sweep.cache:
        sweep.cache["comparisons"] = _compare(sweep)
    found: tuple[Comparison, ...] = sweep.cache["comparisons"]
    return found


def _compare(sweep: SweepResults) -> tuple[Comparison, ...]:
    plan, baseline = sweep.plan, baseline_of(sweep)
    if plan.kind == SEARCH or baseline is None:
        return ()
    key, name = plan.column
    summaries = {
        cell: summary for cell in plan.cells if (summary := sweep.summary(cell, key, name))
    }
    cells = [cell for cell in summaries if cell != baseline]
    values = {cell: list(sweep.values(cell, key, name).values()) for cell in summaries}
    seeds = [difference(values[cell], values[baseline]) for cell in cells]
    items = [paired(sweep, cell, baseline, key, name) for cell in cells]
    p_seeds = holm([found.p_value for found in seeds])
    p_items = holm([found.p_value if found else None for found in items])
    better = metric_of(name).higher_is_better
    return tuple(
        Comparison(
            cell,
            baseline,
            summaries[cell],
            summaries[baseline],
            seeds[number],
            p_seeds[number],
            items[number],
            p_items[number],
            _outcome(seeds[number], p_seeds[number], better),
        )
        for number, cell in enumerate(cells)
    )


def _outcome(found: Difference, p_value: float | None, higher_is_better: bool) -> str:
    if p_value is None:
        return UNDECIDED
    if p_value >= LEVEL:
        return EQUAL
    return BETTER if (found.mean > 0) == higher_is_better else WORSE


# ---- sentences -----------------------------------------------------------------------------------


def names(sweep: SweepResults, cell: CellValues, other: CellValues) -> tuple[str, str]:
    """Returns both cells by the settings that differ: `text mask ratio 0.75` and `0.15`."""
    axes = sweep.plan.axes
    differing = [(axis, a, b) for axis, a, b in zip(axes, cell, other, strict=True) if a != b]
    first = ", ".join(f"{axis.label} {axis.text(a)}" for axis, a, _ in differing)
    if len(differing) == 1:
        axis, _, b = differing[0]
        return first, axis.text(b)
    return first, ", ".join(f"{axis.label} {axis.text(b)}" for axis, _, b in differing)


def sentence(sweep: SweepResults, found: Comparison) -> str:
    """Returns `text mask ratio 0.75 beats 0.15 by 4.1 R@1, 95 % CI [2.0, 6.2], 5 seeds`."""
    metric = metric_of(sweep.plan.column[1])
    first, second = names(sweep, found.cell, found.baseline)
    gap = f"{signed(metric, found.seeds.mean)} {metric.label}"
    if found.outcome == UNDECIDED:
        return f"{first} against {second}: {gap}, {_why_undecided(found)}."
    low, high = found.seeds.interval or (0.0, 0.0)
    turned = found.outcome != EQUAL and found.seeds.mean < 0
    ends = (-high, -low) if turned else (low, high)
    interval = f"95 % CI {interval_text(metric, ends)}, {_seeds(found)}"
    if found.outcome == EQUAL:
        return f"{first} and {second} are not distinguishable: {gap}, {interval}."
    verb = "beats" if found.outcome == BETTER else "loses to"
    lower = "" if metric.higher_is_better else " (lower is better)"
    size = f"{metric.text(abs(found.seeds.mean))} {metric.label}{lower}"
    return f"{first} {verb} {second} by {size}, {interval}."


def _why_undecided(found: Comparison) -> str:
    if min(found.summary.n, found.other.n) == 1:
        return "one seed, so nothing can be said of noise between seeds"
    return "the seeds do not differ at all, so there is no test"


def _seeds(found: Comparison) -> str:
    a, b = found.summary.n, found.other.n
    return f"{a} seeds" if a == b else f"{a} and {b} seeds"


def signed(metric: Metric, value: float) -> str:
    """Returns `+1.2` or `−0.3`; a value that is printed as zero has no sign."""
    text = metric.text(abs(value))
    return text if float(text) == 0 else f"{'+' if value > 0 else '−'}{text}"


def verdict_lines(sweep: SweepResults, most: int = 4) -> list[str]:
    """Returns a sentence for each comparison, or, of more than `most`, the counts and the clearest.

    Without a test (one seed, which the verdict says elsewhere) there are none.
    """
    found = compare(sweep)
    tested = [one for one in found if one.outcome != UNDECIDED]
    if not tested:
        return []
    if len(found) <= most:
        return [capital(sentence(sweep, one)) for one in found]
    counts = {name: sum(one.outcome == name for one in tested) for name in (BETTER, WORSE, EQUAL)}
    parts = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    clearest = min(tested, key=lambda one: (one.p_seeds or 0.0, -abs(one.seeds.mean)))
    more = [capital(sentence(sweep, clearest))] if clearest.outcome != EQUAL else []
    baseline = sweep.plan.describe(found[0].baseline)
    return [f"Of {len(tested)} cells against {baseline}: {parts}.", *more]


# ---- table ---------------------------------------------------------------------------------------


def comparison_tables(sweep: SweepResults) -> tuple[Table, ...]:
    """Lays out a row for each measured cell: its mean, and its difference by both tests."""
    found = compare(sweep)
    if not found:
        return ()
    plan, metric = sweep.plan, metric_of(sweep.plan.column[1])
    groups = ("over seeds (Welch)", "over test items (bootstrap)")
    columns = [
        *(Column(axis.label, is_label=True) for axis in plan.axes),
        Column("n"),
        Column("mean"),
        Column("95 % CI"),
    ]
    for group in groups:
        columns += [Column(head, group) for head in ("difference", "95 % CI", "p (Holm)")]
    columns.append(Column("verdict", is_label=True))
    baseline = [Cell("baseline"), *[Cell()] * 5]
    rows = [_row(sweep, metric, found[0].baseline, found[0].other, baseline, "")]
    for one in found:
        differences = _differences(metric, one)
        rows.append(_row(sweep, metric, one.cell, one.summary, differences, one.outcome))
    caption = f"{plan.title}: {plan.metric_label}, each cell against the baseline."
    notes = tuple(_notes(sweep, metric, found))
    return (Table(f"{plan.ablation}_comparisons", caption, tuple(columns), tuple(rows), notes),)


def _notes(sweep: SweepResults, metric: Metric, found: Sequence[Comparison]) -> list[str]:
    plan, baseline = sweep.plan, found[0].baseline
    notes = [
        f"Difference of the means to the baseline ({plan.describe(baseline)}) in {metric.label}; "
        "95 % intervals of one difference.",
        "Mean: Student's t-interval over the seeds. p-values are corrected by Holm's method over "
        "the rows, for each test by itself.",
        "Verdict: by the corrected p-value of Welch's test over seeds, "
        f"at {LEVEL:g}; with one seed there is none.",
        "Over test items: these trained models on other test items; "
        "it says nothing about another training.",
    ]
    unpaired = [one.cell for one in found if one.items is None]
    if unpaired:
        reason = why_unpaired(sweep, *plan.column, [baseline, *unpaired])
        notes.append(f"{MISSING} over test items: {reason}.")
    if any(one.p_seeds is None for one in found):
        notes.append(
            f"{MISSING} over seeds: no test, because a cell has a single seed "
            "or its seeds do not differ."
        )
    return notes


def _row(
    sweep: SweepResults,
    metric: Metric,
    cell: CellValues,
    summary: SeedSummary,
    middle: list[Cell],
    verdict: str,
) -> tuple[Cell, ...]:
    labels = [Cell(axis.text(value)) for axis, value in zip(sweep.plan.axes, cell, strict=True)]
    spread = "" if summary.std is None else metric.text(summary.std)
    values = [
        Cell(str(summary.n)),
        Cell(metric.text(summary.mean), spread),
        Cell(interval_text(metric, summary.interval)),
    ]
    return (*labels, *values, *middle, Cell(verdict))


def _differences(metric: Metric, one: Comparison) -> list[Cell]:
    cells = []
    for found, p in ((one.seeds, one.p_seeds), (one.items, one.p_items)):
        cells.append(Cell(signed(metric, found.mean) if found else MISSING))
        cells.append(Cell(interval_text(metric, found.interval if found else None)))
        cells.append(Cell(MISSING if p is None else p_text(p)))
    return cells


def interval_text(metric: Metric, ends: tuple[float, float] | None) -> str:
    """Returns `[−1.0, 4.4]`, or a dash if there is no interval."""
    return metric.interval(ends) if ends else MISSING


def p_text(value: float) -> str:
    """Returns a p-value with three decimals; below the least of them `< 0.001`."""
    return "< 0.001" if value < 0.0005 else f"{value:.3f}"


def comparisons_frame(sweep: SweepResults) -> pd.DataFrame:
    """Returns the table in full precision."""
    plan = sweep.plan
    rows = []
    for one in compare(sweep):
        baseline = plan.settings(one.baseline)
        row = plan.settings(one.cell) | {f"baseline.{key}": baseline[key] for key in baseline}
        rows.append(row | as_numbers(one))
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else [axis.key for axis in plan.axes])


def as_numbers(one: Comparison) -> dict[str, Any]:
    """Returns a comparison as plain values; None where there is no test."""
    values: dict[str, Any] = {
        "n": one.summary.n,
        "baseline_n": one.other.n,
        "mean": one.summary.mean,
        "baseline_mean": one.other.mean,
    }
    for name, found, p in (("seeds", one.seeds, one.p_seeds), ("items", one.items, one.p_items)):
        low, high = found.interval if found and found.interval else (None, None)
        values |= {
            f"{name}_difference": found.mean if found else None,
            f"{name}_low": low,
            f"{name}_high": high,
            f"{name}_p": found.p_value if found else None,
            f"{name}_p_holm": p,
        }
    return values | {"outcome": one.outcome}
