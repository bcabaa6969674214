"""Levels at several looks: exact for few observations, by simulation and special cases."""

import numpy as np
import pytest
from scipy import stats

from ablations.evidence.sequential_levels import (
    POWER_OF_SPENDING,
    nominal_levels,
    sequential_p_value,
)


def t_p_values(values: np.ndarray, looks: tuple[int, ...]) -> np.ndarray:
    """Returns two-sided p-values of the t test after each look [draws, looks]."""
    found = []
    for look in looks:
        seen = values[:, :look]
        t = seen.mean(1) / (seen.std(1, ddof=1) / np.sqrt(look))
        found.append(2 * stats.t.sf(np.abs(t), look - 1))
    return np.stack(found, axis=1)


@pytest.mark.parametrize("error", [0.05, 0.004])
@pytest.mark.parametrize("looks", [(2,), (3,), (20,)])
def test_one_look_has_the_whole_error(looks: tuple[int, ...], error: float) -> None:
    assert nominal_levels(looks, error) == pytest.approx((error,), rel=2e-3)


@pytest.mark.parametrize(
    ("looks", "error"),
    [((2, 3, 4), 0.05), (tuple(range(3, 13)), 0.05), ((3, 5, 6, 10, 20), 0.0125)],
)
def test_each_look_spends_its_share_of_the_error(looks: tuple[int, ...], error: float) -> None:
    """Within four standard errors of the share, from 100,000 paths."""
    draws = 100_000
    values = np.random.default_rng(len(looks)).normal(size=(draws, looks[-1]))
    rejected = t_p_values(values, looks) <= np.array(nominal_levels(looks, error))
    first = np.where(rejected.any(1), rejected.argmax(1), len(looks))
    spent = 0.0
    for number, look in enumerate(looks):
        share = error * (look / looks[-1]) ** POWER_OF_SPENDING - spent
        spent += share
        bound = 4 * np.sqrt(share / draws)
        assert (first == number).mean() == pytest.approx(share, abs=bound), look
    assert rejected.any(1).mean() == pytest.approx(error, abs=4 * np.sqrt(error / draws))


def test_levels_grow_with_the_error_at_every_look() -> None:
    looks = tuple(range(3, 16))
    found = np.array([nominal_levels(looks, error) for error in np.geomspace(1e-6, 0.9, 25)])
    assert (np.diff(found, axis=0) > 0).all()
    assert (found[:, -1] < np.geomspace(1e-6, 0.9, 25)).all(), "the last look pays for the others"


def test_the_p_value_is_the_least_error_that_rejects() -> None:
    looks = tuple(range(3, 11))
    values = np.random.default_rng(3).normal(0.8, 1, (12, 10))
    for row in t_p_values(values, looks):
        for made in (1, 4, len(looks)):
            p_value = sequential_p_value(looks, row[:made])
            for error in (1e-3, 0.01, 0.05, 0.3):
                rejects = (row[:made] <= np.array(nominal_levels(looks, error))[:made]).any()
                if abs(np.log(p_value / error)) > 2e-3:
                    assert rejects == (p_value < error)
    assert sequential_p_value(looks, []) == 1.0
    assert sequential_p_value(looks, [1.0] * 8) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("looks", "error"), [((), 0.05), ((1, 2), 0.05), ((3, 3), 0.05), ((3, 4), 0.0), ((3, 4), 1.0)]
)
def test_impossible_plans_are_refused(looks: tuple[int, ...], error: float) -> None:
    with pytest.raises(ValueError, match="looks|error"):
        nominal_levels(looks, error)
