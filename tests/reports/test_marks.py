"""Marks of cells: every run, the intervals of the table, what is not different from the best."""

from typing import Any

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from reports.analysis.comparisons import compare
from reports.figures import curves, marks
from reports.figures import heatmap as heat
from reports.figures.marks import interval_words
from tests.reports import made_up
from tests.reports.made_up import TEXT, VIDEO
from tests.reports.test_figures import legend


def noisy(cell: dict[str, Any], seed: int) -> float:
    place = [seed, round(100 * cell[VIDEO]), round(100 * cell[TEXT])]
    return 20 - 5 * cell[VIDEO] + float(np.random.default_rng(place).normal())


def test_bars_are_the_intervals_of_the_table_and_every_run_is_a_point() -> None:
    sweep = made_up.sweep_results(made_up.plan(seeds=(0, 1, 2)), noisy)
    figure = curves.curve(sweep, sweep.plan.axes[0], sweep.plan.axes[1])
    drawn = [line for line in figure.axes[0].lines if len(line.get_ydata()) > 1]
    bars = {
        tuple(line.get_ydata())
        for line in drawn
        if line.get_marker() == "_" and len(line.get_xdata()) == 2
    }
    found = compare(sweep)
    ends = [one.seeds.interval for one in found if one.seeds.interval]
    base = found[0].other.mean
    assert len(bars) == len(found) == 3
    assert sorted(bars) == [
        pytest.approx(pair) for pair in sorted((base + a, base + b) for a, b in ends)
    ]
    runs = sorted(
        value
        for line in drawn
        if line.get_linestyle() == "None" and len(line.get_ydata()) == 3
        for value in line.get_ydata()
    )
    assert runs == sorted(run.results["test/finetuned/t2v"].metrics["R1"] for run in sweep.runs)
    (level,) = [line for line in drawn if line.get_color() == marks.BASELINE_STYLE["color"]]
    assert list(level.get_ydata()) == [base, base]
    (words,) = [t for t in interval_words(sweep) if "Bars" in t]
    assert "(video mask ratio 0.9, text mask ratio 0.75)" in words


def test_single_seeds_have_neither_bars_nor_points() -> None:
    sweep = made_up.sweep_results(made_up.plan(), noisy)
    figure = curves.curve(sweep, sweep.plan.axes[0], sweep.plan.axes[1])
    assert interval_words(sweep) == []
    assert not any(line.get_marker() == "_" for line in figure.axes[0].lines)


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("count", [1, 2, 5, 15])
def test_lines_at_one_position_are_moved_apart_and_stay_there(
    count: int, logarithmic: bool
) -> None:
    """The shifts are symmetric, and neighbouring positions do not mix."""
    dodge = marks.Dodge(count, room=0.3, unit=0.5, logarithmic=logarithmic)
    at = np.array([dodge.place(2.0, number) for number in range(count)])
    seen = np.log10(at / 2.0) if logarithmic else at - 2.0
    assert np.all(np.diff(at) > 0) and seen.sum() == pytest.approx(0, abs=1e-12)
    assert np.abs(seen).max() < 0.3 * 0.5 / 2


def test_the_colours_of_a_heat_map_are_tied_to_the_noise() -> None:
    """Cells without a difference do not fill the palette; a large difference does."""
    plan = made_up.plan(seeds=(0, 1, 2))
    null = made_up.sweep_results(
        plan, lambda c, seed: noisy({VIDEO: 0.0, TEXT: 10 * c[VIDEO] + c[TEXT]}, seed)
    )
    real = made_up.sweep_results(plan, lambda c, seed: 40 * c[VIDEO] + noisy(c, seed))
    shown = []
    for sweep in (null, real):
        mesh = heat.heat_map(sweep).axes[0].collections[0]
        means = np.ma.compressed(mesh.get_array())
        low, high = mesh.get_clim()
        noise = heat.noise_size(sweep)
        assert noise is not None and high - low >= heat.PALETTE * noise - 1e-9
        assert low <= means.min() and means.max() <= high
        shown.append(float(np.ptp(means) / (high - low)))
    assert shown[0] < 1 / heat.PALETTE + 0.05 and shown[1] == pytest.approx(1.0)
    one = made_up.sweep_results(made_up.plan(), lambda c, seed: 20 + c[VIDEO])
    # 256 queries, about 20.7 % right: 1.96 * sqrt(2 * 0.207 * 0.793 / 256)
    assert heat.noise_size(one) == pytest.approx(7.02, abs=0.02)


def test_cells_that_are_not_different_from_the_best_are_outlined() -> None:
    sweep = made_up.sweep_results(
        made_up.plan(seeds=(0, 1, 2, 3)), lambda c, seed: 40 * c[VIDEO] + 0.3 * noisy(c, seed)
    )
    figure = heat.heat_map(sweep)
    frames = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    # the larger video ratio is the upper row; the text ratio has no effect
    assert {int(patch.get_y()) for patch in frames} == {0} and len(frames) == 2
    assert sorted(patch.get_linewidth() for patch in frames) == [1.4, 2.0]
    assert legend(figure)[:2] == ["best mean", "not different from it"]
