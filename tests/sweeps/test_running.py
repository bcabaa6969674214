"""Searches and controllers in the background, with real jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ablations.search import Search
from ablations.search import build as build_search
from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override
from simvtp.runs.attempts import attempts
from simvtp.runs.run_records import RunState
from sweeps.engine.sweep_engine import run_sweep
from sweeps.runner import JobOptions
from sweeps.study import open_study
from tests.sweeps.conftest import held_jobs, wait_for


def searched(base: Experiment, trials: int, **more: object) -> Search:
    scored = override(base, ["finetune.evaluations=5"])
    space = ["masks.video_ratio=0.1:0.9"]
    return build_search(scored, trials=trials, space=space, **more)  # type: ignore[arg-type]


def replace_space(search: Search) -> Search:
    """Only the ratio, so that few points show what is better."""
    return replace(
        search,
        space=tuple(
            parameter for parameter in search.space if parameter.key == "masks.video_ratio"
        ),
    )


SCORED = JobOptions(entry="tests.sweeps.jobs:scored", parallel=2)


def test_a_search_proposes_runs_prunes_and_can_be_asked_for_more(base: Experiment) -> None:
    search = replace_space(searched(base, 8, pruner="halving", sampler="random"))
    done = run_sweep(search, SCORED, poll_s=0.02)
    states = [outcome.state.state for outcome in done.outcomes]
    assert (
        len(states) == 8
        and set(states) <= {RunState.FINISHED, RunState.PRUNED}
        and not done.unfinished
    )
    assert RunState.PRUNED in states and RunState.FINISHED in states
    values = {
        o.point.cell["masks.video_ratio"]: o.value for o in done.outcomes if o.value is not None
    }
    assert all(value == pytest.approx(100 * ratio) for ratio, value in values.items())
    pruned = next(outcome for outcome in done.outcomes if outcome.state.state == RunState.PRUNED)
    assert (
        "pruned at step" in pruned.reason and not (pruned.point.run_dir / "results.json").exists()
    )
    plan = json.loads((done.sweep_dir / "plan.json").read_text())
    assert plan["kind"] == "search" and len(plan["points"]) == 8
    more = run_sweep(replace(search, trials=10), SCORED, poll_s=0.02)
    assert more.sweep_dir == done.sweep_dir and len(more.outcomes) == 10
    assert [len(attempts(outcome.point.run_dir)) for outcome in more.outcomes] == [1] * 10, (
        "a point was started again"
    )


def test_a_search_with_two_objectives_stores_both(base: Experiment) -> None:
    search = replace_space(searched(base, 3, objectives=("quality", "cost")))
    done = run_sweep(search, SCORED, poll_s=0.02)
    assert not done.unfinished
    study = open_study(
        done.sweep_dir / "study.journal",
        search,
        json.loads((done.sweep_dir / "plan.json").read_text())["points"],
    )
    assert study.counts() == {"COMPLETE": 3}


DETACHED = """
import sys
from sweeps.cli import command
from tests.sweeps.ratio_grid import SWEEP
command.BACKGROUND_S = float(sys.argv.pop(1))
sys.exit(command.main(SWEEP, entry="tests.sweeps.jobs:run"))
"""


def detached(tmp_path: Path, background_s: float, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a sweep command with --detach, which waits `background_s` for its controller."""
    script = tmp_path / "sweep.py"
    script.write_text(DETACHED.replace("sys.argv.pop(1)", str(background_s)))
    command = [sys.executable, str(script), "--detach", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_detach_leaves_a_controller_that_finishes_the_sweep(
    tmp_path: Path, base: Experiment
) -> None:
    root = Path(base.runtime.root)
    with held_jobs(base):
        words = ["--root", str(root), "--tracking-uri", "off", "--video-ratios", "0.5"]
        done = detached(tmp_path, 0.5, *words, "pretrain.max_steps=10")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "The controller runs in the background as process" in done.stdout
        assert not list(root.glob("*/results.json"))
    wait_for(lambda: len(list(root.glob("*/results.json"))) == 2)
    log = next(root.glob("sweeps/*/controller.log"))
    wait_for(lambda: "Sweep directory" in log.read_text())


def test_detach_reports_at_once_what_is_wrong(tmp_path: Path) -> None:
    done = detached(tmp_path, 30.0, "--video-ratios", "2")
    assert done.returncode == 2 and "must be in [0, 1)" in done.stderr
