"""Statistics of a table: mean, spread, interval, ranking, corrections for several tests."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LARGEST = 1e300  # trackers store infinity as the largest float
BOOTSTRAP_BLOCK = 2_000_000  # numbers that a bootstrap draws at a time


@dataclass(frozen=True)
class SeedSummary:
    """Several measurements of one quantity, one for each seed.

    Attributes:
        mean: arithmetic mean.
        std: standard deviation of the sample (n - 1 in the denominator); None for one value.
        interval: t-interval of the mean at 95 %; None for one value, and if all are equal: a value
            that is counted over few items is often the same by chance, and an interval without
            width would call that certain.
    """

    n: int
    mean: float
    std: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Difference:
    """Mean of a minus mean of b.

    The interval and the p-value are None where the data support neither.
    """

    mean: float
    interval: tuple[float, float] | None
    p_value: float | None


def is_number(value: float) -> bool:
    """Returns False for NaN, for infinity and for the number that trackers store instead of it."""
    return math.isfinite(value) and abs(value) < LARGEST


def summarise(values: Iterable[float], confidence: float = 0.95) -> SeedSummary | None:
    """Returns mean, std (ddof = 1) and t-interval of finite values; None if there are none."""
    data = np.asarray(tuple(values), dtype=float)
    if data.size == 0:
        return None
    if data.size == 1:
        return SeedSummary(n=1, mean=float(data[0]), std=None, interval=None)
    spread = float(data.std(ddof=1))
    return SeedSummary(
        n=data.size,
        mean=float(data.mean()),
        std=spread,
        interval=t_interval(data, confidence) if np.ptp(data) > 0 else None,
    )


def t_interval(
    values: Sequence[float] | np.ndarray, confidence: float = 0.95
) -> tuple[float, float]:
    """Returns Student's interval of the mean of at least two values."""
    data = np.asarray(values, dtype=float)
    half = (
        stats.t.ppf((1 + confidence) / 2, data.size - 1) * data.std(ddof=1) / math.sqrt(data.size)
    )
    return float(data.mean() - half), float(data.mean() + half)


def difference(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Difference:
    """Compares two samples by Welch's test (unequal variances).

    With a single value on a side there is no test, only the difference.
    """
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    mean = float(x.mean() - y.mean())
    if min(x.size, y.size) < 2 or (np.ptp(x) == 0 and np.ptp(y) == 0):
        return Difference(mean, None, None)
    with warnings.catch_warnings():
        # The values of one side may be equal: then the spread of the other side alone counts.
        warnings.simplefilter("ignore", RuntimeWarning)
        test = stats.ttest_ind(x, y, equal_var=False)
    low, high = test.confidence_interval(confidence)
    return Difference(mean, (float(low), float(high)), float(test.pvalue))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Returns p-values adjusted by Holm's method (1979), each at most 1, in the order given.

    None (no test) stays None and is not counted.
    """
    tested = sorted((p, number) for number, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for step, (p, number) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - step) * p))
        adjusted[number] = highest
    return adjusted


def paired_bootstrap(
    a: np.ndarray,
    b: np.ndarray,
    clips: Sequence[str] | None = None,
    confidence: float = 0.95,
    draws: int = 10_000,
) -> Difference:
    """Compares two sets of models on the same test items by a bootstrap over the items.

    Only the test items are drawn again, not the training: the interval is that of these models,
    whose values (of several seeds) are averaged for each item first. The same numbers give the same
    interval.

    Args:
        a, b: float [models, items] each; the numbers of models may differ, the items may not.
        clips: of each item; items of one clip are drawn together, because they are not independent.
            Default: every item is a clip of its own.
        confidence: of the percentile interval.
        draws: number of bootstrap samples.

    Returns:
        Mean of a minus mean of b. The p-value is two-sided: twice the fraction of draws on the
        other side of 0, of (draws + 1).
    """
    gap = np.atleast_2d(a).mean(axis=0) - np.atleast_2d(b).mean(axis=0)
    mean = float(gap.mean())
    if gap.size < 2 or not np.any(gap != gap[0]):
        return Difference(mean, None, None)
    names = np.arange(gap.size) if clips is None else np.unique(list(clips), return_inverse=True)[1]
    count = int(names.max()) + 1
    if count < 2:
        return Difference(mean, None, None)
    sums, sizes = np.bincount(names, gap, count), np.bincount(names, minlength=count)
    random = np.random.Generator(np.random.PCG64(0))
    block = max(1, BOOTSTRAP_BLOCK // count)
    means = np.empty(draws)
    for start in range(0, draws, block):
        drawn = random.integers(count, size=(min(block, draws - start), count))
        means[start : start + len(drawn)] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Difference(mean, (float(low), float(high)), min(1.0, 2 * (1 + beyond) / (draws + 1)))


def rounded(value: float, decimals: int) -> float:
    """Returns the number that a reader sees: rounded exactly as it is printed."""
    return float(f"{value:.{decimals}f}")


def competition_ranks(
    means: Sequence[float | None], decimals: int, higher_is_better: bool = True
) -> list[int]:
    """Returns 1 for the best, 2 for the second best and 0 for the rest.

    Ranks are those of the printed (rounded) numbers, so ties share a rank. None (not measured) gets
    0. A single measured number is not the best of anything, so nothing is ranked.
    """
    seen = [None if mean is None else rounded(mean, decimals) for mean in means]
    if sum(value is not None for value in seen) < 2:
        return [0] * len(seen)
    order = sorted({value for value in seen if value is not None}, reverse=higher_is_better)[:2]
    return [0 if value is None or value not in order else order.index(value) + 1 for value in seen]
