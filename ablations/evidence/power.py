"""Power of a sweep that compares many cells with one: seeds that it needs, differences it finds.

The test is that of the reports: one error variance, seeds as blocks, and Dunnett's (1955) critical
value for many cells against one. Its law is integrated over the error of the shared cell and over
the estimated standard deviation. Checked against scipy.stats.dunnett, statsmodels and simulation in
tests/ablations/test_power.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
MAX_SEEDS = 200  # that are ever proposed
NODES = 96  # of each integral
REACH = 8.0  # standard deviations


@dataclass(frozen=True)
class ManyAgainstOne:
    """Cells that are compared with one of them.

    Attributes:
        comparisons: number of the other cells.
        blocked: all cells have the same seeds, whose effect is removed.
    """

    comparisons: int
    blocked: bool = True

    def error_df(self, seeds: int) -> int:
        """Returns the degrees of freedom of the error with so many seeds a cell."""
        cells = self.comparisons + 1
        return (cells - 1) * (seeds - 1) if self.blocked else cells * (seeds - 1)

    def critical_value(self, seeds: int) -> float:
        """Returns the value that the largest |t| exceeds with probability 1 - CONFIDENCE."""
        return dunnett_critical(self.comparisons, self.error_df(seeds))

    def power(self, sigma: float, seeds: int, difference: float) -> float:
        """Returns the probability that a comparison is found different.

        Args:
            sigma: standard deviation of the error of one run.
            seeds: of each cell.
            difference: true difference of the comparison.
        """
        df, critical = self.error_df(seeds), self.critical_value(seeds)
        scale, weights = _scales(df)
        shift = abs(difference) / (sigma * np.sqrt(2 / seeds))
        beyond = special.ndtr(shift - critical * scale) + special.ndtr(-shift - critical * scale)
        return float(weights @ beyond)

    def equivalence_power(self, sigma: float, seeds: int, margin: float) -> float:
        """Returns the probability that equal cells are found equivalent within ± margin."""
        scale, weights = _scales(self.error_df(seeds))
        error = sigma * np.sqrt(2 / seeds)
        room = margin / error - self.critical_value(seeds) * scale
        return float(weights @ np.maximum(0.0, 2 * special.ndtr(room) - 1))

    def detectable(self, sigma: float, seeds: int, power: float) -> float:
        """Returns the difference that a comparison finds with this probability."""
        error = sigma * np.sqrt(2 / seeds)
        most = 40 * self.critical_value(seeds) + 40

        def missing(size: float) -> float:
            return self.power(sigma, seeds, size * error) - power

        return float(optimize.brentq(missing, 0.0, most) * error)

    def seeds_to_find(self, sigma: float, difference: float, power: float) -> int | None:
        """Returns the fewest seeds a cell that find a difference; None if above MAX_SEEDS."""
        return _fewest(lambda seeds: self.power(sigma, seeds, difference) >= power)

    def seeds_to_equate(self, sigma: float, margin: float, power: float) -> int | None:
        """Returns the fewest seeds a cell that find equal cells equivalent; None if too many."""
        return _fewest(lambda seeds: self.equivalence_power(sigma, seeds, margin) >= power)


def _fewest(enough: Callable[[int], bool]) -> int | None:
    low, high = 1, MAX_SEEDS
    if not enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


# ---- Dunnett's distribution ----------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def dunnett_critical(comparisons: int, df: int) -> float:
    """Returns the two-sided critical value of many cells against one, with equal seeds."""
    single = float(stats.t.ppf((1 + CONFIDENCE) / 2, df))
    if comparisons == 1:
        return single
    most = float(stats.t.ppf(1 - (1 - CONFIDENCE) / (2 * comparisons), df))

    def missing(value: float) -> float:
        return _all_within(value, comparisons, df) - CONFIDENCE

    return float(optimize.brentq(missing, single, most * 1.001, xtol=1e-6))


def _all_within(value: float, comparisons: int, df: int) -> float:
    """Returns the probability that every |t| is at most `value`; their correlations are 1/2."""
    scale, weights = _scales(df)
    shared, density = _normal_nodes()
    half = value * np.sqrt(2) * scale[:, None]
    inside = special.ndtr(shared + half) - special.ndtr(shared - half)
    return float(weights @ (inside**comparisons @ density))


@functools.lru_cache(maxsize=1024)
def _scales(df: int) -> tuple[Floats, Floats]:
    """Returns nodes and weights of the estimated over the true standard deviation."""
    nodes, weights = _legendre()
    quantiles = (nodes + 1) / 2
    return np.sqrt(stats.chi2.ppf(quantiles, df) / df), weights / 2


@functools.lru_cache(maxsize=1)
def _normal_nodes() -> tuple[Floats, Floats]:
    nodes, weights = _legendre()
    return REACH * nodes, REACH * weights * stats.norm.pdf(REACH * nodes)


@functools.lru_cache(maxsize=1)
def _legendre() -> tuple[Floats, Floats]:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return np.asarray(nodes), np.asarray(weights)
