"""Means, spreads and intervals against independent values; ranks of printed values."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.analysis import seed_statistics


def test_spread_of_a_sample() -> None:
    summary = seed_statistics.summarise([1.0, 2.0, 6.0])
    assert summary is not None
    assert (summary.n, summary.mean) == (3, 3.0)
    assert summary.std == pytest.approx(math.sqrt(7.0))  # (4 + 1 + 9) / 2
    # t(0.975, 2 degrees of freedom) = 4.30265 (printed tables)
    half = 4.30265 * math.sqrt(7.0 / 3)
    assert summary.interval == pytest.approx((3 - half, 3 + half), rel=1e-5)


def test_one_value_has_no_spread_and_none_no_summary() -> None:
    assert seed_statistics.summarise([4.0]) == seed_statistics.SeedSummary(1, 4.0, None, None)
    assert seed_statistics.summarise([]) is None


def test_equal_values_have_no_interval_and_are_compared_without_a_warning(
    recwarn: pytest.WarningsRecorder,
) -> None:
    assert seed_statistics.summarise([9.1, 9.1, 9.1]) == seed_statistics.SeedSummary(
        3, pytest.approx(9.1), 0.0, None
    )
    assert seed_statistics.difference([9.1, 9.1], [9.1, 9.1]).p_value is None
    low, high = seed_statistics.difference([9.1, 9.1], [0.0, 9.1]).interval or (0.0, 0.0)
    assert low < 4.55 < high  # Welch on one degree of freedom
    assert not recwarn.list


def test_welch_against_a_worked_example() -> None:
    # by hand: var(a) = 1, var(b) = 4, n = 3 each: standard error sqrt(5/3), degrees of freedom
    # (5/3)^2 / ((1/3)^2/2 + (4/3)^2/2) = 2.9412
    found = seed_statistics.difference([1.0, 2.0, 3.0], [3.0, 5.0, 7.0])
    assert found.mean == -3.0
    assert found.interval is not None and found.p_value is not None
    half = (found.interval[1] - found.interval[0]) / 2
    assert sum(found.interval) / 2 == pytest.approx(-3.0)
    assert half / math.sqrt(5 / 3) == pytest.approx(
        3.2196, abs=2e-3
    )  # t(0.975, 2.9412), between 3.1824 (3) and 4.3027 (2)


def test_no_test_with_a_single_value() -> None:
    assert seed_statistics.difference([1.0], [2.0, 3.0]) == seed_statistics.Difference(
        -1.5, None, None
    )


def test_what_a_tracker_makes_of_infinity_is_no_number() -> None:
    assert not any(
        seed_statistics.is_number(value)
        for value in (math.nan, math.inf, -math.inf, 1.7976931348623157e308)
    )
    assert seed_statistics.is_number(100.0)


def test_equal_print_equal_place() -> None:
    assert seed_statistics.competition_ranks([12.34, 12.31, 11.0, None, 10.0], 1) == [1, 1, 2, 0, 0]
    assert seed_statistics.competition_ranks([3.0, 2.0, 2.04], 1, higher_is_better=False) == [
        2,
        1,
        1,
    ]
    assert seed_statistics.competition_ranks([5.0, None], 1) == [0, 0]


numbers = st.lists(st.one_of(st.none(), st.floats(0, 100)), max_size=12)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(numbers, st.integers(0, 3), st.booleans())
def test_places_follow_the_printed_order(
    means: list[float | None], decimals: int, higher: bool
) -> None:
    marked = seed_statistics.competition_ranks(means, decimals, higher)
    seen = [
        None if mean is None else float(f"{mean:.{decimals}f}") * (1 if higher else -1)
        for mean in means
    ]
    measured = [value for value in seen if value is not None]
    for value, place in zip(seen, marked, strict=True):
        better = {other for other in measured if value is not None and other > value}
        expected = 0 if value is None or len(measured) < 2 or len(better) > 1 else len(better) + 1
        assert place == expected


def test_holm_against_a_worked_example() -> None:
    # sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2, 0.04 * 1, each at least the one before
    assert seed_statistics.holm([0.03, 0.01, None, 0.04, 0.02]) == pytest.approx(
        [0.06, 0.04, None, 0.06, 0.06], nan_ok=True
    )
    assert seed_statistics.holm([0.5, 0.9]) == [1.0, 1.0]
    assert seed_statistics.holm([None]) == [None] and seed_statistics.holm([]) == []


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_stepping_down_rejects(p_values: list[float]) -> None:
    """Steps up from the smallest p-value, to the first that is above level / (tests left)."""
    level, rejected = 0.05, set()
    for place, number in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
        if p_values[number] * (len(p_values) - place) >= level:
            break
        rejected.add(number)
    adjusted = seed_statistics.holm(p_values)
    assert {number for number, p in enumerate(adjusted) if p is not None and p < level} == rejected


def test_paired_bootstrap_against_scipy_s() -> None:
    random = np.random.default_rng(0)
    a, b = random.random((3, 200)) < 0.4, random.random((2, 200)) < 0.3
    found = seed_statistics.paired_bootstrap(100.0 * a, 100.0 * b)
    gap = 100 * (a.mean(axis=0) - b.mean(axis=0))
    theirs = scipy.stats.bootstrap(
        (gap,), np.mean, n_resamples=10_000, method="percentile", rng=1
    ).confidence_interval
    assert found.mean == pytest.approx(gap.mean())
    assert found.interval == pytest.approx(
        (theirs.low, theirs.high), abs=0.35
    )  # of an interval of about 13 points
    assert found == seed_statistics.paired_bootstrap(
        100.0 * a, 100.0 * b
    )  # the same numbers, the same interval


def test_paired_bootstrap_p_value_against_the_normal_approximation() -> None:
    gap = np.random.default_rng(3).normal(0.12, 1.0, 400)
    found = seed_statistics.paired_bootstrap(gap[None], np.zeros((1, 400)))
    z = gap.mean() / (gap.std() / math.sqrt(400))
    assert found.p_value == pytest.approx(2 * scipy.stats.norm.sf(abs(z)), rel=0.25)


def test_equal_items_have_no_interval() -> None:
    assert seed_statistics.paired_bootstrap(
        np.full((1, 5), 2.0), np.ones((1, 5))
    ) == seed_statistics.Difference(1.0, None, None)


def test_coverage_of_the_paired_bootstrap() -> None:
    """Of 400 simulated test sets, 95 % should cover the difference, within 3.8 points."""
    random = np.random.default_rng(11)
    covered = 0
    for _ in range(400):
        difficulty = random.random(150)  # of each item, for both models: hits are paired
        a, b = (np.clip(difficulty + shift, 0, 1) for shift in (0.1, 0.0))
        hits = [random.random((2, 150)) < share for share in (a, b)]
        low, high = seed_statistics.paired_bootstrap(
            *(100.0 * hit for hit in hits), draws=1000
        ).interval or (0.0, 0.0)
        covered += low <= 100 * (0.1 - 0.1**2 / 2) <= high  # clipping at 1 takes 0.005
    assert 0.912 < covered / 400 < 0.988


def test_items_of_one_clip_are_drawn_together() -> None:
    """Of 150 pairs of equal models, 30 clips with 10 captions each that resemble each other."""
    random = np.random.default_rng(12)
    clips = [str(number // 10) for number in range(300)]
    wrong = {"clips": 0, "captions": 0}
    for _ in range(150):
        gap = np.repeat(random.normal(0, 1, 30), 10) + random.normal(0, 1, 300)
        for name, units in (("clips", clips), ("captions", None)):
            found = seed_statistics.paired_bootstrap(gap, np.zeros(300), units, draws=500)
            assert found.interval is not None
            wrong[name] += not found.interval[0] <= 0 <= found.interval[1]
    assert wrong["clips"] / 150 <= 0.06 + 3 * math.sqrt(0.06 * 0.94 / 150)
    assert wrong["captions"] / 150 > 0.3


def test_one_clip_gives_no_interval() -> None:
    values = np.array([1.0, 2.0, 3.0])
    assert seed_statistics.paired_bootstrap(values, np.zeros(3), ["a"] * 3).interval is None
