"""Reports of sweeps whose seeds were added until each comparison was decided."""

import json
from typing import Any

import numpy as np
import pytest

from ablations.evidence.stopping_rule import Decision, SeedOutcome, Verdict, judge, make_rule
from reports.analysis.across.signal_noise import grid_values
from reports.analysis.best_cells import rank_cells
from reports.analysis.cell_model import fit
from reports.analysis.comparisons import NO_TEST, compare, comparison_tables, sentence
from reports.analysis.effects import effects
from reports.analysis.sweep_model import baseline_of, sweep_model
from reports.analysis.verdict import sentences
from reports.papers.claim_evidence import ClaimVerdict
from reports.papers.claim_file import Claim
from reports.papers.claims import judge as judge_claims
from reports.study.collect import gather
from reports.study.report_plan import ReportError
from reports.study.stored_study import stored_study
from reports.study.study_provenance import provenance_record
from reports.study.sweep_results import SweepResults
from tests.reports.made_up import TEXT, VIDEO, all_results, plan, run, sweep_results

MOST = 12
BASE = {VIDEO: 0.9, TEXT: 0.75}
WORSE, EQUAL, NOISY = ({VIDEO: v, TEXT: t} for v, t in ((0.5, 0.15), (0.5, 0.75), (0.9, 0.15)))
RULE = make_rule(3.0, range(MOST), 3, 1, 3, BASE)


def value(cell: dict[str, Any], seed: int) -> float:
    """A cell that is 8 points worse, one that is equal, a noisy one, and the baseline."""
    number = [WORSE, EQUAL, NOISY, BASE].index(cell)
    error = np.random.default_rng([seed, number]).normal(0, 5.0 if cell == NOISY else 0.5)
    return float(30 + np.random.default_rng(seed).normal(0, 3) - 8 * (cell == WORSE) + error)


def decisions() -> dict[tuple[Any, ...], Decision]:
    """Returns the decisions by the rule alone."""
    runs = {
        tuple(cell.values()): [SeedOutcome(value(cell, seed)) for seed in range(MOST)]
        for cell in (WORSE, EQUAL, NOISY, BASE)
    }
    baseline = runs.pop(tuple(BASE.values()))
    return {cell: judge(RULE, made, baseline) for cell, made in runs.items()}


def stopped_plan(**changes: Any) -> dict[str, Any]:
    """The plan that the sweep writes: every cell with the seeds that it was given."""
    made = plan(seeds=range(MOST), until_decided=RULE.to_dict(), **changes)
    counts = {cell: one.wanted for cell, one in decisions().items()}
    points = [p for p in made["points"] if p["seed"] < counts.get(tuple(p["cell"].values()), MOST)]
    return made | {"points": points}


def stopped_results() -> SweepResults:
    return sweep_results(stopped_plan(), value)


def test_what_is_bold_and_the_noise_use_the_seeds_of_the_first_look() -> None:
    """The number of the other seeds depends on their values."""
    sweep = stopped_results()
    column = sweep.plan.column
    assert {len(seeds) for seeds in grid_values(sweep, *column).values()} == {3}
    ranking = rank_cells(sweep, sweep.plan.cells, *column)
    ranks = dict(zip(sweep.plan.cells, ranking.ranks, strict=True))
    assert ranking.tested and ranks[tuple(WORSE.values())] == 0
    assert ranks[tuple(BASE.values())] == 1


def test_a_stopped_sweep_is_read_back_from_its_provenance_file() -> None:
    sweep = stopped_results()
    written = provenance_record(sweep, ())
    again = stored_study(json.loads(json.dumps(written)))
    assert again.plan.until_decided == sweep.plan.until_decided
    assert provenance_record(again, ()) == written


def test_the_verdicts_are_those_of_the_rule() -> None:
    sweep, expected = stopped_results(), decisions()
    found = {one.cell: one for one in compare(sweep)}
    assert set(found) == set(expected) and baseline_of(sweep) == (0.9, 0.75)
    verdicts = [Verdict.WORSE, Verdict.EQUIVALENT, Verdict.UNDECIDED]
    assert [expected[tuple(c.values())].verdict for c in (WORSE, EQUAL, NOISY)] == verdicts
    for cell, one in found.items():
        assert one.outcome == expected[cell].verdict
        assert one.seeds.mean == expected[cell].difference
        assert one.seeds.interval == expected[cell].interval
        assert one.summary.n == expected[cell].seeds and one.other.n == MOST
        assert one.seeds.p_value is not None
        assert (one.seeds.p_value < 0.05) == (one.outcome == Verdict.WORSE)


