"""Judges a claim by one study: a comparison in the model of its sweep, and a verdict.

All comparisons use the test of the reports (`reports/analysis/cell_model.py`): one model for all
cells of the sweep, seeds as blocks, pooled error, simultaneous intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean
from typing import Any

import numpy as np
from scipy import stats

from reports.analysis.cell_model import simultaneous
from reports.analysis.seed_statistics import Difference
from reports.analysis.stopped_sweeps import fixed_values, margin_of
from reports.analysis.sweep_model import column_model
from reports.output.metric_formats import Metric, metric_of
from reports.papers.claim_conditions import (
    LEAST_SEEDS,
    measured_figure,
    missing_neighbours,
    unmet_need,
    weak_figures,
)
from reports.papers.claim_file import Claim, ClaimCells, ClaimTest
from reports.study.report_plan import SEARCH, CellValues
from reports.study.sweep_results import SweepResults
from simvtp.runs.metric_names import MetricName


class ClaimVerdict(StrEnum):
    """Outcome of the test of a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted here"
    UNDECIDED = "undecided"
    EQUIVALENT = "equivalent"
    NOT_TESTABLE = "not testable here"
    BY_CONSTRUCTION = "by construction"


NO_ERROR = "the runs leave no error between seeds, so there is no test"
NO_CONTROL = "no row without pre-training was measured"


@dataclass(frozen=True)
class ClaimEvidence:
    """One comparison of a claim in one study.

    Attributes:
        compared: the compared cells in words.
        measured: the figures, then the reason if the verdict is that it cannot be tested.
        scale: recipe, data, metric and sweep.
        runs: fingerprints of the compared runs; the same runs are counted once.
        p_value: of the comparison; None without a test.
    """

    compared: str
    measured: str
    scale: str
    verdict: ClaimVerdict
    runs: frozenset[str] = frozenset()
    p_value: float | None = None


@dataclass(frozen=True)
class ComparedSide:
    """The cells of one side: `pairs` are (cell of the claim, cell of this side)."""

    settings: Mapping[str, Any]
    pairs: tuple[tuple[CellValues, CellValues], ...]


def evidence_of(sweep: SweepResults, claim: Claim) -> list[ClaimEvidence]:
    """Returns what a sweep says of a claim, for each of its comparisons that it has the cells of.

    Comparisons of this ablation whose cells the sweep lacks are in the list as not testable.
    """
    if sweep.plan.kind == SEARCH:
        return []
    test = _use if claim.test == ClaimTest.USE else _compared
    cells = (one for one in claim.cells if one.ablation == sweep.plan.ablation)
    return [test(sweep, claim, one) for one in cells]


def scale_of(sweep: SweepResults, metric: str = "") -> str:
    """Returns recipe, data, metric and sweep in words."""
    plan = sweep.plan
    recipe = plan.recipe or "no recipe"
    return f"{recipe} on {plan.dataset}, {metric or plan.metric}, sweep {plan.sweep_id}"


# ---- use of the modalities -----------------------------------------------------------------------


def _use(sweep: SweepResults, claim: Claim, one: ClaimCells) -> ClaimEvidence:
    """Judges a figure of one cell: at least as large as a level, with an interval above 0."""
    figure = claim.figure
    assert figure is not None, "checked when the claim was read"
    scale, level = scale_of(sweep, figure.metric), figure.above
    wanted = _words(one.cell)
    cells = [cell for cell in named_cells(sweep, one.cell) if sweep.by_cell[cell]]
    if len(cells) != 1:
        absent = f"the cell {wanted} is not in this sweep"
        return ClaimEvidence(wanted, absent, scale, ClaimVerdict.NOT_TESTABLE)
    found, name = measured_figure(sweep, cells[0], figure), sweep.plan.describe(cells[0])
    summary, ends = found.summary, found.interval
    obstacle = ""
    if found.missing or summary is None:
        obstacle = f"{figure.what} was not measured"
    elif summary.n < LEAST_SEEDS:
        obstacle = f"{summary.n} of at least {LEAST_SEEDS} seeds"
    elif ends is None:
        obstacle = NO_ERROR
    if obstacle or summary is None or ends is None:
        return ClaimEvidence(name, obstacle, scale, ClaimVerdict.NOT_TESTABLE)
    low, high = ends
    if high < 0:
        verdict = ClaimVerdict.CONTRADICTED
    elif level > 0 and -level < low and high < level:
        verdict = ClaimVerdict.EQUIVALENT
    elif low > 0 and summary.mean > level:
        verdict = ClaimVerdict.SUPPORTED
    else:
        verdict = ClaimVerdict.UNDECIDED
    error = (summary.std or 0.0) / summary.n**0.5
    p_value = float(2 * stats.t.sf(abs(summary.mean) / error, summary.n - 1))
    text = f"{figure.what} {found.text()}, {summary.n} seeds"
    return ClaimEvidence(name, text, scale, verdict, _runs(sweep, cells), p_value)


# ---- compared cells ------------------------------------------------------------------------------


