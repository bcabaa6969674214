"""The analysis by design: a grid's effects, trends over numbers, rungs of a ladder."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from reports.analysis.effects import effect_tables, effects, effects_frame
from reports.kinds.report_writer import write_report
from reports.study.sweep_results import SweepResults
from tests.reports import made_up
from tests.reports.made_up import TEXT, VIDEO

VIDEOS, TEXTS, SEEDS = (0.5, 0.75, 0.9), (0.15, 0.75), (0, 1, 2)


def noise(*parts: float) -> float:
    return float(np.random.default_rng([round(1000 * part) for part in parts]).normal())


def grid(slope: float = -10.0, spread: float = 1.0) -> SweepResults:
    """Makes a grid whose video ratio has a linear effect and whose text ratio has none."""
    made = made_up.plan(VIDEOS, TEXTS, SEEDS, published_optimum=None)
    return made_up.sweep_results(
        made,
        lambda cell, seed: (
            20 + slope * cell[VIDEO] + seed + spread * noise(cell[VIDEO], cell[TEXT], seed)
        ),
    )


def test_a_grid_has_main_effects_an_interaction_levels_and_a_trend() -> None:
    found = {one.name: one for one in effects(grid())}
    assert list(found) == [
        "main effect: video mask ratio",
        "main effect: text mask ratio",
        "interaction: video mask ratio × text mask ratio",
        "video mask ratio 0.75 against 0.50",
        "video mask ratio 0.90 against 0.50",
        "text mask ratio 0.75 against 0.15",
        "linear trend of video mask ratio, 0.50 to 0.90",
    ]
    assert found["main effect: video mask ratio"].test.startswith("F(2, 10) = ")
    trend = found["linear trend of video mask ratio, 0.50 to 0.90"].difference
    assert trend is not None and trend.p_value is not None and trend.p_value < 0.05
    assert trend.mean == pytest.approx(-4.0, abs=2.0)


def test_a_level_is_averaged_over_the_other_axis() -> None:
    sweep = grid()
    one = next(o for o in effects(sweep) if o.name == "video mask ratio 0.90 against 0.50")
    means = {
        video: np.mean([list(sweep.values((video, t), *sweep.plan.column).values()) for t in TEXTS])
        for video in VIDEOS
    }
    assert one.difference is not None
    assert one.difference.mean == pytest.approx(means[0.9] - means[0.5])


def test_the_trend_is_that_of_a_regression_on_the_ratio() -> None:
    sweep = grid()
    trend = next(o for o in effects(sweep) if "trend" in o.name).difference
    x = [run.point.cell[0] for run in sweep.runs]
    y = [run.results["test/finetuned/t2v"].metrics["R1"] for run in sweep.runs]
    assert trend is not None
    assert trend.mean == pytest.approx(stats.linregress(x, y).slope * 0.4)


def test_a_grid_with_holes_is_compared_cell_by_cell_only() -> None:
    made = made_up.plan(VIDEOS, TEXTS, SEEDS, published_optimum=None)
    sweep = made_up.sweep_results(
        made,
        lambda cell, seed: (
            None if cell == {VIDEO: 0.9, TEXT: 0.75} else 20 + noise(cell[VIDEO], cell[TEXT], seed)
        ),
    )
    assert effects(sweep) == () and effect_tables(sweep) == ()


def test_a_ladder_is_compared_rung_by_rung() -> None:
    rungs = ["released", "+ a", "+ b", "only b"]
    axes = [{"key": "fidelity", "label": "repaired", "values": rungs}]
    made = made_up.plan(
        axes=axes,
        cells=[{"fidelity": rung} for rung in rungs],
        ablation="fidelity",
        seeds=(0, 1, 2),
        published_optimum=None,
    )
    values = dict(zip(rungs, (10.0, 20.0, 20.5, 15.0), strict=True))
    sweep = made_up.sweep_results(
        made,
        lambda cell, seed: (
            values[cell["fidelity"]] + 0.5 * noise(rungs.index(cell["fidelity"]), 5, seed)
        ),
    )
    found = effects(sweep)
    assert [one.name for one in found] == ["+ a against released", "+ b against + a"]
    assert found[0].p_value is not None and found[0].p_value < 0.001
    assert found[1].p_value is not None and found[1].p_value > 0.05


def test_the_report_has_the_effects_in_all_its_forms(tmp_path: Path) -> None:
    write_report(grid(), tmp_path)
    assert "<h2>Effects</h2>" in (tmp_path / "index.html").read_text()
    assert "main effect: video mask ratio" in (tmp_path / "effects.md").read_text()
    assert r"\begin{tabular}" in (tmp_path / "effects.tex").read_text()
    assert len((tmp_path / "effects.csv").read_text().splitlines()) == 8
    assert list(effects_frame(grid()).columns)[:3] == ["group", "effect", "difference"]
