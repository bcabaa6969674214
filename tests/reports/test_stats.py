"""Means, spreads and intervals against figures worked out elsewhere; ranking on what the reader sees."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports import stats


def test_spread_of_a_sample() -> None:
    summary = stats.summarise([1.0, 2.0, 6.0])
    assert summary is not None
    assert (summary.n, summary.mean) == (3, 3.0)
    assert summary.std == pytest.approx(math.sqrt(7.0))  # (4 + 1 + 9) / 2
    # t(0.975, 2 degrees of freedom) = 4.30265 (printed tables)
    half = 4.30265 * math.sqrt(7.0 / 3)
    assert summary.interval == pytest.approx((3 - half, 3 + half), rel=1e-5)


def test_one_value_has_no_spread_and_none_no_summary() -> None:
    assert stats.summarise([4.0]) == stats.Summary(1, 4.0, None, None)
    assert stats.summarise([]) is None


def test_welch_against_a_worked_example() -> None:
    # by hand:
    # var(a) = 1, var(b) = 4, n = 3 each: standard error sqrt(5/3), degrees of freedom (5/3)^2 / ((1/3)^2/2 + (4/3)^2/2) = 2.9412
    found = stats.difference([1.0, 2.0, 3.0], [3.0, 5.0, 7.0])
    assert found.mean == -3.0
    assert found.interval is not None and found.p_value is not None
    half = (found.interval[1] - found.interval[0]) / 2
    assert sum(found.interval) / 2 == pytest.approx(-3.0)
    assert half / math.sqrt(5 / 3) == pytest.approx(3.2196, abs=2e-3)  # t(0.975, 2.9412), between 3.1824 (3) and 4.3027 (2)


def test_no_test_with_a_single_value() -> None:
    assert stats.difference([1.0], [2.0, 3.0]) == stats.Difference(-1.5, None, None)


def test_what_a_tracker_makes_of_infinity_is_no_number() -> None:
    assert not any(stats.is_number(value) for value in (math.nan, math.inf, -math.inf, 1.7976931348623157e308))
    assert stats.is_number(100.0)


def test_equal_print_equal_place() -> None:
    assert stats.places([12.34, 12.31, 11.0, None, 10.0], 1) == [1, 1, 2, 0, 0]
    assert stats.places([3.0, 2.0, 2.04], 1, higher_is_better=False) == [2, 1, 1]
    assert stats.places([5.0, None], 1) == [0, 0]


numbers = st.lists(st.one_of(st.none(), st.floats(0, 100)), max_size=12)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(numbers, st.integers(0, 3), st.booleans())
def test_places_follow_the_printed_order(means: list[float | None], decimals: int, higher: bool) -> None:
    marked = stats.places(means, decimals, higher)
    seen = [None if mean is None else float(f"{mean:.{decimals}f}") * (1 if higher else -1) for mean in means]
    measured = [value for value in seen if value is not None]
    for value, place in zip(seen, marked, strict=True):
        better = {other for other in measured if value is not None and other > value}
        expected = 0 if value is None or len(measured) < 2 or len(better) > 1 else len(better) + 1
        assert place == expected
