"""Signal, noise and decision accuracy against hand calculation and known distributions."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from reports.analysis.across.signal_noise import (
    decision_accuracy,
    expected_range,
    pooled_deviation,
    resampled_means,
    signal_noise,
)
from reports.analysis.across.signal_tables import decide, signal_tables
from reports.build import main
from reports.kinds.registry import report_type_of
from reports.study.stored_study import read_record, stored_study
from reports.study.sweep_results import SweepResults
from tests.reports import made_up
from tests.reports.made_up import TEXT, VIDEO

STUDIES = Path(__file__).resolve().parents[2] / "results" / "studies"
KEY = "test/finetuned/t2v"


def sweep_of(values: dict[tuple[float, float], list[float]], **plan: Any) -> SweepResults:
    """Makes a sweep with these values of each seed."""
    count = len(next(iter(values.values())))
    made = made_up.plan(seeds=tuple(range(count)), **plan)
    return made_up.sweep_results(made, lambda cell, seed: values[cell[VIDEO], cell[TEXT]][seed])


HAND = {
    (0.5, 0.15): [10.0, 12.0],
    (0.5, 0.75): [13.0, 13.0],
    (0.9, 0.15): [16.0, 20.0],
    (0.9, 0.75): [12.0, 16.0],
}


def test_signal_and_noise_by_hand() -> None:
    """Means 11, 13, 18, 14: range 7, mean 14; variances 2, 0, 8, 8: pooled 4.5."""
    found = signal_noise(sweep_of(HAND), KEY, "R1")
    assert found is not None and found.cells == 4 and found.steps is None
    assert found.signal == pytest.approx(7 / 14)
    assert found.seeds == pytest.approx(math.sqrt(4.5) / 14)
    assert found.ratio == pytest.approx(7 / math.sqrt(4.5))
    # the expected range of four standard normal numbers is 2.059
    assert found.null_ratio == pytest.approx(2.059 / math.sqrt(2), abs=1e-3)


def test_noise_of_late_checkpoints_by_hand() -> None:
    """Of 8 evaluations the last 4, of 3 the last 2; (20 22 21 25): variance 14 / 3."""
    curves = ((1, 2.0), (2, 9.0), (3, 15.0), (4, 18.0), (5, 20.0), (6, 22.0), (7, 21.0), (8, 25.0))
    short = ((1, 3.0), (2, 10.0), (3, 14.0))
    made = sweep_of({cell: values[:1] for cell, values in HAND.items()})
    named = {"finetune/val/t2v/R1": curves, "finetune/val/mean_recall": curves}
    runs = [replace(run, curves={}) for run in made.runs]
    runs[0] = replace(runs[0], curves=named)
    runs[1] = replace(runs[1], curves={"finetune/val/R1": short})
    found = signal_noise(replace(made, runs=tuple(runs)), KEY, "R1")
    assert found is not None and found.seeds is None and found.ratio is None
    variance = (3 * (14 / 3) + 1 * 8.0) / 4
    mean = (20 + 22 + 21 + 25 + 10 + 14) / 6
    assert found.steps == pytest.approx(math.sqrt(variance) / mean)


def test_controls_and_single_cells_are_no_signal() -> None:
    one = made_up.sweep_results(
        made_up.plan(seeds=(0, 1)),
        lambda cell, seed: 5.0 if cell[VIDEO] + cell[TEXT] < 0.7 else None,
    )
    assert signal_noise(one, KEY, "R1") is None and signal_tables(one) == ()


def test_the_ratio_of_equal_cells_is_the_expected_one() -> None:
    """Over 400 sweeps of 6 equal cells with 3 seeds."""
    random = np.random.default_rng(0)
    draws = random.normal(50, 1, (400, 6, 3))
    ranges = np.ptp(draws.mean(axis=2), axis=1)
    noise = [pooled_deviation([list(row) for row in draw]) or 0.0 for draw in draws]
    expected = expected_range(6) / math.sqrt(3)
    assert np.mean(ranges) / math.sqrt(np.mean(np.square(noise))) == pytest.approx(
        expected, rel=0.05
    )


@pytest.mark.parametrize(("count", "tabled"), [(2, 1.128), (3, 1.693), (5, 2.326), (10, 3.078)])
def test_expected_ranges_are_those_of_the_tables(count: int, tabled: float) -> None:
    """d2 of the tables of quality control."""
    assert expected_range(count) == pytest.approx(tabled, abs=1e-3)


# ---- decision accuracy ---------------------------------------------------------------------------


def cells(*means: float) -> dict[tuple[int], dict[int, float]]:
    return {(number,): {0: mean} for number, mean in enumerate(means)}


def test_decision_accuracy_by_hand() -> None:
    """Orders 1 < 2 < 3 and 1 < 3 < 2: two of three pairs agree."""
    found = decision_accuracy(cells(1, 2, 3), cells(10, 30, 20))
    assert found is not None and found.pairs == 3 and found.interval is None
    assert found.share == pytest.approx(2 / 3)
    tie = decision_accuracy(cells(1, 1, 3), cells(10, 30, 20))
    assert tie is not None and tie.share == pytest.approx((0.5 + 1 + 1) / 3 - 1 / 3)
    both = decision_accuracy(cells(1, 1), cells(2, 2))
    assert both is not None and both.share == 1.0
    lower = decision_accuracy(cells(1, 2, 3), cells(3, 2, 1), signs=(1, -1))
    assert lower is not None and lower.share == 1.0
    assert decision_accuracy(cells(1), cells(1)) is None
    some = decision_accuracy(cells(1, 2, 3), {(0,): {0: 5.0}, (2,): {0: 6.0}})
    assert some is not None and some.pairs == 1 and some.share == 1.0


def test_it_is_kendalls_tau_without_ties() -> None:
    """share = (tau + 1) / 2, by scipy."""
    random = np.random.default_rng(1)
    for size in (2, 5, 9):
        a, b = random.normal(size=(2, size))
        found = decision_accuracy(cells(*a), cells(*b))
        assert found is not None
        assert found.share == pytest.approx((stats.kendalltau(a, b).statistic + 1) / 2)


def test_the_interval_is_wide_for_noise_and_narrow_for_order() -> None:
    random = np.random.default_rng(2)
    noise = {(n,): {s: float(random.normal()) for s in range(5)} for n in range(4)}
    order = {(n,): {s: 10.0 * n + float(random.normal()) for s in range(5)} for n in range(4)}
    sure, unsure = decision_accuracy(order, order), decision_accuracy(noise, order)
    assert sure is not None and sure.interval == (1.0, 1.0)
    assert unsure is not None and unsure.interval is not None
    assert unsure.interval[1] - unsure.interval[0] > 0.3


def test_cells_with_the_same_seeds_are_drawn_together() -> None:
    """A seed that moves all cells alike changes no order."""
    random = np.random.default_rng(3)
    groups = [{seed: 100.0 * seed + cell for seed in range(4)} for cell in range(3)]
    drawn = resampled_means(groups, random, 50)
    assert drawn.shape == (50, 3)
    assert np.allclose(drawn - drawn[:, :1], [[0.0, 1.0, 2.0]])
    apart = resampled_means([groups[0], {9: 5.0, 8: 6.0}], random, 50)
    assert apart.shape == (50, 2) and np.std(apart[:, 0]) > 0


# ---- tables --------------------------------------------------------------------------------------


def committed(name: str) -> SweepResults:
    record = read_record(STUDIES / name)
    return stored_study(record, report_type_of(record).make_axis)


def test_two_committed_studies_are_two_scales(tmp_path: Path) -> None:
    """The order of 0.5 and 0.9 of the video turns from 186 to 744 steps in the means."""
    short = committed("2026-11-21-ablations/mask_ratio_provenance.json")
    long = committed("2026-11-21-longer-schedule/provenance.json")
    found = decide(short, short.plan.column, long, long.plan.column)
    assert found is not None and (found.pairs, found.share) == (1, 0.0)
    assert found.interval == (0.0, 1.0)
    files = [
        str(STUDIES / "2026-11-21-ablations/mask_ratio_provenance.json"),
        str(STUDIES / "2026-11-21-longer-schedule/provenance.json"),
    ]
    assert main(["--study", *files, "--out", str(tmp_path)]) == 0
    text = (tmp_path / "mask_ratio" / "signal.md").read_text()
    assert "R@1<sup>†</sup>" in text and "0 [0, 100]" in text
    assert "Smaller: tiny, sweep mask_ratio-87acf0e1. Larger: tiny, sweep mask_ratio-" in text
    assert "Signal and noise of each metric" in (tmp_path / "mask_ratio" / "index.html").read_text()
    assert len((tmp_path / "mask_ratio" / "signal.csv").read_text().splitlines()) == 21


def test_other_axes_are_no_other_scale() -> None:
    ratios = committed("2026-11-21-ablations/mask_ratio_provenance.json")
    losses = committed("2026-11-21-ablations/losses_provenance.json")
    assert len(signal_tables(ratios, [losses])) == 1