def _compared(sweep: SweepResults, claim: Claim, one: ClaimCells) -> ClaimEvidence:
    """Judges cells of the sweep against others."""
    column = _column(sweep, one)
    metric, sides = metric_of(column[1]), compared_sides(sweep, one, column)
    against = _words(one.than) or "all other values"
    compared, scale = f"{_words(one.cell)} against {against}", scale_of(sweep, one.metric)
    if not sides:
        absent = "the cells of the claim are not in this sweep"
        return ClaimEvidence(compared, absent, scale, ClaimVerdict.NOT_TESTABLE)
    means = _means_text(sweep, metric, column, sides)
    ours = list(dict.fromkeys(a for side in sides for a, _ in side.pairs))
    others = list(dict.fromkeys(b for side in sides for _, b in side.pairs))
    obstacle = weak_figures(
        sweep, column, metric, [fixed_values(sweep, cell, *column) for cell in (*ours, *others)]
    )
    if not obstacle and claim.test == ClaimTest.BEST:
        obstacle = missing_neighbours(sweep, one.cell, _measured(sweep, column))
    obstacle = obstacle or unmet_need(sweep, claim.needs, ours, others)
    gaps: list[Difference] = [] if obstacle else differences(sweep, column, sides)
    verdict, p_value = _verdict(gaps, metric, _margin(sweep, one, metric))
    if not obstacle and verdict is None:
        obstacle = NO_ERROR
    if verdict in (ClaimVerdict.SUPPORTED, ClaimVerdict.CONTRADICTED):
        sign = 1 if metric.higher_is_better else -1
        worst = min(range(len(gaps)), key=lambda number: sign * gaps[number].mean)
        beaten = [b for _, b in sides[worst].pairs]
        winners = ours if verdict == ClaimVerdict.SUPPORTED else beaten
        obstacle = _not_above_control(sweep, one, column, winners)
    if obstacle or verdict is None:
        return ClaimEvidence(compared, f"{means}{obstacle}", scale, ClaimVerdict.NOT_TESTABLE)
    seeds = min(len(fixed_values(sweep, cell, *column)) for cell in (*ours, *others))
    text = f"{means}{_gap_text(metric, gaps)}, {seeds} seeds"
    runs = _runs(sweep, (*ours, *others))
    return ClaimEvidence(compared, text, scale, verdict, runs, p_value)


def _column(sweep: SweepResults, one: ClaimCells) -> tuple[str, str]:
    """Returns the compared figure as (key of the result, name of the metric)."""
    if not one.metric:
        return sweep.plan.column
    name = MetricName.parse(one.metric)
    return name.key, name.metric


def named_cells(sweep: SweepResults, wanted: Mapping[str, Any]) -> list[CellValues]:
    """Returns the planned cells that have these settings, whatever the others are."""
    return [cell for cell in sweep.plan.cells if _has(sweep.plan.settings(cell), wanted)]