def test_rule_margin_and_stop_are_on_the_page() -> None:
    sweep, expected = stopped_results(), decisions()
    table, stops = comparison_tables(sweep)
    notes = "\n".join((*table.notes, *stops.notes))
    assert f"Seeds until decided. Rule, recorded before the sweep: {RULE.sentence}." in notes
    assert "margin ±3, judged after 3, 4, 5, ... and 12 seeds, at most 12" in notes
    rows = {
        tuple(cell.text for cell in row[:2]): [cell.text for cell in row[2:]] for row in stops.rows
    }
    assert rows["0.5", "0.15"] == [str(expected[0.5, 0.15].seeds), "different: worse", "decided"]
    assert rows["0.9", "0.15"] == ["12", "undecided", "the maximum of 12 seeds is reached"]
    assert table.rows[2][-1].text == "equivalent within ±3.0", "the margin is that of the rule"
    text = {one.cell: sentence(sweep, one) for one in compare(sweep)}
    assert text[0.5, 0.75].startswith("video mask ratio 0.5 and 0.9 are equivalent within ±3.0 R@1")
    assert text[0.5, 0.75].endswith(f"{expected[0.5, 0.75].seeds} seeds.")
    assert any("picked after the fact have no interval" in said for said in sentences(sweep))


def test_other_analyses_use_the_seeds_that_all_cells_have() -> None:
    """Seeds that were added because of a value would bias an analysis of a fixed number."""
    first = sweep_results(plan(seeds=range(3)), value)
    sweep = stopped_results()
    assert effects(sweep) and effects(sweep) == effects(first)
    model, other = sweep_model(sweep).model, sweep_model(first).model
    assert model is not None and other is not None and model.blocked
    assert model.sigma == pytest.approx(other.sigma)
    assert fit([sweep.values(cell, *sweep.plan.column) for cell in sweep.plan.cells]) is not None


def test_claims_use_the_seeds_of_the_first_look() -> None:
    claim = Claim.read(
        {
            **{"id": "a", "paper": "SimVTP", "claim": "c", "source": "s", "test": "better"},
            "cells": [{"ablation": "mask_ratio", "cell": BASE, "than": WORSE}],
        }
    )
    (found,) = judge_claims([stopped_results()], [claim])
    assert found.measured.endswith("3 seeds")
    (theirs,) = judge_claims([sweep_results(plan(seeds=range(3)), value)], [claim])
    assert found.verdict == theirs.verdict == ClaimVerdict.SUPPORTED
    assert found.measured.partition("difference")[2] == theirs.measured.partition("difference")[2]


def test_failed_and_missing_runs_leave_a_comparison_undecided_with_the_reason() -> None:
    made = stopped_plan()
    runs = []
    for point in made["points"]:
        cell, seed = point["cell"], point["seed"]
        if cell == NOISY and seed == 4:
            runs.append(run(point, state="failed", message="the loss became NaN"))
        elif cell != EQUAL or seed < 2:
            runs.append(run(point, *all_results(value(cell, seed), seed)))
    sweep = gather(made, runs)
    found = {one.cell: one for one in compare(sweep)}
    assert found[0.9, 0.15].outcome == Verdict.UNDECIDED and found[0.9, 0.15].stop is not None
    assert found[0.9, 0.15].stop.decision.reason == "seed 4 failed: the loss became NaN"
    assert found[0.5, 0.75].outcome == NO_TEST, "two of the three seeds of the first look"
    assert "no look was made yet" in sentence(sweep, found[0.5, 0.75])
    _, stops = comparison_tables(sweep)
    ends = [row[-1].text for row in stops.rows]
    assert ends == ["decided", "open: waits for 3 seeds", "seed 4 failed: the loss became NaN"]


def test_without_its_baseline_nothing_is_compared() -> None:
    sweep = sweep_results(
        stopped_plan(), lambda cell, seed: None if cell == BASE else value(cell, seed)
    )
    assert compare(sweep) == () and comparison_tables(sweep) == ()
    assert sentences(sweep)


def test_cells_with_identical_runs_are_recognised() -> None:
    sweep = sweep_results(
        stopped_plan(), lambda cell, seed: value(BASE if cell == EQUAL else cell, seed)
    )
    found = {one.cell: one.outcome for one in compare(sweep)}
    assert found[0.5, 0.75] == Verdict.IDENTICAL


def test_a_rule_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ReportError, match="stopping rule in the plan of sweep mask_ratio-0123abcd"):
        sweep_results(stopped_plan() | {"until_decided": {"margin": 2}}, value)
