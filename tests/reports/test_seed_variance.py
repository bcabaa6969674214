"""Variances of the sources of chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from reports.analysis.seed_variance import variance_components, variance_interval
from reports.kinds.registry import report_type_of
from reports.study.sweep_results import SweepResults
from tests.reports.made_up import plan, sweep_results

KEY = "seed_variance"
SPREAD = {"all": 2.0, "masks": 1.0, "init": 0.5}


def study(seeds: tuple[int, ...]) -> SweepResults:
    axes = [{"key": KEY, "label": "what varies", "values": list(SPREAD)}]
    cells: list[dict[str, Any]] = [{KEY: name} for name in SPREAD]
    made = plan(axes=axes, cells=cells, seeds=seeds, ablation=KEY, published_optimum=None)
    return sweep_results(made, lambda cell, seed: 20 + SPREAD[cell[KEY]] * (-1) ** seed)


def test_variances_and_shares_are_those_of_the_values() -> None:
    found = {one.cell[0]: one for one in variance_components(study((0, 1, 2, 3)))}
    for name, size in SPREAD.items():
        values = [20 + size * (-1) ** seed for seed in range(4)]
        assert found[name].variance == pytest.approx(np.var(values, ddof=1))
        assert found[name].share == pytest.approx(size**2 / 4)


def test_the_interval_holds_the_variance_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(scale=3, size=(2000, 5))
    inside = 0
    for values in draws:
        low, high = variance_interval(float(np.var(values, ddof=1)), 5)
        inside += low <= 9 <= high
    assert inside / len(draws) == pytest.approx(0.95, abs=0.015)


def test_the_report_begins_with_the_spread_and_needs_two_seeds_for_it() -> None:
    several, one = study((0, 1, 2)), study((0,))
    first, *_ = report_type_of(several.plan).tables(several)
    assert first.name == "seed_variance_variance"
    assert [row[0].text for row in first.rows] == list(SPREAD)
    assert [row[3].text for row in first.rows] == ["2.3", "1.2", "0.6"]
    assert [table.name for table in report_type_of(one.plan).tables(one)] == [KEY]