def _has(settings: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(key in settings and str(settings[key]) == str(wanted[key]) for key in wanted)


def compared_sides(
    sweep: SweepResults, one: ClaimCells, column: tuple[str, str]
) -> list[ComparedSide]:
    """Returns the other sides, each cell of the claim with its partner on that side.

    Partners have the same settings apart from those that the claim names. Without `than` there is
    a side for every other measured combination of the named settings; rows outside the grid are no
    sides.
    """
    ours = named_cells(sweep, one.cell)
    if one.than:
        groups = [dict(one.than)]
    else:
        named = []
        for cell in _measured(sweep, column):
            settings = sweep.plan.settings(cell)
            named.append({key: settings.get(key) for key in one.cell})
        groups = [
            group
            for number, group in enumerate(named)
            if group not in named[:number] and _words(group) != _words(one.cell)
        ]
    sides = []
    for group in groups:
        theirs = named_cells(sweep, group)
        pairs = tuple((a, b) for a in ours for b in theirs if _rest(sweep, a, b, one.cell, group))
        if pairs:
            sides.append(ComparedSide(group, pairs))
    return sides


def _rest(
    sweep: SweepResults,
    a: CellValues,
    b: CellValues,
    wanted: Mapping[str, Any],
    group: Mapping[str, Any],
) -> bool:
    """Returns True for two cells that differ in named settings alone."""
    first, second = sweep.plan.settings(a), sweep.plan.settings(b)
    named = {*wanted, *group}
    return a != b and all(first[key] == second[key] for key in first if key not in named)


def _measured(sweep: SweepResults, column: tuple[str, str]) -> list[CellValues]:
    """Returns the measured cells of the grid."""
    return [
        cell
        for cell in sweep.plan.cells
        if fixed_values(sweep, cell, *column) and not _is_control(sweep, cell)
    ]


def _is_control(sweep: SweepResults, cell: CellValues) -> bool:
    """Returns True for a row outside the grid; older files do not name theirs."""
    return sweep.plan.is_control(cell) or any(value is None for value in cell)


def differences(
    sweep: SweepResults, column: tuple[str, str], sides: Sequence[ComparedSide]
) -> list[Difference]:
    """Returns the claim's cells minus each other side, simultaneous over the sides.

    An empty list if there is no error to be estimated, or if two sides are identical runs.
    """
    fitted = column_model(sweep, *column)
    if fitted.model is None:
        return []
    weights = np.zeros((len(sides), len(fitted.cells)))
    for row, side in zip(weights, sides, strict=True):
        for a, b in side.pairs:
            row[fitted.index(a)] += 1 / len(side.pairs)
            row[fitted.index(b)] -= 1 / len(side.pairs)
    distinct, back = np.unique(weights.round(12), axis=0, return_inverse=True)
    if not np.all(np.abs(distinct).max(axis=1) > 0):
        return []
    found = simultaneous(fitted.model, distinct)
    return [found[number] for number in back.reshape(-1)]


def _verdict(
    gaps: Sequence[Difference], metric: Metric, margin: float | None
) -> tuple[ClaimVerdict | None, float | None]:
    """Returns the verdict on all differences together, and its p-value; None without a test."""
    sign = 1 if metric.higher_is_better else -1
    ends = [sorted(sign * end for end in gap.interval) for gap in gaps if gap.interval]
    p_values = [gap.p_value for gap in gaps if gap.p_value is not None]
    if not gaps or len(ends) < len(gaps) or len(p_values) < len(gaps):
        return None, None
    if all(low > 0 for low, _ in ends):
        return ClaimVerdict.SUPPORTED, max(p_values)
    if any(high < 0 for _, high in ends):
        return ClaimVerdict.CONTRADICTED, min(p_values)
    if margin is not None and all(-margin < low and high < margin for low, high in ends):
        return ClaimVerdict.EQUIVALENT, max(p_values)
    return ClaimVerdict.UNDECIDED, max(p_values)


def _margin(sweep: SweepResults, one: ClaimCells, metric: Metric) -> float | None:
    if one.margin is not None:
        return one.margin
    return metric.margin if one.metric else margin_of(sweep)


def _not_above_control(
    sweep: SweepResults, one: ClaimCells, column: tuple[str, str], winners: Sequence[CellValues]
) -> str:
    """Returns a reason if the better side is not shown to exceed no pre-training."""
    if not one.control:
        return ""
    controls = [
        cell for cell in named_cells(sweep, one.control) if fixed_values(sweep, cell, *column)
    ]
    if not controls:
        return f"{NO_CONTROL} ({_words(one.control)})"
    metric = metric_of(column[1])
    pairs = tuple((cell, controls[0]) for cell in winners)
    gaps = differences(sweep, column, [ComparedSide(one.control, pairs)])
    if _verdict(gaps, metric, None)[0] == ClaimVerdict.SUPPORTED:
        return ""
    found = _gap_text(metric, gaps) if gaps else NO_ERROR
    return f"the better side is not shown to exceed {_words(one.control)}: {found}"


# ---- words ---------------------------------------------------------------------------------------


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(
        str(value) if isinstance(value, str) else f"{key} {value}"
        for key, value in settings.items()
    )


def _means_text(
    sweep: SweepResults, metric: Metric, column: tuple[str, str], sides: Sequence[ComparedSide]
) -> str:
    """Returns `R@1 12.1 against 9.8; `; of several sides the best."""
    ours = _mean(sweep, column, dict.fromkeys(a for a, _ in sides[0].pairs))
    theirs = [_mean(sweep, column, dict.fromkeys(b for _, b in side.pairs)) for side in sides]
    known = [mean for mean in theirs if mean is not None]
    if ours is None:
        return ""
    value = metric.text(ours).replace("-", "−")
    if not known:
        return f"{metric.label} {value}; "
    best = metric.text(max(known) if metric.higher_is_better else min(known)).replace("-", "−")
    of = f" (the best of {len(known)} others)" if len(sides) > 1 else ""
    return f"{metric.label} {value} against {best}{of}; "


def _mean(
    sweep: SweepResults, column: tuple[str, str], cells: Iterable[CellValues]
) -> float | None:
    means = []
    for cell in cells:
        values = fixed_values(sweep, cell, *column)
        if not values:
            return None
        means.append(fmean(values.values()))
    return fmean(means) if means else None


def _gap_text(metric: Metric, gaps: Sequence[Difference]) -> str:
    """Returns the difference, the least of several, with its interval."""
    sign = 1 if metric.higher_is_better else -1
    gap = min(gaps, key=lambda gap: sign * gap.mean)
    interval = f", 95 % CI {metric.interval(gap.interval)}" if gap.interval else ""
    least = "least " if len(gaps) > 1 else ""
    return f"{least}difference {gap.mean:+.{metric.decimals}f}{interval}".replace("-", "−")


def _runs(sweep: SweepResults, cells: Iterable[CellValues]) -> frozenset[str]:
    return frozenset(run.point.fingerprint for cell in cells for run in sweep.by_cell[cell])
