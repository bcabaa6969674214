"""Compares each cell with the baseline cell.

Two questions, two tests. Over the seeds: would another training give the same order? All cells are
compared in one model with simultaneous intervals (`cell_model`). The paired bootstrap over the test
items (p-values by Holm's method): would the same trained models give the same order on other test
items? Only the first says something about a setting, so it alone decides. A cell differs from the
baseline if the interval excludes zero, is equivalent if it lies within the margin of the metric,
and is undecided otherwise; with one seed nothing is decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ablations.evidence.stopping_rule import Verdict
from reports.analysis.cell_model import POWER, CellModel, detectable, seeds_needed
from reports.analysis.crossed_items import crossed
from reports.analysis.paired_bootstrap import paired, why_unpaired
from reports.analysis.seed_statistics import Difference, SeedSummary, holm
from reports.analysis.stopped_sweeps import (
    StoppedComparison,
    margin_of,
    stop_notes,
    stop_numbers,
    stop_tables,
    stopped,
)
from reports.analysis.sweep_model import against, baseline_of, sweep_model
from reports.output.layout import MISSING, Cell, Column, Table
from reports.output.metric_formats import Metric, capital, metric_of
from reports.study.report_plan import SEARCH, CellValues
from reports.study.sweep_results import SweepResults

BETTER, WORSE = Verdict.BETTER.value, Verdict.WORSE.value
EQUIVALENT, UNDECIDED, NO_TEST = Verdict.EQUIVALENT.value, Verdict.UNDECIDED.value, "no test"
IDENTICAL = Verdict.IDENTICAL.value


@dataclass(frozen=True)
class Comparison:
    """One cell against the baseline.

    Attributes:
        seeds: difference of the means with its simultaneous interval and adjusted p-value.
        items, p_items: difference by the paired bootstrap over test items, and its p-value by
            Holm's method; None without items.
        outcome: BETTER, WORSE, EQUIVALENT or UNDECIDED by the interval over seeds; NO_TEST if there
            is none; IDENTICAL if the runs have the same results as those of another cell.
        same_as: the cell with the same results, which is counted once.
        crossed: difference with an interval for another training on other test items; None without
            items or with one seed.
        stop: how it ended in a sweep with a stopping rule; None without one.
    """

    cell: CellValues
    baseline: CellValues
    summary: SeedSummary
    other: SeedSummary
    seeds: Difference
    items: Difference | None
    p_items: float | None
    outcome: str
    same_as: CellValues | None = None
    stop: StoppedComparison | None = None
    crossed: Difference | None = None


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
    if plan.until_decided is not None and baseline != plan.rule_baseline:
        return ()  # nothing can be judged by the rule before its baseline has a value
    key, name = plan.column
    summaries = {
        cell: summary for cell in plan.cells if (summary := sweep.summary(cell, key, name))
    }
    cells = [cell for cell in summaries if cell != baseline]
    fitted = sweep_model(sweep)
    tested = [cell for cell in cells if fitted.same_as.get(cell, cell) != baseline]
    seeds = dict(zip(tested, against(sweep, tested, baseline), strict=True))
    items = [paired(sweep, cell, baseline, key, name) for cell in cells]
    p_items = holm([found.p_value if found else None for found in items])
    none, stops = Difference(0.0, None, None), stopped(sweep)
    return tuple(
        Comparison(
            cell,
            baseline,
            summaries[cell],
            summaries[baseline],
            seeds.get(cell, none),
            items[number],
            p_items[number],
            IDENTICAL if cell not in seeds else _outcome(sweep, seeds[cell]),
            fitted.same_as.get(cell),
            stops.get(cell),
            crossed(sweep, cell, baseline),
        )
        for number, cell in enumerate(cells)
    )


def _outcome(sweep: SweepResults, found: Difference) -> str:
    metric, margin = metric_of(sweep.plan.column[1]), margin_of(sweep)
    if found.interval is None:
        return NO_TEST
    low, high = found.interval
    if low > 0 or high < 0:
        return BETTER if (found.mean > 0) == metric.higher_is_better else WORSE
    if margin is not None and -margin < low and high < margin:
        return EQUIVALENT
    return UNDECIDED


# ---- sentences -----------------------------------------------------------------------------------


def names(sweep: SweepResults, cell: CellValues, other: CellValues) -> tuple[str, str]:
    """Returns both cells by the settings that differ: `text mask ratio 0.75` and `0.15`."""
    axes, plan = sweep.plan.axes, sweep.plan
    if plan.is_control(cell) or plan.is_control(other):
        return plan.describe(cell), plan.describe(other)
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
    if found.outcome == IDENTICAL:
        return f"{first} and {second} have identical runs."
    if found.outcome == NO_TEST:
        return f"{first} against {second}: {gap}, {_why_no_test(found)}."
    low, high = found.seeds.interval or (0.0, 0.0)
    turned = found.outcome in (BETTER, WORSE) and found.seeds.mean < 0
    ends = (-high, -low) if turned else (low, high)
    interval = f"95 % CI {interval_text(metric, ends)}, {_seeds(found)}"
    if found.outcome == EQUIVALENT:
        margin = f"±{metric.text(margin_of(sweep) or 0.0)} {metric.label}"
        return f"{first} and {second} are equivalent within {margin}: {gap}, {interval}."
    if found.outcome == UNDECIDED:
        return f"{first} against {second} is undecided: {gap}, {interval}."
    verb = "beats" if found.outcome == BETTER else "loses to"
    lower = "" if metric.higher_is_better else " (lower is better)"
    size = f"{metric.text(abs(found.seeds.mean))} {metric.label}{lower}"
    return f"{first} {verb} {second} by {size}, {interval}."


def _why_no_test(found: Comparison) -> str:
    if found.stop is not None and not found.stop.decision.seeds:
        return "no look was made yet"
    if min(found.summary.n, found.other.n) == 1:
        return "one seed, so nothing can be said of noise between seeds"
    return "the runs leave no error between seeds, so there is no test"


def _seeds(found: Comparison) -> str:
    if found.stop is not None:
        return f"{found.stop.decision.seeds} seeds"
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
    tested = [one for one in found if one.outcome not in (NO_TEST, IDENTICAL)]
    if not tested:
        return []
    if len(found) <= most:
        return [capital(sentence(sweep, one)) for one in found]
    outcomes = (BETTER, WORSE, EQUIVALENT, UNDECIDED)
    counts = {name: sum(one.outcome == name for one in tested) for name in outcomes}
    parts = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    clearest = min(tested, key=lambda one: (one.seeds.p_value or 0.0, -abs(one.seeds.mean)))
    decided = clearest.outcome in (BETTER, WORSE)
    more = [capital(sentence(sweep, clearest))] if decided else []
    baseline = sweep.plan.describe(found[0].baseline)
    return [f"Of {len(tested)} cells against {baseline}: {parts}.", *more]


# ---- table ---------------------------------------------------------------------------------------


def comparison_tables(sweep: SweepResults) -> tuple[Table, ...]:
    """Lays out a row for each measured cell: its mean, and its difference by both tests."""
    found = compare(sweep)
    if not found:
        return ()
    plan, metric = sweep.plan, metric_of(sweep.plan.column[1])
    groups = {"over seeds": "p (adjusted)", "over test items (bootstrap)": "p (Holm)"}
    columns = [
        *(Column(axis.label, is_label=True) for axis in plan.axes),
        Column("n"),
        Column("mean"),
        Column("95 % CI"),
    ]
    for group, p_value in groups.items():
        columns += [Column(head, group) for head in ("difference", "95 % CI", p_value)]
    columns.append(Column("95 % CI", "over both"))
    columns.append(Column("verdict", is_label=True))
    baseline = [Cell("baseline"), *[Cell()] * 6]
    rows = [_row(sweep, metric, found[0].baseline, found[0].other, baseline, "")]
    for one in found:
        differences = _differences(metric, one)
        rows.append(_row(sweep, metric, one.cell, one.summary, differences, _verdict(sweep, one)))
    caption = f"{plan.title}: {plan.metric_label}, each cell against the baseline."
    notes = tuple(_notes(sweep, metric, found))
    table = Table(f"{plan.ablation}_comparisons", caption, tuple(columns), tuple(rows), notes)
    return (table, *stop_tables(sweep))


def _verdict(sweep: SweepResults, one: Comparison) -> str:
    if one.outcome == EQUIVALENT:
        margin = metric_of(sweep.plan.column[1]).text(margin_of(sweep) or 0.0)
        return f"{EQUIVALENT} within ±{margin}"
    return one.outcome


def method_note(model: CellModel | None) -> str:
    """Names the test over seeds."""
    return f"Over seeds: {model.method if model else 'no test'}."


def model_notes(sweep: SweepResults) -> list[str]:
    """Returns the method over seeds, the rule of the verdict and the detectable difference."""
    if sweep.plan.until_decided is not None:
        return [f"Seeds until decided. {note}" for note in stop_notes(sweep.plan.until_decided)[:1]]
    metric, fitted = metric_of(sweep.plan.column[1]), sweep_model(sweep)
    model = fitted.model
    if model is None:
        return [method_note(model)]
    within = ""
    if metric.margin is not None:
        within = f", equivalent if it lies within ±{metric.text(metric.margin)} {metric.label}"
    notes = [
        method_note(model),
        f"Verdict: different if the interval over seeds excludes 0{within}, otherwise undecided.",
    ]
    others = len(model.means) - 1
    if not model.equal_variances or others < 1:
        return notes
    weights = np.hstack([-np.ones((others, 1)), np.eye(others)])
    size = metric.text(detectable(model, weights))
    text = f"Detectable with probability {100 * POWER:.0f} %: {size} {metric.label}."
    if metric.margin is not None:
        needed = seeds_needed(model, metric.margin)
        count = f"{needed} seeds a cell" if needed else "more than 200 seeds a cell"
        text += f" {capital(count)} would detect {metric.text(metric.margin)}."
    return [*notes, text]


def _notes(sweep: SweepResults, metric: Metric, found: Sequence[Comparison]) -> list[str]:
    plan, baseline = sweep.plan, found[0].baseline
    notes = [
        f"Difference of the means to the baseline ({plan.describe(baseline)}) in {metric.label}. "
        "Mean: Student's t-interval over the seeds of the cell.",
        *model_notes(sweep),
        "Over test items: these trained models on other test items, 95 % interval of one "
        "difference, p-values by Holm's method; it says nothing about another training.",
        "Over both: another training on other test items, 95 % interval of one difference (seeds "
        "and clips crossed).",
    ]
    copies = [one for one in found if one.same_as is not None]
    for one in copies:
        same = plan.describe(one.same_as or one.cell)
        notes.append(f"{plan.describe(one.cell)}: identical runs to {same}, counted once.")
    unpaired = [one.cell for one in found if one.items is None]
    if unpaired:
        reason = why_unpaired(sweep, *plan.column, [baseline, *unpaired])
        notes.append(f"{MISSING} over test items: {reason}.")
    if any(one.outcome == NO_TEST for one in found):
        notes.append(
            f"{MISSING} over seeds: no test, because a cell has a single seed "
            "or the runs leave no error between seeds."
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
    labels = [Cell(text) for text in sweep.plan.labels(cell)]
    spread = "" if summary.std is None else metric.text(summary.std)
    values = [
        Cell(str(summary.n)),
        Cell(metric.text(summary.mean), spread),
        Cell(interval_text(metric, summary.interval)),
    ]
    return (*labels, *values, *middle, Cell(verdict))


def _differences(metric: Metric, one: Comparison) -> list[Cell]:
    cells = []
    for found, p in ((one.seeds, one.seeds.p_value), (one.items, one.p_items)):
        cells.append(Cell(signed(metric, found.mean) if found else MISSING))
        cells.append(Cell(interval_text(metric, found.interval if found else None)))
        cells.append(Cell(MISSING if p is None else p_text(p)))
    cells.append(Cell(interval_text(metric, one.crossed.interval if one.crossed else None)))
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
    for name, found in (("seeds", one.seeds), ("items", one.items), ("crossed", one.crossed)):
        low, high = found.interval if found and found.interval else (None, None)
        p_value = found.p_value if found else None
        values |= {
            f"{name}_difference": found.mean if found else None,
            f"{name}_low": low,
            f"{name}_high": high,
            f"{name}_p_adjusted" if name == "seeds" else f"{name}_p": p_value,
        }
    values["items_p_holm"] = one.p_items
    return values | {"outcome": one.outcome, **stop_numbers(one.stop)}
