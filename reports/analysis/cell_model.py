"""Model of a sweep: a mean for each cell, an effect for each seed, one error variance.

Runs with the same seed share initial weights, order of the data and masks, so seeds are blocks if
every cell has the same ones. All comparisons of a sweep are contrasts of this model: they share its
error, and p-values and intervals are those of one simultaneous method (the largest of several
correlated t statistics; for many against one this is Dunnett's test). If the variances of the cells
differ, Welch's test with Bonferroni's correction takes its place.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats
from statsmodels.regression.linear_model import OLS

from ablations.evidence.power import ManyAgainstOne
from reports.analysis.seed_statistics import Difference

CONFIDENCE = 0.95
POWER = 0.8
VARIANCE_LEVEL = 0.01  # of the test on equal variances

Floats = NDArray[np.float64]
Groups = Sequence[Mapping[int, float]]  # of each cell {seed: value}


@dataclass(frozen=True)
class EffectTest:
    """An F test of several contrasts at once."""

    statistic: float
    df: int
    df_error: float
    p_value: float


@dataclass(frozen=True)
class CellModel:
    """A fitted model.

    Attributes:
        means: of the cells.
        covariance: of the means, as far as contrasts of them see it [cells, cells].
        df: degrees of freedom of the error.
        sigma: standard deviation of the error.
        seeds: of each cell.
        blocked: True if the effect of the seeds was removed.
        groups: the values that were fitted.
    """

    means: Floats
    covariance: Floats
    df: float
    sigma: float
    seeds: tuple[int, ...]
    blocked: bool
    groups: tuple[Mapping[int, float], ...]

    @property
    def equal_variances(self) -> bool:
        """False if the spread over seeds differs between cells (Brown and Forsythe's test).

        Cells of one or two seeds have no part in it: two values are equally far from their median,
        so that the test would always find a difference. Without two other cells: True.
        """
        samples = [list(group.values()) for group in self.groups if len(group) > 2]
        if len(samples) < 2 or all(np.ptp(sample) == 0 for sample in samples):
            return True
        p_value = stats.levene(*samples, center="median").pvalue
        return bool(np.isnan(p_value) or p_value >= VARIANCE_LEVEL)

    @property
    def method(self) -> str:
        """The method of p-values and intervals in words."""
        if not self.equal_variances:
            return "Welch's test with Bonferroni's correction, because the variances differ"
        blocks = "seeds as blocks, " if self.blocked else ""
        return f"{blocks}pooled error with {self.df:g} degrees of freedom, simultaneous intervals"


def fit(groups: Groups) -> CellModel | None:
    """Fits the model by least squares.

    Returns:
        None if there is no error to be estimated: one seed, or values that do not differ.
    """
    if len(groups) < 2 or any(not group for group in groups):
        return None
    seeds = sorted({seed for group in groups for seed in group})
    blocked = len(seeds) > 1 and all(set(group) == set(seeds) for group in groups)
    rows = [(cell, seed, value) for cell, g in enumerate(groups) for seed, value in g.items()]
    design = np.zeros((len(rows), len(groups) + (len(seeds) - 1) * blocked))
    for row, (cell, seed, _) in enumerate(rows):
        design[row, cell] = 1.0
        if blocked:  # effects that add up to zero over the seeds
            number = seeds.index(seed)
            if number < len(seeds) - 1:
                design[row, len(groups) + number] = 1.0
            else:
                design[row, len(groups) :] = -1.0
    values = np.array([value for _, _, value in rows], dtype=float)
    if len(rows) <= design.shape[1]:
        return None
    found = OLS(values, design).fit()
    sigma = float(np.sqrt(found.scale))
    if sigma <= 1e-9 * max(1.0, float(np.abs(values).max())):
        return None
    cells = len(groups)
    return CellModel(
        means=np.asarray(found.params[:cells]),
        covariance=np.asarray(found.cov_params()[:cells, :cells]),
        df=float(found.df_resid),
        sigma=sigma,
        seeds=tuple(len(group) for group in groups),
        blocked=blocked,
        groups=tuple(groups),
    )


def f_test(model: CellModel, weights: Floats) -> EffectTest:
    """Tests that all contrasts are zero; `weights` is [contrasts, cells], linearly independent."""
    effect = weights @ model.means
    spread = weights @ model.covariance @ weights.T
    statistic = float(effect @ np.linalg.solve(spread, effect)) / len(weights)
    p_value = float(stats.f.sf(statistic, len(weights), model.df))
    return EffectTest(statistic, len(weights), model.df, p_value)


def simultaneous(model: CellModel, weights: Floats) -> list[Difference]:
    """Returns each contrast with an adjusted p-value and a simultaneous interval.

    The probability that any of the intervals misses its contrast is 1 - CONFIDENCE.

    Args:
        model: the fitted model.
        weights: [contrasts, cells], linearly independent.
    """
    if not model.equal_variances:
        return _welch(model, weights)
    effects = weights @ model.means
    spread = weights @ model.covariance @ weights.T
    errors = np.sqrt(np.diag(spread))
    correlation = spread / np.outer(errors, errors)
    critical = critical_value(correlation, model.df)
    found = []
    for effect, error in zip(effects, errors, strict=True):
        half = critical * error
        p_value = _beyond(abs(effect / error), correlation, model.df)
        ends = (float(effect - half), float(effect + half))
        found.append(Difference(float(effect), ends, p_value))
    return found


def _welch(model: CellModel, weights: Floats) -> list[Difference]:
    """Compares cells with unequal variances; cells with one seed give no test."""
    count = np.array(model.seeds, dtype=float)
    if count.min() < 2:
        return [Difference(float(row @ model.means), None, None) for row in weights]
    means = np.array([np.mean(list(group.values())) for group in model.groups])
    variances = np.array([np.var(list(group.values()), ddof=1) for group in model.groups]) / count
    found = []
    for row in weights:
        parts = row**2 * variances
        df = parts.sum() ** 2 / (parts**2 / (count - 1)).sum() if parts.any() else np.nan
        effect, error = float(row @ means), float(np.sqrt(parts.sum()))
        if not error > 0:
            found.append(Difference(effect, None, None))
            continue
        level = (1 - CONFIDENCE) / len(weights)
        half = float(stats.t.ppf(1 - level / 2, df)) * error
        p_value = min(1.0, len(weights) * 2 * float(stats.t.sf(abs(effect) / error, df)))
        found.append(Difference(effect, (effect - half, effect + half), p_value))
    return found


# ---- the largest of several t statistics ---------------------------------------------------------


def critical_value(correlation: Floats, df: float) -> float:
    """Returns the value that the largest |t| exceeds with probability 1 - CONFIDENCE."""
    rounded = np.round(correlation, 12)
    return _critical(rounded.tobytes(), len(rounded), float(df))


@functools.lru_cache(maxsize=512)
def _critical(correlation: bytes, count: int, df: float) -> float:
    matrix = np.frombuffer(correlation).reshape(count, count)
    single = float(stats.t.ppf((1 + CONFIDENCE) / 2, df))
    if count == 1:
        return single
    bonferroni = float(stats.t.ppf(1 - (1 - CONFIDENCE) / (2 * count), df))

    def excess(value: float) -> float:
        return _beyond(value, matrix, df) - (1 - CONFIDENCE)

    if excess(bonferroni) >= 0:  # equal up to the accuracy of the integral
        return bonferroni
    return float(optimize.brentq(excess, single * 0.999, bonferroni, xtol=1e-4))


def _beyond(value: float, correlation: Floats, df: float) -> float:
    """Returns the probability that the largest |t| exceeds a value."""
    if len(correlation) == 1:
        return float(2 * stats.t.sf(value, df))
    ends = np.full(len(correlation), value)
    inside = stats.multivariate_t.cdf(
        ends,
        shape=correlation,
        df=df,
        allow_singular=True,
        maxpts=1000 * len(correlation),
        lower_limit=-ends,
        random_state=np.random.default_rng(0),
    )
    return float(np.clip(1 - inside, 0.0, 1.0))


# ---- pairs ---------------------------------------------------------------------------------------


def any_pair(model: CellModel, a: int, b: int) -> Difference:
    """Returns cell a minus cell b with an interval that holds for any pair, however it was picked.

    Tukey and Kramer's method over all pairs of cells.
    """
    effect = float(model.means[a] - model.means[b])
    cells = len(model.means)
    row = np.zeros(cells)
    row[a], row[b] = 1.0, -1.0
    if not model.equal_variances:
        return _welch(model, np.repeat(row[None], cells * (cells - 1) // 2, axis=0))[0]
    error = float(np.sqrt(row @ model.covariance @ row) / np.sqrt(2))
    half = _studentized(cells, model.df) * error
    p_value = float(stats.studentized_range.sf(abs(effect) / error, cells, model.df))
    return Difference(effect, (effect - half, effect + half), p_value)


@functools.lru_cache(maxsize=256)
def _studentized(cells: int, df: float) -> float:
    """Returns the critical value of the studentized range."""
    return float(stats.studentized_range.ppf(CONFIDENCE, cells, df))


def least_difference(model: CellModel) -> float | None:
    """Returns the smallest difference of two cells that Tukey's interval tells from 0.

    Of cells with unequal numbers of seeds the mean over all pairs.

    Returns:
        None if the variances differ, so that there is no common size.
    """
    if not model.equal_variances:
        return None
    count, spread = len(model.means), model.covariance
    pairs = [(a, b) for a in range(count) for b in range(a)]
    errors = [np.sqrt(spread[a, a] + spread[b, b] - 2 * spread[a, b]) for a, b in pairs]
    return _studentized(count, model.df) * float(np.mean(errors)) / float(np.sqrt(2))


# ---- power ---------------------------------------------------------------------------------------


def detectable(model: CellModel, weights: Floats) -> float:
    """Returns the difference that the first contrast would find with probability POWER."""
    spread = weights @ model.covariance @ weights.T
    errors = np.sqrt(np.diag(spread))
    critical = critical_value(spread / np.outer(errors, errors), model.df)
    return float(errors.max()) * _noncentrality(critical, model.df)


def seeds_needed(model: CellModel, margin: float) -> int | None:
    """Returns the seeds a cell with which many-against-one finds `margin` with probability POWER.

    Returns:
        None if more than `ablations.evidence.power.MAX_SEEDS` would be needed.
    """
    design = ManyAgainstOne(len(model.means) - 1, model.blocked)
    return design.seeds_to_find(model.sigma, margin, POWER)


def _noncentrality(critical: float, df: float) -> float:
    """Returns the effect in standard errors that exceeds the critical value with POWER."""

    def missing(size: float) -> float:
        beyond = stats.nct.sf(critical, df, size) + stats.nct.cdf(-critical, df, size)
        return float(np.nan_to_num(beyond, nan=1.0)) - POWER

    return float(optimize.brentq(missing, 0.0, 20 * critical + 20))
