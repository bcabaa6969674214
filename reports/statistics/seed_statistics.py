"""Small statistics of a table: mean, spread, interval, ranking. The module is not called
`statistics`, because `python reports/build.py` puts this folder first on the path, where such a
name would hide the standard library's."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LARGEST = 1e300  # trackers store infinity as the largest float
_BLOCK = 2_000_000  # numbers that a bootstrap draws at a time


@dataclass(frozen=True)
class Summary:
    """Several measurements of one thing.

    Attributes: mean: arithmetic mean. std: standard deviation of the sample (n - 1 in the
        denominator); None for one value. interval: t-interval of the mean at 95 %; None for one
        value, and where all are equal: a figure that is counted over few items is often
            the same by chance, and an interval without width would call that certain.
    """

    n: int
    mean: float
    std: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Difference:
    """Mean of a minus mean of b, with an interval and a p-value, which are None where nothing
    supports one.
    """

    mean: float
    interval: tuple[float, float] | None
    p_value: float | None


def is_number(value: float) -> bool:
    """False for NaN, for infinity and for what a tracker makes of infinity."""
    return math.isfinite(value) and abs(value) < LARGEST


def summarise(values: Iterable[float], confidence: float = 0.95) -> Summary | None:
    """Mean, std (ddof = 1) and t-interval of finite values; None if there are none."""
    data = np.asarray(tuple(values), dtype=float)
    if data.size == 0:
        return None
    if data.size == 1:
        return Summary(n=1, mean=float(data[0]), std=None, interval=None)
    spread = float(data.std(ddof=1))
    return Summary(
        n=data.size,
        mean=float(data.mean()),
        std=spread,
        interval=t_interval(data, confidence) if np.ptp(data) > 0 else None,
    )


def t_interval(
    values: Sequence[float] | np.ndarray, confidence: float = 0.95
) -> tuple[float, float]:
    """Student's interval of the mean of at least two values."""
    data = np.asarray(values, dtype=float)
    half = (
        stats.t.ppf((1 + confidence) / 2, data.size - 1) * data.std(ddof=1) / math.sqrt(data.size)
    )
    return float(data.mean() - half), float(data.mean() + half)


def difference(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Difference:
    """Welch's comparison of two samples (unequal variances). With a single value on a side there is
    no test, only the difference.
    """
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    mean = float(x.mean() - y.mean())
    if min(x.size, y.size) < 2 or (np.ptp(x) == 0 and np.ptp(y) == 0):
        return Difference(mean, None, None)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # one side may be all the same: the spread of the other is what there is
        test = stats.ttest_ind(x, y, equal_var=False)
    low, high = test.confidence_interval(confidence)
    return Difference(mean, (float(low), float(high)), float(test.pvalue))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction (1979) of several tests: adjusted p-values, each at most 1, in the order
    given. None (no test) stays None and is not counted."""
    tested = sorted((p, number) for number, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for place, (p, number) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - place) * p))
        adjusted[number] = highest
    return adjusted


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, confidence: float = 0.95, draws: int = 10_000
) -> Difference:
    """Mean of a minus mean of b over the same test items, with the percentile interval of a
    bootstrap over the items.

    Only the choice of the test items is drawn again, not the training: the interval is that of
    these models, whose figures (of several seeds) are averaged for each item first. The same
    numbers give the same interval.

    Args:
        a, b: float [models, items] each; the numbers of models may differ, the items may not.

    Returns:
        The p-value is two-sided: twice the share of draws on the other side of 0, of (draws + 1).
    """
    gap = np.atleast_2d(a).mean(axis=0) - np.atleast_2d(b).mean(axis=0)
    mean = float(gap.mean())
    if gap.size < 2 or not np.any(gap != gap[0]):
        return Difference(mean, None, None)
    random = np.random.Generator(np.random.PCG64(0))
    size = max(1, _BLOCK // gap.size)
    means = np.concatenate(
        [
            gap[random.integers(gap.size, size=(min(size, draws - start), gap.size))].mean(axis=1)
            for start in range(0, draws, size)
        ]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Difference(mean, (float(low), float(high)), min(1.0, 2 * (1 + beyond) / (draws + 1)))


def rounded(value: float, decimals: int) -> float:
    """The number that a reader sees: rounded exactly as it is printed."""
    return float(f"{value:.{decimals}f}")


def places(
    means: Sequence[float | None], decimals: int, higher_is_better: bool = True
) -> list[int]:
    """1 for the best, 2 for the second best, 0 for the rest, judged on the printed (rounded)
    numbers: equal print, equal place.

    None (not measured) gets 0. A single measured number is not "best" of anything, so nothing is
    marked."""
    seen = [None if mean is None else rounded(mean, decimals) for mean in means]
    if sum(value is not None for value in seen) < 2:
        return [0] * len(seen)
    order = sorted({value for value in seen if value is not None}, reverse=higher_is_better)[:2]
    return [0 if value is None or value not in order else order.index(value) + 1 for value in seen]
