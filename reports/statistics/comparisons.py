"""Each cell against the baseline cell: Welch over the seeds, a paired bootstrap over the test
items, Holm over the table.

The two answer different questions. Welch over the seeds: would another training come out the same
way? The bootstrap over the items: would the same trained models come out the same way on other test
items? Only the first says something about a setting, so only it decides between "better", "worse"
and "not distinguishable"; with one seed nothing is decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.output.layout import MISSING, Cell, Column, Table
from reports.output.metric_formats import Metric, capital, metric_of
from reports.statistics.paired_bootstrap import paired, why_unpaired
from reports.statistics.seed_statistics import Difference, Summary, difference, holm
from reports.study.collect import Study
from reports.study.report_plan import SEARCH, Values

LEVEL = 0.05
BETTER, WORSE, EQUAL, UNDECIDED = "better", "worse", "not distinguishable", "no test"


@dataclass(frozen=True)
class Comparison:
    """One cell against the baseline.

    Attributes: seeds, p_seeds: difference of the means and Welch's interval; its p-value after
        Holm's correction. items, p_items: the same by the paired bootstrap over test items; None
        where it cannot be had. outcome: BETTER, WORSE or EQUAL by p_seeds; UNDECIDED where a side
        has a single seed or the seeds do not differ.
    """

    cell: Values
    baseline: Values
    summary: Summary
    other: Summary
    seeds: Difference
    p_seeds: float | None
    items: Difference | None
    p_items: float | None
    outcome: str


def baseline_of(study: Study) -> Values | None:
    """The cell that the others are compared with: the plan's baseline, else the published optimum,
    else the first; of those measured.
    """
    plan = study.plan
    wanted = [
        cell for cell in (plan.baseline, plan.published_optimum, *plan.cells) if cell is not None
    ]
    return next((cell for cell in wanted if study.values(cell, *plan.column)), None)


def compare(study: Study) -> tuple[Comparison, ...]:
    """All measured cells but the baseline, in the order of the plan. Nothing for a search: its
    trials are no repeats of settings.
    """
    if "comparisons" not in study.kept:
        study.kept["comparisons"] = _compare(study)
    return study.kept["comparisons"]  # type: ignore[no-any-return]


def _compare(study: Study) -> tuple[Comparison, ...]:
    plan, baseline = study.plan, baseline_of(study)
    if plan.kind == SEARCH or baseline is None:
        return ()
    key, name = plan.column
    cells = [cell for cell in plan.cells if cell != baseline and study.values(cell, key, name)]
    figures = {cell: list(study.values(cell, key, name).values()) for cell in (*cells, baseline)}
    seeds = [difference(figures[cell], figures[baseline]) for cell in cells]
    items = [paired(study, cell, baseline, key, name) for cell in cells]
    p_seeds = holm([found.p_value for found in seeds])
    p_items = holm([found.p_value if found else None for found in items])
    better = metric_of(name).higher_is_better
    return tuple(
        Comparison(
            cell,
            baseline,
            study.summary(cell, key, name),  # type: ignore[arg-type]
            study.summary(baseline, key, name),  # type: ignore[arg-type]
            found,
            p,
            item,
            p_item,
            _outcome(found, p, better),
        )
        for cell, found, p, item, p_item in zip(cells, seeds, p_seeds, items, p_items, strict=True)
    )


def _outcome(found: Difference, p_value: float | None, higher_is_better: bool) -> str:
    if p_value is None:
        return UNDECIDED
    if p_value >= LEVEL:
        return EQUAL
    return BETTER if (found.mean > 0) == higher_is_better else WORSE


# ---- words ---------------------------------------------------------------------------------------


def names(study: Study, cell: Values, other: Values) -> tuple[str, str]:
    """Both cells by what differs: `text mask ratio 0.75` and `0.15`."""
    differing = [
        (axis, a, b) for axis, a, b in zip(study.plan.axes, cell, other, strict=True) if a != b
    ]
    first = ", ".join(f"{axis.label} {axis.text(a)}" for axis, a, _ in differing)
    if len(differing) == 1:
        axis, _, b = differing[0]
        return first, axis.text(b)
    return first, ", ".join(f"{axis.label} {axis.text(b)}" for axis, _, b in differing)


def sentence(study: Study, found: Comparison) -> str:
    """`text mask ratio 0.75 beats 0.15 by 4.1 R@1, 95 % CI [2.0, 6.2], 5 seeds.`"""
    metric = metric_of(study.plan.column[1])
    first, second = names(study, found.cell, found.baseline)
    size = abs(found.seeds.mean)
    if found.outcome == UNDECIDED:
        return f"{first} against {second}: {signed(metric, found.seeds.mean)} {metric.label}, {_why_undecided(found)}."
    low, high = found.seeds.interval or (0.0, 0.0)
    turned = found.outcome != EQUAL and found.seeds.mean < 0
    ends = (-high, -low) if turned else (low, high)
    interval = f"95 % CI {_interval(metric, ends)}, {_seeds(found)}"
    if found.outcome == EQUAL:
        return f"{first} and {second} are not distinguishable: {signed(metric, found.seeds.mean)} {metric.label}, {interval}."
    verb = "beats" if found.outcome == BETTER else "loses to"
    lower = "" if metric.higher_is_better else " (lower is better)"
    return f"{first} {verb} {second} by {metric.text(size)} {metric.label}{lower}, {interval}."


def _why_undecided(found: Comparison) -> str:
    if min(found.summary.n, found.other.n) == 1:
        return "one seed, so nothing can be said of noise between seeds"
    return "the seeds do not differ at all, so there is no test"


def _seeds(found: Comparison) -> str:
    a, b = found.summary.n, found.other.n
    return f"{a} seeds" if a == b else f"{a} and {b} seeds"


def signed(metric: Metric, value: float) -> str:
    """`+1.2`, `−0.3`; what is printed as zero has no sign."""
    text = metric.text(abs(value))
    return text if float(text) == 0 else f"{'+' if value > 0 else '−'}{text}"


def verdict_lines(study: Study, most: int = 4) -> list[str]:
    """The sentences of a small table; of a large one how many cells differ from the baseline, and
    the clearest.
    """
    found = compare(study)
    told = [one for one in found if one.outcome != UNDECIDED]
    if not told:  # one seed, which is told elsewhere
        return []
    if len(found) <= most:
        return [capital(sentence(study, one)) for one in found]
    counts = {name: sum(one.outcome == name for one in told) for name in (BETTER, WORSE, EQUAL)}
    parts = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    clearest = min(told, key=lambda one: (one.p_seeds or 0.0, -abs(one.seeds.mean)))
    more = [capital(sentence(study, clearest))] if clearest.outcome != EQUAL else []
    return [
        f"Of {len(told)} cells against {study.plan.describe(found[0].baseline)}: {parts}.",
        *more,
    ]


# ---- table ---------------------------------------------------------------------------------------


def comparison_tables(study: Study) -> tuple[Table, ...]:
    """A row for each measured cell: its mean with the t-interval, and its difference to the
    baseline by both tests.
    """
    found = compare(study)
    if not found:
        return ()
    plan, metric = study.plan, metric_of(study.plan.column[1])
    groups = ("over seeds (Welch)", "over test items (bootstrap)")
    columns = [
        *(Column(axis.label, is_label=True) for axis in plan.axes),
        Column("n"),
        Column("mean"),
        Column("95 % CI"),
    ]
    columns += [
        Column(head, group) for group in groups for head in ("difference", "95 % CI", "p (Holm)")
    ]
    columns += [Column("verdict", is_label=True)]
    unpaired = any(one.items is None for one in found)
    rows = [
        _row(
            study, metric, found[0].baseline, found[0].other, [Cell("baseline"), *[Cell()] * 5], ""
        )
    ]
    rows += [
        _row(study, metric, one.cell, one.summary, _differences(metric, one), one.outcome)
        for one in found
    ]
    notes = [
        f"Difference of the means to the baseline ({plan.describe(found[0].baseline)}) in {metric.label}; 95 % intervals of one difference.",
        "Mean: Student's t-interval over the seeds. p-values are corrected by Holm's method over the rows, for each test by itself.",
        f"Verdict: by the corrected p-value of Welch's test over seeds, at {LEVEL:g}; with one seed there is none.",
        "Over test items: these trained models on other test items; it says nothing of another training.",
    ]
    if unpaired:
        reason = why_unpaired(
            study,
            *plan.column,
            [found[0].baseline, *(one.cell for one in found if one.items is None)],
        )
        notes.append(f"{MISSING} over test items: {reason}.")
    if any(one.p_seeds is None for one in found):
        notes.append(
            f"{MISSING} over seeds: no test, for a cell has a single seed or its seeds do not differ."
        )
    caption = f"{plan.title}: {plan.metric_label}, each cell against the baseline."
    return (
        Table(f"{plan.ablation}_comparisons", caption, tuple(columns), tuple(rows), tuple(notes)),
    )


def _row(
    study: Study, metric: Metric, cell: Values, summary: Summary, middle: list[Cell], verdict: str
) -> tuple[Cell, ...]:
    labels = [Cell(axis.text(value)) for axis, value in zip(study.plan.axes, cell, strict=True)]
    spread = "" if summary.std is None else metric.text(summary.std)
    figures = [
        Cell(str(summary.n)),
        Cell(metric.text(summary.mean), spread),
        Cell(_interval(metric, summary.interval)),
    ]
    return (*labels, *figures, *middle, Cell(verdict))


def _differences(metric: Metric, one: Comparison) -> list[Cell]:
    cells = []
    for found, p in ((one.seeds, one.p_seeds), (one.items, one.p_items)):
        cells.append(Cell(signed(metric, found.mean) if found else MISSING))
        cells.append(Cell(_interval(metric, found.interval if found else None)))
        cells.append(Cell(MISSING if p is None else p_text(p)))
    return cells


def _interval(metric: Metric, ends: tuple[float, float] | None) -> str:
    return metric.interval(ends) if ends else MISSING


def p_text(value: float) -> str:
    """Three decimals, or below the least of them `< 0.001`."""
    return "< 0.001" if value < 0.0005 else f"{value:.3f}"


def comparisons_frame(study: Study) -> pd.DataFrame:
    """The table in full precision."""
    rows = []
    for one in compare(study):
        row = {axis.key: value for axis, value in zip(study.plan.axes, one.cell, strict=True)}
        row |= {
            f"baseline.{axis.key}": value
            for axis, value in zip(study.plan.axes, one.baseline, strict=True)
        }
        rows.append(row | as_numbers(one))
    return pd.DataFrame(
        rows, columns=list(rows[0]) if rows else [axis.key for axis in study.plan.axes]
    )


def as_numbers(one: Comparison) -> dict[str, Any]:
    """What was compared, as plain values; None where there is no test."""
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
        }
        values |= {f"{name}_p": found.p_value if found else None, f"{name}_p_holm": p}
    return values | {"outcome": one.outcome}
