"""The model of a sweep against independent computations, and its error rates by simulation."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports.analysis.cell_model import (
    any_pair,
    critical_value,
    detectable,
    f_test,
    fit,
    seeds_needed,
    simultaneous,
)


def groups(values: np.ndarray) -> list[dict[int, float]]:
    """Makes the groups of a table [cells, seeds]."""
    return [{seed: float(value) for seed, value in enumerate(row)} for row in values]


def against_first(cells: int) -> np.ndarray:
    return np.hstack([-np.ones((cells - 1, 1)), np.eye(cells - 1)])


def test_many_against_one_without_blocks_is_dunnetts_test() -> None:
    random = np.random.default_rng(1)
    samples = [random.normal(mean, 1, size) for mean, size in ((0, 4), (0.5, 3), (2.5, 5), (1, 3))]
    made = [{100 * n + i: float(x) for i, x in enumerate(s)} for n, s in enumerate(samples)]
    model = fit(made)
    assert model is not None and not model.blocked and model.df == 11
    found = simultaneous(model, against_first(4))
    theirs = stats.dunnett(*samples[1:], control=samples[0], random_state=0)
    ends = theirs.confidence_interval()
    assert [one.p_value for one in found] == pytest.approx(theirs.pvalue, abs=3e-3)
    assert [one.interval[0] for one in found if one.interval] == pytest.approx(ends.low, abs=2e-2)
    assert [one.interval[1] for one in found if one.interval] == pytest.approx(ends.high, abs=2e-2)


def test_blocks_give_the_paired_test_of_two_cells() -> None:
    random = np.random.default_rng(2)
    shared = random.normal(0, 3, 6)
    values = np.stack([shared + random.normal(0, 0.5, 6), 1 + shared + random.normal(0, 0.5, 6)])
    model = fit(groups(values))
    assert model is not None and model.blocked
    (found,) = simultaneous(model, np.array([[-1.0, 1.0]]))
    theirs = stats.ttest_rel(values[1], values[0])
    assert found.p_value == pytest.approx(theirs.pvalue)
    assert found.interval == pytest.approx(tuple(theirs.confidence_interval()))


def test_main_effects_and_interaction_are_those_of_statsmodels() -> None:
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    random = np.random.default_rng(3)
    rows = [
        {"a": a, "b": b, "s": s, "y": a + 0.3 * a * b + random.normal()}
        for a in range(3)
        for b in range(2)
        for s in range(3)
    ]
    table = anova_lm(ols("y ~ C(a) * C(b) + C(s)", pd.DataFrame(rows)).fit())
    values = np.array([row["y"] for row in rows]).reshape(6, 3)
    model = fit(groups(values))
    assert model is not None
    a_weights = np.kron(against_first(3), [[0.5, 0.5]])
    b_weights = np.kron([[1 / 3] * 3], against_first(2))
    both = np.kron(against_first(3), against_first(2))
    for name, weights in (("C(a)", a_weights), ("C(b)", b_weights), ("C(a):C(b)", both)):
        found = f_test(model, weights)
        assert found.statistic == pytest.approx(table.loc[name, "F"])
        assert found.p_value == pytest.approx(table.loc[name, "PR(>F)"])


def test_any_pair_is_tukeys_test() -> None:
    random = np.random.default_rng(4)
    samples = [random.normal(mean, 1, 5) for mean in (0, 1, 2)]
    made = [{100 * n + i: float(x) for i, x in enumerate(s)} for n, s in enumerate(samples)]
    model = fit(made)
    assert model is not None
    theirs = stats.tukey_hsd(*samples)
    found = any_pair(model, 0, 2)
    assert found.p_value == pytest.approx(theirs.pvalue[0, 2], rel=1e-4)
    ends = theirs.confidence_interval()
    assert found.interval == pytest.approx((ends.low[0, 2], ends.high[0, 2]), rel=1e-4)


def test_the_critical_value_is_between_one_test_and_bonferroni() -> None:
    correlation = np.full((5, 5), 0.5)
    np.fill_diagonal(correlation, 1.0)
    assert critical_value(correlation, 12) == pytest.approx(2.90, abs=0.01)  # Dunnett's table
    assert critical_value(np.eye(1), 12) == pytest.approx(stats.t.ppf(0.975, 12))


def test_unequal_variances_are_not_pooled() -> None:
    random = np.random.default_rng(5)
    values = np.stack([random.normal(0, scale, 12) for scale in (0.1, 0.1, 8.0)])
    model = fit(groups(values))
    assert model is not None and not model.equal_variances and "Welch" in model.method
    first, second = simultaneous(model, against_first(3))
    for found, other in ((first, 1), (second, 2)):
        theirs = stats.ttest_ind(values[other], values[0], equal_var=False)
        assert found.p_value == pytest.approx(min(1.0, 2 * theirs.pvalue))


@pytest.mark.parametrize("cells", [2, 5])
@pytest.mark.parametrize("seeds", [2, 3, 4, 5])
def test_equal_variances_are_seldom_called_unequal(seeds: int, cells: int) -> None:
    random = np.random.default_rng(seeds)
    models = [fit(groups(random.normal(size=(cells, seeds)))) for _ in range(100)]
    assert all(model is not None for model in models)
    assert sum(not model.equal_variances for model in models if model) <= 10  # nominal: 1


@pytest.mark.parametrize("block", [0.0, 3.0], ids=["no effect of seeds", "large effect of seeds"])
def test_at_most_one_sweep_in_twenty_without_effects_shows_one(block: float) -> None:
    """Of 250 sweeps of 6 equal cells and 3 seeds: 5 %, within three standard errors."""
    random = np.random.default_rng(6)
    wrong = 0
    for _ in range(250):
        values = random.normal(0, 1, (6, 3)) + block * random.normal(0, 1, (1, 3))
        model = fit(groups(values))
        assert model is not None
        found = simultaneous(model, against_first(6))
        wrong += any(
            one.interval is not None and not one.interval[0] <= 0 <= one.interval[1]
            for one in found
        )
    assert wrong / 250 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 250)


def test_the_detectable_difference_is_found_with_the_stated_power() -> None:
    random = np.random.default_rng(7)
    model = fit(groups(random.normal(0, 1, (4, 5))))
    assert model is not None
    size = detectable(model, against_first(4)) / model.sigma
    found = 0
    for _ in range(150):
        values = random.normal(0, 1, (4, 5))
        values[1] += size
        drawn = fit(groups(values))
        assert drawn is not None
        one = simultaneous(drawn, against_first(4))[0]
        found += one.interval is not None and one.interval[0] > 0
    assert found / 150 == pytest.approx(0.8, abs=0.1)
    needed = seeds_needed(model, size * model.sigma)
    assert needed is not None and 4 <= needed <= 6


def test_one_seed_or_equal_values_give_no_model() -> None:
    assert fit(groups(np.array([[1.0], [2.0]]))) is None
    assert fit(groups(np.ones((3, 3)))) is None
    assert fit([]) is None and fit(groups(np.ones((1, 3)))) is None
