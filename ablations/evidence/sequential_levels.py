"""Levels of Student's paired test at several looks, so that all looks together keep one error rate.

The test of a mean is repeated while observations are added. At look n it rejects if its two-sided
p-value is at most a nominal level; the levels are chosen so that the probability of a rejection at
look n and at none before is the part of the error rate that is spent there (Lan and DeMets 1983,
with the power family of Kim and DeMets 1987). Intervals of these levels hold at all looks together,
whatever makes one stop (repeated confidence intervals, Jennison and Turnbull 1989).

The levels are exact for few observations of unknown variance. Under the null hypothesis
R_n = S_n / sqrt(Q_n), with the sum and the sum of squares of the first n observations, is a Markov
chain: x_{n+1} / sqrt(Q_n) is Student's t with n degrees of freedom, divided by sqrt(n), and by
Basu's theorem independent of R_1 ... R_n. So its law is computed by one integral per observation,
on a grid. Ours; checked by simulation in tests/ablations/test_sequential_levels.py.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

# A look spends in proportion to (observations / most observations) ** POWER_OF_SPENDING, less what
# was spent before: little on the first looks, whose tests have few degrees of freedom.
POWER_OF_SPENDING = 2.0
FIRST_LOOK = 2  # observations: one has no variance
EDGE, CELLS = 6.5, 300  # the grid, in normal quantiles of the statistic
SMALLEST_P = 1e-9


def nominal_levels(looks: Sequence[int], error: float) -> tuple[float, ...]:
    """Returns the two-sided level of the t test at each look.

    Args:
        looks: numbers of observations, increasing, the first at least 2.
        error: probability of a rejection at any look under the null hypothesis.

    Raises:
        ValueError: `looks` do not increase from 2, or `error` is not between 0 and 1.
    """
    steps = tuple(looks)
    if not steps or steps[0] < FIRST_LOOK or any(b <= a for a, b in itertools.pairwise(steps)):
        raise ValueError(f"looks {steps} do not increase from {FIRST_LOOK} or more")
    if not 0 < error < 1:
        raise ValueError(f"error {error} is not between 0 and 1")
    return _levels(steps, float(error))


def sequential_p_value(looks: Sequence[int], p_values: Sequence[float]) -> float:
    """Returns the smallest error rate whose levels reject at one of the looks so far.

    Args:
        looks: all looks of the plan.
        p_values: of the t test at the first looks, as far as they were made.
    """
    from scipy import optimize  # late: a sweep needs no p-value, and starts sooner without it

    found = np.asarray(p_values, dtype=float)

    def rejects(log_error: float) -> bool:
        levels = nominal_levels(looks, float(np.exp(log_error)))[: len(found)]
        return bool((found <= np.array(levels)).any())

    low, high = float(np.log(SMALLEST_P)), float(np.log(1 - 1e-6))
    if not found.size or not rejects(high):
        return 1.0
    if rejects(low):
        return SMALLEST_P
    ends = optimize.bisect(lambda x: 1.0 if rejects(x) else -1.0, low, high, xtol=1e-3)
    return float(np.exp(ends))


@functools.lru_cache(maxsize=1024)
def _levels(looks: tuple[int, ...], error: float) -> tuple[float, ...]:
    edges = _edges()
    middles, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    outer = edges[::-1][1 : CELLS // 2 + 1]  # from the outermost inwards to the middle
    mass = np.diff(special.ndtr(edges))
    seen, spent, found = looks[0], 0.0, list[float]()
    for look in looks:
        for count in range(seen, look):
            mass = _transition(count) @ mass
        seen = look
        share = error * (look / looks[-1]) ** POWER_OF_SPENDING - spent
        tails = np.maximum(2 * np.cumsum(mass[::-1])[: len(outer)], 1e-300)
        bound = float(np.interp(np.log(share), np.log(tails), outer))
        found.append(float(2 * special.ndtr(-bound)))
        spent += share
        # the cell that the bound divides keeps the part inside
        mass = mass * np.clip((bound - np.abs(middles)) / width + 0.5, 0.0, 1.0)
    return tuple(found)


def _edges() -> Floats:
    return np.linspace(-EDGE, EDGE, CELLS + 1)


def _ratios(normal: Floats, count: int) -> Floats:
    """Returns R_n of a t statistic that is given by its normal quantile."""
    tails = special.stdtrit(count - 1, special.ndtr(-np.abs(normal)))
    t = -np.sign(normal) * tails
    return np.asarray(np.sqrt(count) * t / np.sqrt(count - 1 + t * t))


@functools.lru_cache(maxsize=256)
def _transition(count: int) -> Floats:
    """Returns the probabilities of the cells after one more observation [cells after, cells]."""
    edges = _edges()
    now = _ratios((edges[1:] + edges[:-1]) / 2, count)
    after = _ratios(edges, count + 1)
    return np.diff(_below(after[:, None], now[None, :], count), axis=0)


def _below(after: Floats, now: Floats, count: int) -> Floats:
    """Returns P(R_{n+1} <= after | R_n = now), for arrays of any shapes that fit.

    With u = x_{n+1} / sqrt(Q_n), R_{n+1} = (R_n + u) / sqrt(1 + u^2) is at most `after` between or
    outside of the roots of a quadratic in u. Negative values follow by symmetry.
    """
    negative = after < 0
    size, start = np.abs(after), np.where(negative, -now, now)
    slope = 1 - size * size
    room = start * start + slope
    with np.errstate(divide="ignore", invalid="ignore"):
        root = size * np.sqrt(np.maximum(room, 0.0))
        first, second = (-start + root) / slope, (-start - root) / slope
        scale = np.sqrt(count)
        under_one = special.stdtr(count, first * scale)
        outside = special.stdtr(count, np.minimum(first, second) * scale)
        outside = outside + special.stdtr(count, -np.maximum(first, second) * scale)
    always = (start <= 0) | (room <= 0)  # no observation makes R_{n+1} that large
    over_one = np.where(always, 1.0, outside)
    found = np.where(slope > 0, under_one, over_one)
    return np.asarray(np.where(negative, 1 - found, found))
