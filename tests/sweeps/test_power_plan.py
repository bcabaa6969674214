"""`--plan-power`: seeds that a sweep needs, from finished runs or a given spread."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ablations.evidence.power import ManyAgainstOne
from reports.analysis.cell_model import fit
from simvtp.config.experiment_config import Experiment
from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.results import Result
from sweeps.cli.command import main
from sweeps.cli.power_plan import PilotVariance, find_pilot, pilot_variance
from sweeps.study import comparison_of
from tests.sweeps import jobs, ratio_grid
from tests.sweeps.ratio_grid import SWEEP
from tests.sweeps.recorded_runs import RECIPE, write_plan


def finish(grid: object, value: object) -> None:
    """Makes every point of a grid a finished run with `value(cell number, seed)` as R@1."""
    cells: dict[str, int] = {}
    for point in grid.points():  # type: ignore[attr-defined]
        number = cells.setdefault(json.dumps(point.cell), len(cells))
        made = jobs.result(point.experiment).to_dict()
        made["metrics"]["R1"] = value(number, point.seed)  # type: ignore[operator]
        point.run_dir.mkdir(parents=True)
        write_atomically(point.run_dir / "results.json", json.dumps([made]))
        jobs.status(point.run_dir, "finished", 10, 10)
        assert Result.from_dict(made).metrics["R1"] == made["metrics"]["R1"]


def test_the_pilot_is_the_error_of_the_model_of_the_reports() -> None:
    random = np.random.default_rng(0)
    for cells, seeds in ((2, 2), (4, 3), (6, 5)):
        values = random.normal(0, 2, (cells, seeds)) + random.normal(0, 9, seeds)
        groups = [dict(enumerate(map(float, row))) for row in values]
        model, pilot = fit(groups), pilot_variance({str(n): g for n, g in enumerate(groups)}, "x")
        assert model is not None and pilot is not None
        assert (pilot.sigma, pilot.df) == (pytest.approx(model.sigma), model.df)


def test_without_common_seeds_the_spread_in_each_cell_is_pooled() -> None:
    pilot = pilot_variance(
        {"a": {0: 1.0, 1: 3.0}, "b": {5: 4.0, 6: 4.0, 7: 7.0}, "c": {0: 9.0}}, ""
    )
    assert pilot is not None and pilot.df == 3
    assert pilot.sigma == pytest.approx(np.sqrt((2.0 + 6.0) / 3))
    assert pilot_variance({"a": {0: 1.0}, "b": {0: 2.0}}, "") is None
    assert pilot_variance({"a": {0: 1.0, 1: 1.0}}, "") is None, "equal values are no spread"


def test_the_upper_limit_covers_the_true_deviation_as_often_as_stated() -> None:
    random, held, draws = np.random.default_rng(1), 0, 2000
    for _ in range(draws):
        sigma = float(np.sqrt(random.chisquare(6) / 6))
        upper = PilotVariance(sigma, 6, "").upper
        held += upper is not None and upper >= 1.0
    assert held / draws == pytest.approx(0.8, abs=0.04)
    assert PilotVariance(1.0, 0, "").upper is None


def test_finished_runs_of_the_recipe_are_the_pilot_whatever_their_sweep(
    base: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(2)
    values = random.normal(20, 2, (4, 3))
    done = ratio_grid.build(base, seeds=(0, 1, 2))
    finish(done, lambda cell, seed: float(values[cell, seed]))
    write_plan(done)
    planned = ratio_grid.build(base, (0.1, 0.3), seeds=(0, 1))
    model, pilot = fit([dict(enumerate(row)) for row in values]), find_pilot(comparison_of(planned))
    assert model is not None and pilot is not None
    assert (pilot.sigma, pilot.df) == (pytest.approx(model.sigma), 6)
    assert f"12 finished runs of {done.sweep_id}" in pilot.source

    root = ["--root", base.runtime.root, "--tracking-uri", "off", *RECIPE]
    given = [*root, "--video-ratios", "0.1,0.3", "--seeds", "0,1", "pretrain.max_steps=10"]
    before = sorted(Path(base.runtime.root).rglob("*"))
    assert main(SWEEP, [*given, "--plan-power", "4"]) == 0
    out = capsys.readouterr().out
    seeds = ManyAgainstOne(3).seeds_to_find(pilot.sigma, 4.0, 0.8)
    line = next(
        line for line in out.splitlines() if line.startswith("find a difference of 4 in 80")
    )
    assert line.split()[-3] == str(seeds) and line.split()[-1] == str(4 * (seeds or 0))
    detectable = ManyAgainstOne(3).detectable(pilot.sigma, 2, 0.8)
    assert f"Planned: 2 seeds a cell, which find a difference of {detectable:.1f} points" in out
    assert sorted(Path(base.runtime.root).rglob("*")) == before, "nothing is written"


def test_other_recipes_metrics_and_unfinished_runs_are_no_pilot(base: Experiment) -> None:
    grid = ratio_grid.build(base, seeds=(0, 1, 2))
    write_plan(grid)
    comparison = comparison_of(grid)
    assert find_pilot(comparison) is None
    finish(grid, lambda cell, seed: float(cell + seed * cell))
    assert find_pilot(comparison) is not None
    for point in grid.points():
        jobs.status(point.run_dir, "failed", 5, 10)
    assert find_pilot(comparison) is None
    for point in grid.points():
        jobs.status(point.run_dir, "finished", 10, 10)
    folder = write_plan(grid)
    for key in ("recipe", "metric", "dataset"):
        write_atomically(folder / "plan.json", json.dumps(grid.plan() | {key: "another"}))
        assert find_pilot(comparison) is None, key


def test_without_a_pilot_one_sentence_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--root", str(tmp_path / "runs"), "--tracking-uri", "off", *RECIPE]
    assert main(SWEEP, [*root, "--plan-power", "4"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.strip().splitlines()) == 1
    assert "--pilot-sd" in err and "no cell of recipe tiny has two finished seeds" in err
    one = ["--video-ratios", "0.5", "--text-ratios", "0.15", "--pilot-sd", "2"]
    assert main(SWEEP, [*root, *one, "--plan-power", "4"]) == 2
    assert "has one cell: there is nothing to compare" in capsys.readouterr().err
    with pytest.raises(SystemExit) as leave:
        main(SWEEP, [*root, "--plan-power", "-1"])
    assert leave.value.code == 2 and "'-1' is not a number above 0" in capsys.readouterr().err
    assert main(SWEEP, [*root, "--plan-power", "4", "--pilot-sd", "2.2"]) == 0
    out = capsys.readouterr().out
    assert "from --pilot-sd." in out and "one seed a cell" in out and "Nothing was run." in out
    assert not (tmp_path / "runs").exists()
