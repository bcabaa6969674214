"""Sweeps whose seeds are added until each comparison is decided."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from ablations.design import Ablation, Point
from ablations.evidence.stopping_rule import Decision, SeedOutcome, Verdict
from ablations.evidence.until_decided import UntilDecided, cell_key
from reports.analysis.sweep_model import baseline_of
from simvtp.config.experiment_config import Experiment
from simvtp.errors import ConfigError
from sweeps import status
from sweeps.cli.command import main
from sweeps.engine.sweep_engine import run_sweep
from sweeps.engine.sweep_outcome import SweepSummary
from sweeps.monitor.comparison_state import recorded_comparisons
from sweeps.monitor.overview import find_sweeps
from sweeps.runner import JobOptions
from sweeps.study import comparison_of, sweep_folder
from tests.reports.made_up import sweep_results
from tests.sweeps import jobs, ratio_grid
from tests.sweeps.conftest import ROOT, held_jobs, wait_for
from tests.sweeps.ratio_grid import SWEEP
from tests.sweeps.recorded_runs import RECIPE

ENTRY = "tests.sweeps.jobs:noisy"
DEBUG = JobOptions(executor="debug", entry=ENTRY)
MARGIN, MOST = 2.0, 8

CONTROLLER = """
import sys
from ablations.evidence.until_decided import UntilDecided
from tests.sweeps import ratio_grid
from simvtp.config.overrides import override
from simvtp.config.recipes import tiny
from sweeps.engine.sweep_engine import run_sweep
from sweeps.runner import JobOptions
base = override(tiny(), sys.argv[1:])
grid = ratio_grid.build(base, (0.9,), seeds=range(8))
options = JobOptions(entry="tests.sweeps.jobs:noisy", parallel=2)
run_sweep(UntilDecided(grid, 1.0, 3), options, every_s=0.5)
"""


@pytest.fixture
def sequential(base: Experiment) -> UntilDecided:
    """Four cells: one that is worse, one that is equal, one that is too noisy, the baseline."""
    return UntilDecided(ratio_grid.build(base, seeds=range(MOST)), MARGIN, 3)


def expected(definition: UntilDecided) -> dict[str, Decision]:
    """Returns the decisions if every run that is asked for finishes."""
    return definition.decisions(lambda point: SeedOutcome(jobs.noisy_value(point.experiment)))


def run(definition: UntilDecided, **options: object) -> SweepSummary:
    return run_sweep(definition, DEBUG, poll_s=0.01, **options)  # type: ignore[arg-type]


def started(definition: UntilDecided) -> set[str]:
    """Returns the fingerprints of the points that were run, each once."""
    found = set()
    for point in definition.grid.points():
        path = point.run_dir / "starts.txt"
        if path.exists():
            assert len(path.read_text().split()) == 1, f"{point.name} was run twice"
            found.add(point.fingerprint)
    return found


def fingerprints(points: tuple[Point, ...]) -> set[str]:
    return {point.fingerprint for point in points}


def by_verdict(decisions: Mapping[str, Decision]) -> dict[str, Decision]:
    return {decision.verdict.value: decision for decision in decisions.values()}


def test_only_undecided_comparisons_and_the_baseline_get_more_seeds(
    sequential: UntilDecided, capsys: pytest.CaptureFixture[str]
) -> None:
    final = expected(sequential)
    kinds = by_verdict(final)
    worse, equal, noisy = (
        kinds[verdict] for verdict in (Verdict.WORSE, Verdict.EQUIVALENT, Verdict.UNDECIDED)
    )
    assert 3 <= worse.seeds < MOST and 3 < equal.seeds < MOST and noisy.seeds == MOST
    done = run(sequential)
    assert not done.unfinished
    assert started(sequential) == fingerprints(sequential.wanted(final))
    counts = Counter(cell_key(outcome.point.cell) for outcome in done.outcomes)
    assert counts == {
        **{key: decision.seeds for key, decision in final.items()},
        cell_key(sequential.rule.baseline): MOST,
    }
    out = capsys.readouterr().out
    for key, decision in final.items():
        name = sequential.cells[key][0].name.removesuffix(" seed 0")
        assert f"no more seeds for {name}: {decision.text}" in out

    plan = json.loads((sweep_folder(sequential) / "plan.json").read_text())
    assert plan["until_decided"] == sequential.rule.to_dict()
    assert {point["fingerprint"] for point in plan["points"]} == started(sequential)
    (sweep,) = find_sweeps(Path(sequential.base.runtime.root))
    states = {cell_key(s.cell): s.decision for s in recorded_comparisons(sweep).states}
    assert states == final

    again = run(sequential)  # the second call runs nothing
    assert len(again.outcomes) == len(done.outcomes) and started(sequential)


def test_what_is_planned_is_a_function_of_the_finished_runs(sequential: UntilDecided) -> None:
    """Whatever order the runs finish in, the same runs are asked for in the end."""
    comparison, rounds = comparison_of(sequential), 0
    while True:
        waiting = [
            p for p in comparison.known_points() if not (p.run_dir / "results.json").exists()
        ]
        if not waiting:
            break
        rounds += 1
        for point in waiting[rounds % 2 :: 2] or waiting:  # every second one, the odd ones first
            jobs.finish_noisy(point.experiment)
    assert rounds > 3
    assert fingerprints(comparison.known_points()) == fingerprints(
        sequential.wanted(expected(sequential))
    )


def test_lost_plans_and_studies_are_made_again_from_the_runs(sequential: UntilDecided) -> None:
    run(sequential)
    before, folder = started(sequential), sweep_folder(sequential)
    plan = json.loads((folder / "plan.json").read_text())
    for lost in (("plan.json",), ("plan.json", "study.journal")):
        for name in lost:
            (folder / name).unlink()
        assert not run(sequential).unfinished
        assert started(sequential) == before
        found = json.loads((folder / "plan.json").read_text())
        assert {p["fingerprint"] for p in found["points"]} == before and found["seeds"] == plan[
            "seeds"
        ]


def test_a_run_that_fails_for_good_leaves_its_comparison_undecided(
    sequential: UntilDecided, capsys: pytest.CaptureFixture[str]
) -> None:
    key = next(k for k, d in expected(sequential).items() if d.verdict is Verdict.UNDECIDED)
    broken = sequential.cells[key][4]
    mark = Path(sequential.base.runtime.root) / f"fail_{broken.run_dir.name}"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    done = run(sequential)
    assert [outcome.point.name for outcome in done.unfinished] == [broken.name]
    assert f"{broken.name} failed: the loss became NaN at step 1" in capsys.readouterr().out
    (sweep,) = find_sweeps(Path(sequential.base.runtime.root))
    found = {cell_key(s.cell): s.decision for s in recorded_comparisons(sweep).states}
    assert found[key].verdict is Verdict.UNDECIDED and not found[key].is_open
    assert found[key].seeds == 4 and "the loss became NaN" in found[key].reason
    others = {k: d for k, d in expected(sequential).items() if k != key}
    assert {k: d for k, d in found.items() if k != key} == others, "the others went on"

    mark.unlink()
    assert not run(sequential, retry=True).unfinished
    (sweep,) = find_sweeps(Path(sequential.base.runtime.root))
    states = {cell_key(s.cell): s.decision for s in recorded_comparisons(sweep).states}
    assert states == expected(sequential)


def test_a_killed_controller_loses_nothing_and_runs_nothing_twice(base: Experiment) -> None:
    definition = UntilDecided(ratio_grid.build(base, (0.9,), seeds=range(8)), 1.0, 3)
    (decision,) = expected(definition).values()
    assert 4 < decision.seeds < 8
    given = [f"runtime.root={base.runtime.root}", "runtime.tracking_uri=off"]
    command = [sys.executable, "-c", CONTROLLER, *given, "pretrain.max_steps=10"]

    def fourth_seed_runs() -> bool:
        return all(
            (points[3].run_dir / "starts.txt").exists() for points in definition.cells.values()
        )

    for points in definition.cells.values():
        for point in points[:3]:
            jobs.finish_noisy(point.experiment)
    with held_jobs(base) as hold:
        first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        wait_for(fourth_seed_runs)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        second = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        log = sweep_folder(definition) / "sweep.log"
        wait_for(lambda: log.read_text().count("is running already") == 2)
        hold.unlink()
        out, _ = second.communicate(timeout=120)
    assert second.returncode == 0, out
    wanted = definition.wanted(expected(definition))
    assert started(definition) == {p.fingerprint for p in wanted if p.seed >= 3}
    assert all((point.run_dir / "results.json").exists() for point in wanted)


def test_the_id_names_the_rule_and_not_the_machine(base: Experiment, tmp_path: Path) -> None:
    def sweep_id(margin: float, most: int, block: int = 1, root: str = "runs") -> str:
        moved = replace(base, runtime=replace(base.runtime, root=str(tmp_path / root)))
        grid = ratio_grid.build(moved, seeds=range(most))
        return UntilDecided(grid, margin, 3, block).sweep_id

    assert sweep_id(2, 8) == sweep_id(2, 8, root="elsewhere")
    fixed = ratio_grid.build(base, seeds=range(8)).sweep_id
    assert len({sweep_id(2, 8), sweep_id(1, 8), sweep_id(2, 9), sweep_id(2, 8, 2), fixed}) == 5


def test_the_baseline_is_that_of_the_reports(base: Experiment) -> None:
    whole = ratio_grid.build(base, seeds=range(4))
    chosen = replace(whole, baseline=whole.cells()[1])
    no_optimum = replace(whole, published_optimum=None)
    outside = replace(no_optimum, controls={"no pre-training": {"finetune.init": "initial"}})
    for grid in (whole, chosen, no_optimum, outside):
        definition = UntilDecided(grid, MARGIN, 3)
        plan = {**grid.plan(), "recipe": "tiny"}
        theirs = baseline_of(sweep_results(plan, lambda cell, seed: 20.0 + seed))
        assert tuple(definition.rule.baseline.values()) == theirs


def test_cells_that_cannot_get_seeds_of_their_own_are_refused(base: Experiment) -> None:
    one = ratio_grid.build(base, (0.9,), (0.75,), seeds=range(4))
    with pytest.raises(ConfigError, match="has one cell"):
        _ = UntilDecided(one, MARGIN, 3).rule


def arguments(grid: Ablation, *more: str) -> list[str]:
    root = ["--root", grid.base.runtime.root, "--tracking-uri", "off", "--no-report", *RECIPE]
    return [*root, "pretrain.max_steps=10", "--until-decided", "2", "--max-seeds", "8", *more]


def test_the_command_says_what_would_be_run_runs_it_and_shows_the_decisions(
    sequential: UntilDecided, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, root = sequential.grid, sequential.base.runtime.root
    assert main(SWEEP, arguments(grid, "--dry-run")) == 0
    out = capsys.readouterr().out
    assert (
        f"{sequential.sweep_id}: Video and text mask ratio, 4 cells, 12 of at most 32 runs" in out
    )
    assert "would start 12" in out and f"Seeds until decided: {sequential.rule.sentence}." in out
    assert out.count("undecided; waits for 3 seeds") == 3 and not Path(root).exists()

    assert main(SWEEP, arguments(grid, "--executor", "debug"), ENTRY) == 0
    lines = [f"  {name}: {decision.text}" for name, decision in named(sequential).items()]
    out = capsys.readouterr().out
    assert all(line in out.splitlines() for line in lines)

    assert status.main(["--root", root, sequential.sweep_id]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if line in lines] == lines
    assert status.main(["--root", root, "--json", "mask_ratio"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["sweeps"]
    verdicts = [state["verdict"] for state in found["until_decided"]["states"]]
    assert Counter(verdicts) == Counter(d.verdict for d in expected(sequential).values())

    assert main(SWEEP, arguments(grid, "--dry-run")) == 0
    out = capsys.readouterr().out
    assert "would start 0" in out and all(line in out.splitlines() for line in lines)


def named(definition: UntilDecided) -> dict[str, Decision]:
    return {
        definition.cells[key][0].name.removesuffix(" seed 0"): decision
        for key, decision in expected(definition).items()
    }


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--max-seeds", "5"], "--max-seeds belongs to --until-decided"),
        (["--seed-block", "2"], "--seed-block belongs to --until-decided"),
        (["--pilot-sd", "2"], "--pilot-sd belongs to --plan-power"),
        (["--until-decided", "2", "--max-seeds", "2"], "--max-seeds 2: give 3"),
        (["--until-decided", "2", "--only", "video=0.9"], "--only does not go with"),
        (["--until-decided", "0"], "'0' is not a number above 0"),
        (["--until-decided", "2", "--plan-power", "2"], "not allowed with argument"),
        (["--until-decided", "2", "--video-ratios", "0.9", "--text-ratios", "0.75"], "one cell"),
    ],
)
def test_bad_options_are_one_sentence_and_status_2(
    given: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(SWEEP, ["--root", str(tmp_path / "runs"), *RECIPE, *given])
    except SystemExit as leave:
        code = int(leave.code or 0)
    out, err = capsys.readouterr()
    assert code == 2 and out == "" and len(err.strip().splitlines()) == 1
    assert sentence in err and not (tmp_path / "runs").exists()
