"""Signal and noise of each metric, and how often the order of two cells holds at the next scale.

Definitions of Heineman et al. 2025 (Signal and Noise, arXiv 2508.13144): signal is the largest
difference of two cells over their mean; noise is the standard deviation over the mean, there of the
last checkpoints of a run; decision accuracy is the part of the pairs of cells whose order at a
small scale is that at a larger one. Ours: noise between seeds as well, pooled over the cells, and
the ratio that cells without any difference would have, because the range of several means is never
zero. Standard deviations divide by n - 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, harmonic_mean, variance

import numpy as np
from scipy import integrate, stats

from reports.analysis.stopped_sweeps import fixed_values
from reports.study.report_plan import SEARCH, CellValues
from reports.study.sweep_results import SweepResults
from simvtp.runs.metric_names import MetricName

LATE = 5  # checkpoints at the end of a run, at most those of its second half
DRAWS = 2000
Values = Mapping[CellValues, Mapping[int, float]]  # {cell: {seed: value}}


@dataclass(frozen=True)
class SignalNoise:
    """Signal and noise of one metric over the cells of a sweep.

    Attributes:
        key, metric: of the result.
        cells: number of cells with a value.
        signal: largest difference of two cells over the mean of the cells.
        seeds: standard deviation between seeds, pooled over cells, over the mean; None for one
            seed.
        steps: standard deviation between late checkpoints, pooled over runs, over their mean; None
            where no run was evaluated on its way.
        ratio: signal over the noise between seeds.
        null_ratio: that ratio, as expected of equal cells.
    """

    key: str
    metric: str
    cells: int
    signal: float
    seeds: float | None
    steps: float | None
    ratio: float | None
    null_ratio: float | None


def signal_noise(sweep: SweepResults, key: str, metric: str) -> SignalNoise | None:
    """Returns signal and noise of one metric; None for fewer than two cells or a mean of zero."""
    values = grid_values(sweep, key, metric)
    means = [fmean(seeds.values()) for seeds in values.values()]
    if len(means) < 2 or fmean(means) == 0:
        return None
    middle = abs(fmean(means))
    spread = pooled_deviation([list(seeds.values()) for seeds in values.values()])
    largest = max(means) - min(means)
    late = [run for run in _late_values(sweep, key, metric) if len(run) > 1]
    steps = pooled_deviation(late)
    level = abs(fmean(itertools.chain.from_iterable(late))) if late else 0.0
    null = None
    if spread:
        null = expected_range(len(means)) / math.sqrt(harmonic_mean(map(len, values.values())))
    return SignalNoise(
        key,
        metric,
        len(means),
        largest / middle,
        None if spread is None else spread / middle,
        steps / level if steps is not None and level else None,
        largest / spread if spread else None,
        null,
    )


def grid_values(sweep: SweepResults, key: str, metric: str) -> Values:
    """Returns the values of the cells of the grid, without the rows outside it.

    Of a sweep with a stopping rule those of the first look, whose number depends on no value.
    """
    found = {
        cell: fixed_values(sweep, cell, key, metric)
        for cell in sweep.plan.cells
        if not sweep.plan.is_control(cell)
    }
    return {cell: seeds for cell, seeds in found.items() if seeds}


def pooled_deviation(samples: Sequence[Sequence[float]]) -> float | None:
    """Returns the root of the pooled variance within samples; None if all have one value."""
    several = [sample for sample in samples if len(sample) > 1]
    if not several:
        return None
    total = sum((len(sample) - 1) * variance(sample) for sample in several)
    return math.sqrt(total / sum(len(sample) - 1 for sample in several))


def expected_range(count: int) -> float:
    """Returns the expected range of so many independent standard normal numbers."""

    def inside(x: float) -> float:
        below = stats.norm.cdf(x)
        return float(1 - below**count - (1 - below) ** count)

    return float(integrate.quad(inside, -9, 9)[0])


def curve_name(key: str, metric: str) -> tuple[str, ...]:
    """Returns the names that the same figure may have on the validation split, while training."""
    name = MetricName(key, metric)
    if "zero-shot" in key:
        return (f"pretrain/val/zero-shot/{name.direction}/{metric}",)
    return tuple(f"finetune/{one}" for one in reversed(name.on_validation()))


def _late_values(sweep: SweepResults, key: str, metric: str) -> list[list[float]]:
    found = []
    for run in sweep.runs:
        if sweep.plan.is_control(run.point.cell):
            continue
        name = next((name for name in curve_name(key, metric) if name in run.curves), None)
        curve = [] if name is None else list(run.curves[name])
        found.append([value for _, value in curve[-min(LATE, (len(curve) + 1) // 2) :]])
    return found


# ---- the next scale ------------------------------------------------------------------------------


@dataclass(frozen=True)
class DecisionAccuracy:
    """Agreement of the order of pairs of cells at two scales.

    Attributes:
        pairs: number of pairs that both scales have.
        share: part of them in the same order; a tie at one scale counts half.
        interval: 95 %, bootstrap over the seeds of both scales; None if a cell has one seed.
    """

    pairs: int
    share: float
    interval: tuple[float, float] | None


def decision_accuracy(
    small: Values, large: Values, signs: tuple[int, int] = (1, 1)
) -> DecisionAccuracy | None:
    """Compares the order of cells at two scales.

    Args:
        small, large: of the cells at each scale; cells that only one has are left out.
        signs: 1 where larger is better at that scale's metric, else -1.

    Returns:
        None for fewer than two common cells.
    """
    cells = [cell for cell in small if cell in large]
    if len(cells) < 2:
        return None
    sides = [[list(side[cell].values()) for cell in cells] for side in (small, large)]
    means = [
        sign * np.array([[fmean(sample) for sample in side]])
        for sign, side in zip(signs, sides, strict=True)
    ]
    share = float(_agreement(*means)[0])
    pairs = len(cells) * (len(cells) - 1) // 2
    if min(len(sample) for sample in itertools.chain(*sides)) < 2:
        return DecisionAccuracy(pairs, share, None)
    random = np.random.default_rng(0)
    drawn = []
    for sign, values in zip(signs, (small, large), strict=True):
        groups = [values[cell] for cell in cells]
        drawn.append(sign * resampled_means(groups, random))
    low, high = np.quantile(_agreement(*drawn), [0.025, 0.975])
    return DecisionAccuracy(pairs, share, (float(low), float(high)))


def resampled_means(
    groups: Sequence[Mapping[int, float]], random: np.random.Generator, draws: int = DRAWS
) -> np.ndarray:
    """Returns bootstrap means of cells, float [draws, cells].

    Cells that have the same seeds are drawn together, because a seed moves them together.
    """
    seeds = list(groups[0])
    if all(set(group) == set(seeds) for group in groups):
        rows = [[group[seed] for seed in seeds] for group in groups]
        table = np.array(rows)
        chosen = random.integers(len(seeds), size=(draws, len(seeds)))
        return table[:, chosen].mean(axis=2).T
    columns = []
    for group in groups:
        values = np.array(list(group.values()))
        columns.append(values[random.integers(len(values), size=(draws, len(values)))].mean(axis=1))
    return np.stack(columns, axis=1)


def _agreement(small: np.ndarray, large: np.ndarray) -> np.ndarray:
    """Returns the part of equal orders, float [draws], of means [draws, cells]."""
    first, second = np.triu_indices(small.shape[1], k=1)
    a = np.sign(small[:, first] - small[:, second])
    b = np.sign(large[:, first] - large[:, second])
    equal: np.ndarray = np.where((a == 0) != (b == 0), 0.5, a == b).mean(axis=1)
    return equal


def common_cells(sweep: SweepResults, other: SweepResults) -> list[CellValues]:
    """Returns the cells of the grid that both sweeps measured, if their axes are the same."""
    if sweep.plan.kind == SEARCH or other.plan.kind == SEARCH:
        return []
    keys = [[axis.key for axis in one.plan.axes] for one in (sweep, other)]
    if keys[0] != keys[1]:
        return []
    measured = [set(grid_values(one, *one.plan.column)) for one in (sweep, other)]
    return [cell for cell in sweep.plan.cells if cell in measured[0] & measured[1]]
