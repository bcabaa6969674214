"""Power of many cells against one, against independent computations and by simulation."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower, TTestPower

from ablations.evidence.power import MAX_SEEDS, ManyAgainstOne, dunnett_critical


@pytest.mark.parametrize(("comparisons", "df"), [(1, 3), (2, 2), (4, 8), (9, 20), (47, 94)])
def test_the_critical_value_is_dunnetts(comparisons: int, df: int) -> None:
    shape = np.full((comparisons, comparisons), 0.5)
    np.fill_diagonal(shape, 1.0)
    ends = np.full(comparisons, dunnett_critical(comparisons, df))
    inside = stats.multivariate_t.cdf(
        ends,
        shape=shape,
        df=df,
        lower_limit=-ends,
        maxpts=50_000,
        random_state=np.random.default_rng(0),
    )
    assert inside == pytest.approx(0.95, abs=1e-3)


@pytest.mark.parametrize(("seeds", "size"), [(3, 2.0), (5, 1.5), (20, 0.7)])
def test_two_cells_have_the_power_of_students_tests(seeds: int, size: float) -> None:
    paired = TTestPower().power(size / np.sqrt(2), seeds, 0.05)
    assert ManyAgainstOne(1).power(1.0, seeds, size) == pytest.approx(paired, abs=1e-5)
    apart = TTestIndPower().power(size, seeds, 0.05)
    assert ManyAgainstOne(1, blocked=False).power(1.0, seeds, size) == pytest.approx(
        apart, abs=1e-5
    )


@pytest.mark.parametrize(("cells", "seeds"), [(2, 4), (5, 3), (9, 6)])
def test_power_and_equivalence_are_found_by_simulation(cells: int, seeds: int) -> None:
    """Blocked two-way layouts with an effect of each seed; within four standard errors."""
    random, draws, size, margin = np.random.default_rng(cells), 4000, 2.0, 2.5
    design = ManyAgainstOne(cells - 1)
    values = random.normal(0, 1.3, (draws, cells, seeds)) + random.normal(0, 5, (draws, 1, seeds))
    rest = values - values.mean(2, keepdims=True)
    rest -= rest.mean(1, keepdims=True)
    error = np.sqrt((rest**2).sum((1, 2)) / design.error_df(seeds)) * np.sqrt(2 / seeds)
    gap = values[:, 1].mean(1) - values[:, 0].mean(1)
    half = design.critical_value(seeds) * error
    found = {
        "different": (np.abs(gap + size) > half).mean(),
        "equivalent": (np.abs(gap) + half < margin).mean(),
    }
    stated = {
        "different": design.power(1.3, seeds, size),
        "equivalent": design.equivalence_power(1.3, seeds, margin),
    }
    for name, power in stated.items():
        assert found[name] == pytest.approx(power, abs=4 * 0.5 / np.sqrt(draws))


@pytest.mark.parametrize("comparisons", [1, 4, 12])
@pytest.mark.parametrize("power", [0.8, 0.9])
def test_the_seeds_are_the_fewest_and_the_difference_the_least(
    comparisons: int, power: float
) -> None:
    design = ManyAgainstOne(comparisons)
    for difference in (0.8, 2.0, 6.0):
        seeds = design.seeds_to_find(1.0, difference, power)
        assert seeds is not None and design.power(1.0, seeds, difference) >= power
        if seeds > 2:
            assert design.power(1.0, seeds - 1, difference) < power
        assert design.detectable(1.0, seeds, power) <= difference + 1e-9
        equal = design.seeds_to_equate(1.0, difference, power)
        assert equal is not None and design.equivalence_power(1.0, equal, difference) >= power
    assert design.seeds_to_find(1.0, 1e-3, power) is None
    assert design.power(1.0, MAX_SEEDS, 1e-3) < power
