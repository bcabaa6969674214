"""Interval of a difference for another training on other test items: seeds x clips crossed.

The difference of two cells for seed s and clip c is taken as mean + seed + clip + rest, all random
(the two-way layout of generalizability theory; Brennan 2001, chapter 3). The mean over s seeds and
c clips then has the variance (seed + rest / c) / s + clip / c: that over seeds, which the model of
the sweep estimates, and the part of the clips that does not vanish with more seeds. The degrees of
freedom are Satterthwaite's. Clips are drawn, not captions, because those of one clip resemble each
other. Coverage by simulation: tests/reports/test_crossed_items.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reports.analysis.paired_bootstrap import cell_items
from reports.analysis.seed_statistics import Difference
from reports.analysis.stopped_sweeps import fixed_runs
from reports.analysis.sweep_model import sweep_model
from reports.study.report_plan import CellValues
from reports.study.sweep_results import SweepResults

CONFIDENCE = 0.95
LEAST_SEEDS, LEAST_CLIPS = 2, 2

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SeedError:
    """Squared standard error of a difference over seeds, with its degrees of freedom."""

    variance: float
    df: float


def crossed(sweep: SweepResults, a: CellValues, b: CellValues) -> Difference | None:
    """Returns cell a minus cell b with an interval for another training on other items.

    The error over seeds is that of the model of the sweep where its variances are equal, else that
    of the two cells. The interval is that of one comparison.

    Returns:
        None if the cells were not tested on the same items or have fewer than two common seeds.
    """
    key, name = sweep.plan.column
    sides = []
    for cell in (a, b):
        allowed = {run.point.seed for run in fixed_runs(sweep, cell)}
        found = cell_items(sweep, cell, key, name)
        sides.append({run.point.seed: (run, items) for run, items in found})
        sides[-1] = {seed: one for seed, one in sides[-1].items() if seed in allowed}
    seeds = sorted(set(sides[0]) & set(sides[1]))
    tested = {(side[seed][1].ids, side[seed][0].test_set) for side in sides for seed in seeds}
    if len(seeds) < LEAST_SEEDS or len(tested) != 1:
        return None
    values = [np.stack([side[seed][1].values for seed in seeds]) for side in sides]
    clips = sides[0][seeds[0]][1].clips
    return crossed_difference(values[0] - values[1], clips, _seed_error(sweep, a, b, seeds))


def _seed_error(
    sweep: SweepResults, a: CellValues, b: CellValues, seeds: Sequence[int]
) -> SeedError | None:
    """Returns the error of the model of the sweep; None if that does not hold for these cells."""
    fitted = sweep_model(sweep)
    model = fitted.model
    if model is None or not model.blocked or not model.equal_variances:
        return None
    first, second = fitted.index(a), fitted.index(b)
    if first == second or set(model.groups[first]) != set(seeds):
        return None
    row = np.zeros(len(model.means))
    row[first], row[second] = 1.0, -1.0
    return SeedError(float(row @ model.covariance @ row), model.df)


def crossed_difference(
    gaps: Floats, clips: Sequence[str], seed_error: SeedError | None = None
) -> Difference | None:
    """Returns the mean of gaps with its interval over seeds and clips.

    Args:
        gaps: float [seeds, items], cell a minus cell b for the same seed and item.
        clips: of each item.
        seed_error: error of the mean over seeds; None = that of these gaps.

    Returns:
        None with fewer than two seeds or clips; an interval of None if the gaps do not vary.
    """
    names, members = np.unique(list(clips), return_inverse=True)
    seeds, count = len(gaps), len(names)
    if seeds < LEAST_SEEDS or count < LEAST_CLIPS:
        return None
    mean = float(gaps.mean())
    sizes = np.bincount(members, minlength=count)
    # the mean over items is a ratio of sums over clips: linearised, so that clips may differ
    sums = np.stack([np.bincount(members, row - mean, count) for row in gaps]) / sizes.mean()
    of_seed, of_clip = sums.mean(axis=1), sums.mean(axis=0)
    rest = sums - of_seed[:, None] - of_clip[None, :] + sums.mean()
    clip_square = seeds * float(((of_clip - sums.mean()) ** 2).sum()) / (count - 1)
    rest_square = float((rest**2).sum()) / ((seeds - 1) * (count - 1))
    error = seed_error or SeedError(float(of_seed.var(ddof=1)) / seeds, seeds - 1.0)
    cells = seeds * count
    variance = error.variance + max(0.0, clip_square - rest_square) / cells
    if variance <= 0:
        return Difference(mean, None, None)
    spread = (
        error.variance**2 / error.df
        + (clip_square / cells) ** 2 / (count - 1)
        + (rest_square / cells) ** 2 / ((seeds - 1) * (count - 1))
    )
    df = max(min(error.df, count - 1.0), variance**2 / spread)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, df)) * math.sqrt(variance)
    p_value = float(2 * stats.t.sf(abs(mean) / math.sqrt(variance), df))
    return Difference(mean, (mean - half, mean + half), p_value)
