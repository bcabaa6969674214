"""Learning curves, and the compute at which one cell overtakes another."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports.analysis.across.crossing_tables import crossing_tables, crossings_frame
from reports.analysis.across.crossings import Crossing, Unit, crossings, learning_curves
from reports.figures.learning_curves import draw, learning_plots
from reports.kinds.report_writer import write_report
from reports.output.layout import MISSING
from reports.study.stored_study import stored_study
from reports.study.study_provenance import provenance_record
from reports.study.sweep_results import SweepResults
from tests.reports import made_up
from tests.reports.made_up import TEXT, VIDEO

NAME = "pretrain/val/zero-shot/t2v/R1"
STEPS = (50, 100, 150, 200)
CLIPS = 64  # of a step
COST = {0.5: 3e8, 0.9: 1e8}  # forward operations of a clip, by video ratio
Value = Callable[[float, float, int], float]  # (video ratio, clips, seed) -> score


def sweep(
    value: Value, seeds: int = 3, flops: bool = True, steps: tuple[int, ...] = STEPS
) -> SweepResults:
    """Two cells with curves; 0.5 costs three times as much for each clip."""
    made = made_up.plan(
        text=(0.75,),
        seeds=range(seeds),
        baseline={VIDEO: 0.5, TEXT: 0.75},
        published_optimum=None,
    )
    found = made_up.sweep_results(made, lambda cell, seed: 10.0 + cell[VIDEO] + 0.1 * seed)
    runs = []
    for run in found.runs:
        video, seed = run.point.cell[0], run.point.seed
        curve = tuple((step, value(video, step * CLIPS, seed)) for step in steps)
        cost = round(COST[video]) if flops else None
        runs.append(replace(run, curves={NAME: curve}, forward_flops=cost))
    return replace(found, runs=tuple(runs))


def noise(video: float, clips: float, seed: int, size: float = 0.05) -> float:
    random = np.random.default_rng([round(100 * video), round(clips), seed])
    return float(random.normal(0, size))


def lines(video: float, clips: float, seed: int) -> float:
    """0.9 begins 2 below and gains twice as fast per clip: they cross at 6,400 clips."""
    slope, start = (4.0, 8.0) if video == 0.9 else (2.0, 10.0)
    return start + slope * (clips / 6400) + noise(video, clips, seed)


def only(made: SweepResults) -> Crossing:
    (found,) = crossings(made)
    return found


def test_two_lines_cross_where_they_do() -> None:
    found = only(sweep(lines, flops=False))
    assert found.at == pytest.approx(6400, rel=0.1) and found.overtakes
    assert found.interval is not None
    low, high = found.interval
    assert low is not None and high is not None and low < 6400 < high
    assert (found.start, found.end) == (50 * CLIPS, 200 * CLIPS)
    assert found.first.mean < 0 < found.last.mean


def test_compute_is_counted_and_compared_where_both_have_been() -> None:
    """In operations a clip of 0.5 is three of 0.9, so the ranges overlap in part."""
    made = sweep(lambda v, c, s: c / 3200 + noise(v, c, s))
    curves = learning_curves(made)
    assert curves is not None and curves.unit == Unit.FLOPS
    a_clip = {video: 3 * cost for video, cost in COST.items()}
    found = only(made)
    assert found.start == pytest.approx(50 * CLIPS * a_clip[0.5])
    assert found.end == pytest.approx(200 * CLIPS * a_clip[0.9])
    # per operation the cheap cell sees three times as many clips
    assert found.at is None and found.first.mean > 0 and found.last.mean > 0


def test_cells_that_keep_their_order_have_a_dash() -> None:
    made = sweep(lambda v, c, s: 10 + 3 * (v == 0.9) + c / 6400 + noise(v, c, s), flops=False)
    assert only(made).at is None and only(made).interval is None
    (table,) = crossing_tables(made)
    texts = [cell.text for cell in table.rows[0]]
    assert texts[-3:] == [MISSING] * 3 and texts[3].startswith("+3.")


def test_the_baseline_may_overtake_the_cell() -> None:
    made = sweep(lambda v, c, s: lines(0.5 if v == 0.9 else 0.9, c, s), flops=False)
    found = only(made)
    assert found.at == pytest.approx(6400, rel=0.1) and not found.overtakes
    assert crossing_tables(made)[0].rows[0][-1].text == "is overtaken"


def test_a_crossing_that_is_not_shown_has_an_open_interval() -> None:
    made = sweep(lambda v, c, s: lines(v, c, s) + 20 * noise(v, 0, s, 0.3), flops=False)
    found = only(made)
    if found.at is not None:
        assert found.interval == (None, None)
        (table,) = crossing_tables(made)
        assert table.rows[0][-2].text == "(below, beyond)"
    one_seed = only(sweep(lines, seeds=1, flops=False))
    assert one_seed.at == pytest.approx(6400, rel=0.2) and one_seed.interval is None


@pytest.mark.slow
def test_the_interval_holds_the_crossing_in_nineteen_of_twenty_studies() -> None:
    """Errors of a run: one for the whole run, which its points share, and one for each point."""
    studies, missed = 150, 0
    for study in range(studies):
        random = np.random.default_rng(study)
        shift = {(v, s): random.normal(0, 0.4) for v in COST for s in range(4)}

        def value(
            video: float, clips: float, seed: int, study: int = study, shift: Any = shift
        ) -> float:
            own = noise(video, clips, seed + 10 * study, 0.3)
            return lines(video, clips, 0) - noise(video, clips, 0) + shift[video, seed] + own

        found = only(sweep(value, seeds=4, flops=False))
        assert found.at is not None and found.interval is not None
        low, high = (end if end is not None else math.nan for end in found.interval)
        missed += low > 6400 or high < 6400
    assert missed / studies < 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / studies)


def test_no_curve_no_table_and_no_figure() -> None:
    made = made_up.sweep_results(made_up.plan(seeds=(0, 1)), lambda cell, seed: 10.0 + seed)
    assert learning_curves(made) is None
    assert crossing_tables(made) == () and learning_plots(made) == []


def test_the_figure_has_every_run_and_every_mean() -> None:
    made = sweep(lines, flops=False)
    (axes,) = draw(made).axes
    drawn = [line for line in axes.lines if len(line.get_xdata()) == len(STEPS)]  # type: ignore[arg-type]
    assert len(drawn) == 2 * 3 + 2
    dotted = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]  # type: ignore[index]
    assert dotted == [only(made).at] and axes.get_xlabel() == "clips seen"


def test_the_report_has_both_and_its_file_gives_them_again(tmp_path: Path) -> None:
    made = sweep(lines)
    write_report(made, tmp_path / "report")
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"crossings.md", "crossings.csv", "learning_curves.png"} <= names
    assert "Equal compute" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    again = stored_study(json.loads(json.dumps(provenance_record(made, ["x"]))))
    assert crossings_frame(again).equals(crossings_frame(made))
