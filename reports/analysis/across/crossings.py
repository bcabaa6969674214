"""Finds the compute at which one cell overtakes another, from scores on the way of pre-training.

Runs are compared at equal compute: the curve of each run is interpolated to common points, and at
each point all cells are compared in the model of the reports (`cell_model`). A cell overtakes the
baseline where the difference of the means changes its sign for the last time. The interval of
that point holds every compute at which the difference of the two is not shown to be other than 0
(the 95 % interval of one difference contains 0); so it is open on a side where it never is.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from reports.analysis.across.signal_noise import curve_name
from reports.analysis.cell_model import fit, simultaneous
from reports.analysis.seed_statistics import Difference
from reports.analysis.stopped_sweeps import fixed_runs
from reports.analysis.sweep_model import baseline_of
from reports.output.metric_formats import metric_of
from reports.study.report_plan import SEARCH, CellValues
from reports.study.sweep_results import MeasuredRun, SweepResults
from simvtp.runs.metric_names import result_direction

POINTS = 41  # at which two curves are compared, of which the ends are two
PASSES = 3  # forward passes that a training step costs: one forward, two backward
SCORES = ("R1", "t2v")  # of a sweep whose own metric is not measured on the way

Curve = tuple[tuple[float, float], ...]  # (compute, score), by compute


class Unit(StrEnum):
    """Unit of compute."""

    FLOPS = "FLOPs of pre-training"
    CLIPS = "clips seen"


@dataclass(frozen=True)
class LearningCurves:
    """Scores of all runs over compute.

    Attributes:
        metric: name of the metric: R1.
        name: of the curve in the journal.
        runs: {cell: {seed: curve}} of cells with at least two points in each run.
    """

    metric: str
    name: str
    unit: Unit
    runs: Mapping[CellValues, Mapping[int, Curve]]


@dataclass(frozen=True)
class Crossing:
    """A cell against the baseline over their common range of compute.

    Attributes:
        start, end: of the common range.
        first, last: differences at its ends, each with the interval of one difference.
        at: compute of the last change of sign; None if there is none.
        overtakes: True if the cell is better from there on, False if the baseline is.
        interval: of `at`; None on a side where it is open. Without a test it is None as a whole.
    """

    cell: CellValues
    start: float
    end: float
    first: Difference
    last: Difference
    at: float | None
    overtakes: bool
    interval: tuple[float | None, float | None] | None


def learning_curves(sweep: SweepResults) -> LearningCurves | None:
    """Returns the scores on the way of pre-training; None if no run has any.

    They are those of the plan's metric, zero-shot on the validation split; of a sweep on another
    task, text-to-video R@1.
    """
    if sweep.plan.kind == SEARCH:
        return None
    key, metric = sweep.plan.column
    direction = result_direction(key)
    for score, way in ((metric, direction), SCORES):
        (name,) = curve_name(f"val/zero-shot/{way}", score)
        runs = {cell: _curved(fixed_runs(sweep, cell), name) for cell in sweep.plan.cells}
        runs = {cell: found for cell, found in runs.items() if found}
        if runs:
            chosen = [run for found in runs.values() for run in found]
            unit = Unit.FLOPS if all(run.forward_flops for run in chosen) else Unit.CLIPS
            curves = {
                cell: {run.point.seed: _curve(run, name, unit) for run in found}
                for cell, found in runs.items()
            }
            return LearningCurves(score, name, unit, curves)
    return None


def _curved(runs: Sequence[MeasuredRun], name: str) -> list[MeasuredRun]:
    """Returns the runs whose curve has at least two points and a known compute."""
    return [run for run in runs if len(run.curves.get(name, ())) > 1 and _clips(run)]


def _clips(run: MeasuredRun) -> float:
    """Returns the clips of one step of pre-training; 0 if they are not known."""
    steps = run.steps.get("pretrain", 0)
    return run.samples.get("pretrain", 0) / steps if steps else 0.0


def _curve(run: MeasuredRun, name: str, unit: Unit) -> Curve:
    a_step = _clips(run)
    if unit == Unit.FLOPS:
        a_step *= PASSES * (run.forward_flops or 0)
    return tuple(sorted((step * a_step, value) for step, value in run.curves[name]))


# ---- crossings -----------------------------------------------------------------------------------


def crossings(sweep: SweepResults) -> tuple[Crossing, ...]:
    """Compares each cell with the baseline where both have a curve."""
    curves, baseline = learning_curves(sweep), baseline_of(sweep)
    if curves is None or baseline is None or baseline not in curves.runs:
        return ()
    found = (crossing(curves, cell, baseline) for cell in curves.runs if cell != baseline)
    return tuple(one for one in found if one is not None)


def crossing(curves: LearningCurves, cell: CellValues, baseline: CellValues) -> Crossing | None:
    """Returns where a cell overtakes another; None if their ranges of compute do not overlap."""
    both = [curve for one in (cell, baseline) for curve in curves.runs[one].values()]
    start, end = max(curve[0][0] for curve in both), min(curve[-1][0] for curve in both)
    if start >= end:
        return None
    inside = {place for curve in both for place, _ in curve if start < place < end}
    places = sorted({*np.linspace(start, end, POINTS).tolist(), *inside})
    gaps = [_gap(curves, cell, baseline, place) for place in places]
    sign = 1 if metric_of(curves.metric).higher_is_better else -1
    leads = [sign * gap.mean for gap in gaps]
    at, overtakes = _last_change(places, leads)
    interval = None
    if at is not None and all(gap.interval is not None for gap in gaps):
        interval = _interval(places, [sign * gap.mean for gap in gaps], gaps, overtakes)
    return Crossing(cell, start, end, gaps[0], gaps[-1], at, overtakes, interval)


def _gap(
    curves: LearningCurves, cell: CellValues, baseline: CellValues, place: float
) -> Difference:
    """Returns the difference at one compute, in the model of all cells that have been there."""
    values = {
        one: {seed: score_at(curve, place) for seed, curve in runs.items()}
        for one, runs in curves.runs.items()
        if one in (cell, baseline) or all(c[0][0] <= place <= c[-1][0] for c in runs.values())
    }
    cells = list(values)
    weights = np.zeros((1, len(cells)))
    weights[0, cells.index(cell)], weights[0, cells.index(baseline)] = 1.0, -1.0
    model = fit(list(values.values()))
    if model is None:
        means = [float(np.mean(list(values[one].values()))) for one in (cell, baseline)]
        return Difference(means[0] - means[1], None, None)
    return simultaneous(model, weights)[0]


def score_at(curve: Curve, place: float) -> float:
    """Returns the score at a compute, on the straight line between the two measured points."""
    places, values = zip(*curve, strict=True)
    return float(np.interp(place, places, values))


def _last_change(places: Sequence[float], leads: Sequence[float]) -> tuple[float | None, bool]:
    """Returns the last place where the lead changes its sign, and whether it is positive then."""
    signs = [(place, lead) for place, lead in zip(places, leads, strict=True) if lead != 0]
    for (before, one), (after, other) in reversed(list(itertools.pairwise(signs))):
        if (one > 0) != (other > 0):
            return before + (after - before) * one / (one - other), other > 0
    return None, bool(signs and signs[-1][1] > 0)


def _interval(
    places: Sequence[float],
    leads: Sequence[float],
    gaps: Sequence[Difference],
    overtakes: bool,
) -> tuple[float | None, float | None]:
    """Returns the last point where the earlier order is shown, and the first of the later one.

    The later order is shown from that point to the end.
    """
    low: float | None = None
    high: float | None = None
    for place, lead, gap in zip(places, leads, gaps, strict=True):
        shown = gap.interval is not None and not gap.interval[0] <= 0 <= gap.interval[1]
        later = shown and (lead > 0) == overtakes
        if shown and not later:
            low = place
        if not later:
            high = None
        elif high is None:
            high = place
    return low, high
