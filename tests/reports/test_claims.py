"""Claims of the papers, judged by the stated rule over all studies."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports.analysis.comparisons import compare
from reports.build import main
from reports.papers.claim_evidence import ClaimEvidence, ClaimVerdict, evidence_of
from reports.papers.claim_file import Claim, ClaimTest, read_claims
from reports.papers.claim_page import PAGE, committed_files, read_sweeps
from reports.papers.claims import ClaimFinding, judge, over_studies
from reports.papers.published import read_rows
from reports.study.report_plan import ReportError
from reports.study.sweep_results import SweepResults
from tests.reports import made_up
from tests.reports.made_up import TEXT, VIDEO

SUPPORTED, CONTRADICTED = ClaimVerdict.SUPPORTED, ClaimVerdict.CONTRADICTED
UNDECIDED, EQUIVALENT = ClaimVerdict.UNDECIDED, ClaimVerdict.EQUIVALENT
NOT_TESTABLE = ClaimVerdict.NOT_TESTABLE
NONE = "no pre-training"
CELLS = [(0.5, 0.15), (0.5, 0.75), (0.9, 0.15), (0.9, 0.75)]
Values = dict[tuple[float, float], float]


def grid(
    values: Values,
    seeds: int = 4,
    spread: float = 0.3,
    none: float | None = 5.0,
    first: int = 0,
    **plan: Any,
) -> SweepResults:
    """A grid of both ratios with random errors; `none` is the row without pre-training."""
    cells = [{VIDEO: video, TEXT: text} for video, text in values]
    control = [{VIDEO: NONE, TEXT: None}] if none is not None else []
    made = made_up.plan(
        seeds=range(first, first + seeds),
        cells=[*control, *cells],
        controls=[NONE] if control else [],
        **{"published_optimum": None, **plan},
    )

    def value(cell: dict[str, Any], seed: int) -> float:
        number = [*control, *cells].index(cell)
        error = np.random.default_rng([seed, number]).normal(0, spread)
        mean = none if cell[VIDEO] == NONE else values[cell[VIDEO], cell[TEXT]]
        assert mean is not None
        return float(mean + np.random.default_rng(seed).normal(0, 1) + error)

    return made_up.sweep_results(made, value)


def claim(test: str = "better", **cells: Any) -> Claim:
    named = {"ablation": "mask_ratio", "control": {VIDEO: NONE}, **cells}
    entry = {"id": "x", "paper": "P", "claim": "c", "source": "s", "test": test, "cells": [named]}
    return Claim.read(entry)


TEXT_RATIO = claim(cell={VIDEO: 0.9, TEXT: 0.75}, than={VIDEO: 0.9, TEXT: 0.15})


def verdict(judged: Claim, *sweeps: SweepResults) -> ClaimVerdict:
    (found,) = judge(sweeps, [judged])
    return found.verdict


def values(a: float, b: float) -> Values:
    """Returns a grid whose cells at 0.9 have these values at text ratios 0.75 and 0.15."""
    return dict(zip(CELLS, (10.0, 10.0, b, a), strict=True))


@pytest.mark.parametrize(
    ("a", "b", "spread", "expected"),
    [
        (18.0, 12.0, 0.3, SUPPORTED),
        (12.0, 18.0, 0.3, CONTRADICTED),
        (12.0, 12.0, 0.3, EQUIVALENT),
        (13.0, 12.0, 4.0, UNDECIDED),
    ],
)
def test_each_verdict_is_that_of_the_interval(
    a: float, b: float, spread: float, expected: ClaimVerdict
) -> None:
    assert verdict(TEXT_RATIO, grid(values(a, b), spread=spread)) == expected


def test_a_claim_uses_the_test_of_the_reports() -> None:
    """Same interval as a table of differences that has no other row."""
    sweep = grid({(0.9, 0.15): 12.0, (0.9, 0.75): 13.0}, spread=1.0, none=None, seeds=5)
    judged = claim(cell={TEXT: 0.75}, than={TEXT: 0.15}, control={})
    (found,) = evidence_of(sweep, judged)
    (theirs,) = compare(sweep)
    assert theirs.seeds.interval is not None and theirs.seeds.p_value == found.p_value
    low, high = theirs.seeds.interval
    assert f"95 % CI [{low:.1f}, {high:.1f}]".replace("-", "−") in found.measured


@pytest.mark.slow
def test_errors_of_equal_cells_support_a_claim_in_one_of_twenty_studies() -> None:
    studies = 200
    wrong = sum(
        verdict(TEXT_RATIO, grid(values(12.0, 12.0), 3, 2.0, first=10 * number))
        in (SUPPORTED, CONTRADICTED)
        for number in range(studies)
    )
    assert wrong / studies < 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / studies)


def test_seeds_that_shift_all_cells_alike_leave_no_error_and_no_verdict() -> None:
    made = made_up.plan(seeds=(0, 1, 2))
    sweep = made_up.sweep_results(made, lambda cell, seed: 10 + 9 * cell[TEXT] + 0.2 * seed)
    (found,) = judge([sweep], [replace(TEXT_RATIO)])
    assert found.verdict == NOT_TESTABLE and "no error between seeds" in found.measured


def test_settings_that_a_claim_does_not_name_are_averaged_over() -> None:
    judged = claim(cell={TEXT: 0.75}, than={TEXT: 0.15})
    crossed = {(0.5, 0.15): 10.0, (0.5, 0.75): 14.0, (0.9, 0.15): 14.0, (0.9, 0.75): 10.0}
    assert verdict(judged, grid(crossed)) == EQUIVALENT
    both = {(0.5, 0.15): 10.0, (0.5, 0.75): 14.0, (0.9, 0.15): 12.0, (0.9, 0.75): 18.0}
    (found,) = judge([grid(both, spread=0.01)], [judged])
    assert found.verdict == SUPPORTED and "difference +5.0" in found.measured


@pytest.mark.parametrize("none", [None, 19.0, 18.0])
@pytest.mark.parametrize(("a", "b"), [(18.0, 12.0), (12.0, 18.0)])
def test_a_difference_below_no_pretraining_says_nothing(
    none: float | None, a: float, b: float
) -> None:
    (found,) = judge([grid(values(a, b), none=none)], [TEXT_RATIO])
    assert found.verdict == NOT_TESTABLE
    assert ("no row without pre-training" if none is None else "exceed") in found.measured


def full(best: float = 18.0, at: tuple[float, float] = (0.9, 0.75)) -> Values:
    made = {(v, t): 10.0 + 0.1 * t for v in (0.8, 0.9, 0.95) for t in (0.6, 0.75, 0.9)}
    return made | {at: best}


BEST = claim("best", cell={VIDEO: 0.9, TEXT: 0.75})


@pytest.mark.parametrize(
    ("at", "best", "expected"),
    [
        ((0.9, 0.75), 18.0, SUPPORTED),
        ((0.8, 0.9), 18.0, CONTRADICTED),
        ((0.9, 0.75), 10.1, EQUIVALENT),
    ],
)
def test_a_best_cell_is_compared_with_all_others(
    at: tuple[float, float], best: float, expected: ClaimVerdict
) -> None:
    assert verdict(BEST, grid(full(best, at), spread=0.2)) == expected


def test_the_best_value_of_one_setting_is_judged_over_the_others() -> None:
    judged = claim("best", cell={VIDEO: 0.9})
    made = {(v, t): 10.0 + 5.0 * (v == 0.9) for v in (0.8, 0.9, 0.95) for t in (0.15, 0.75)}
    assert verdict(judged, grid(made)) == SUPPORTED
    without = {cell: value for cell, value in made.items() if cell[0] < 0.95}
    (found,) = judge([grid(without)], [judged])
    assert found.verdict == NOT_TESTABLE
    assert f"no cell with {VIDEO} above 0.9" in found.measured


# ---- several studies -----------------------------------------------------------------------------


def evidence(said: ClaimVerdict, p_value: float | None) -> ClaimEvidence:
    return ClaimEvidence("a against b", "", "", said, frozenset(), p_value)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([(SUPPORTED, 0.01), (NOT_TESTABLE, None)], SUPPORTED),
        ([(SUPPORTED, 0.01), (UNDECIDED, 0.5)], SUPPORTED),
        ([(SUPPORTED, 0.04), (UNDECIDED, 0.5)], UNDECIDED),  # one of two by chance
        ([(SUPPORTED, 0.001), (CONTRADICTED, 0.001)], UNDECIDED),
        ([(SUPPORTED, 0.001), (CONTRADICTED, 0.049)], UNDECIDED),
        ([(CONTRADICTED, 0.001), (EQUIVALENT, 0.9)], CONTRADICTED),
        ([(EQUIVALENT, 0.9), (EQUIVALENT, 0.8)], EQUIVALENT),
        ([(EQUIVALENT, 0.9), (UNDECIDED, 0.8)], UNDECIDED),
        ([(NOT_TESTABLE, None)], NOT_TESTABLE),
    ],
)
def test_evidence_accumulates(
    said: list[tuple[ClaimVerdict, float | None]], expected: ClaimVerdict
) -> None:
    made = [evidence(*one) for one in said]
    assert over_studies(made) == over_studies(made[::-1]) == expected


def test_a_second_sweep_does_not_replace_the_first() -> None:
    first = grid(values(18.0, 12.0))
    pair = {(0.9, 0.15): 12.0, (0.9, 0.75): 12.5}
    second = grid(pair, spread=3.0, first=4, sweep_id="mask_ratio-2")
    for order in ((first, second), (second, first)):
        (found,) = judge(order, [TEXT_RATIO])
        assert found.verdict == SUPPORTED and len(found.evidence) == 2
        assert first.plan.sweep_id in found.scale and "mask_ratio-2" not in found.scale


def test_the_same_runs_in_two_sweeps_count_once() -> None:
    first = grid(values(18.0, 12.0))
    again = grid(values(18.0, 12.0), sweep_id="mask_ratio-2")
    (found,) = judge([first, again], [TEXT_RATIO])
    assert len(found.evidence) == 1


# ---- conditions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sweep", "why"),
    [
        (grid(values(18.0, 12.0), seeds=2), "2 seeds, and at least 3 are needed"),
        (grid(values(0.3, 0.3), spread=0.01, none=0.3), "no cell reaches 2 times chance"),
        (grid(values(98.0, 98.0), spread=0.01), "all cells lie above 95 %"),
        (grid({(0.5, 0.75): 10.0, (0.9, 0.75): 12.0}), "the cells of the claim are not in this"),
    ],
    ids=["seeds", "chance", "ceiling", "cells"],
)
def test_what_cannot_be_tested_says_why(sweep: SweepResults, why: str) -> None:
    if "chance" in why:
        made = made_up.plan(seeds=(0, 1, 2))
        sweep = made_up.sweep_results(made, lambda cell, seed: 0.3)
    (found,) = judge([sweep], [TEXT_RATIO])
    assert found.verdict == NOT_TESTABLE and why in found.measured


def test_a_benchmark_is_held_against_its_bound(tmp_path: Path) -> None:
    file = tmp_path / "benchmarks.json"

    def found(flops: dict[str, Any], speed: dict[str, Any]) -> tuple[ClaimVerdict, ClaimVerdict]:
        file.write_text(json.dumps({"mac-flops": flops, "mac-speed": speed}))
        by_id = {one.id: one.verdict for one in judge([], benchmarks=file)}
        return by_id["mac-flops"], by_id["mac-speed"]

    # the first was chosen so; of the second nobody knows the device
    assert found({"value": 0.399}, {"value": 1.9}) == (ClaimVerdict.BY_CONSTRUCTION, NOT_TESTABLE)
    for value, device, expected in (
        (1.9, "cuda", CONTRADICTED),
        (3.1, "cuda", SUPPORTED),
        (3.1, "cpu", NOT_TESTABLE),
    ):
        speed = {"value": value, "device": device}
        assert found({"value": 0.5}, speed) == (CONTRADICTED, expected)


# ---- the file and the page -----------------------------------------------------------------------


def test_every_claim_of_both_papers_has_a_row() -> None:
    claims = read_claims()
    assert len(claims) >= 20 and {one.paper for one in claims} == {"SimVTP", "MAC"}
    wanted = {
        *("simvtp-words-from-video", "simvtp-video-from-words", "simvtp-video-ratio"),
        *("simvtp-text-ratio", "simvtp-mechanism", "simvtp-vtc", "simvtp-vtm", "simvtp-data"),
        *("simvtp-downstream", "mac-flops", "mac-speed", "mac-frozen", "mac-alignment"),
        *("mac-msrvtt", "mac-didemo", "mac-activitynet", "mac-image-text"),
    }
    assert wanted <= {one.id for one in claims}
    for one in claims:
        assert one.test != ClaimTest.BEST or all(cells.control for cells in one.cells)


def test_the_claim_on_data_is_the_one_that_the_paper_makes() -> None:
    """10 % of the data against other methods with all of it, by the rows that are published."""
    judged = next(one for one in read_claims() if one.id == "simvtp-data")
    finetuned = ("MSR-VTT", "1k-A", "finetuned", "t2v")
    rows = [row for row in read_rows() if row.protocol == finetuned and "SimVTP" in row.source]
    (own,) = [row.values["R1"] for row in rows if row.pretrain_data == "WebVid2M 10%"]
    earlier = max(float(row.values["R1"]) for row in rows if row.pretrain_data == "WebVid2M+CC3M")
    assert f"({own} R@1" in judged.claim and f"(at most {earlier})" in judged.claim
    (found,) = judge([], [judged])
    assert found.verdict == NOT_TESTABLE and "a method with itself alone" in found.scale


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"test": "better"}, r"the claim x lacks cells = \[\{ ablation, cell, than \}\]"),
        ({"test": "best", "cells": [{"ablation": "a"}]}, "the claim x lacks"),
        ({"test": "scale"}, "the claim x lacks lacks"),
        ({"test": "benchmark", "unit": "s"}, "the claim x lacks unit and one of at_least"),
        ({"test": "guess"}, "the claim x lacks a known test"),
        ({"test": "scale", "lacks": "a", "colour": "b"}, "lacks a meaning for colour"),
        (
            {"test": "scale", "lacks": "a", "needs": [{"metric": "R1", "above": 0, "what": "w"}]},
            r'the claim x needs .*: write metric = "use/<masks>/',
        ),
    ],
)
def test_a_broken_claim_is_named(entry: dict[str, Any], why: str) -> None:
    made = {"id": "x", "paper": "P", "claim": "c", "source": "s", **entry}
    if entry["test"] == "better":
        made["cells"] = [{"ablation": "a", "cell": {"b": 1}}]
    with pytest.raises(ReportError, match=why):
        Claim.read(made)


def test_the_committed_page_is_what_the_command_makes(tmp_path: Path) -> None:
    """Also on a machine whose last digits differ: the numbers are those of committed files."""
    assert main(["--claims", str(tmp_path / "claims.md")]) == 0
    made = (tmp_path / "claims.md").read_text(encoding="utf-8")
    assert made == PAGE.read_text(encoding="utf-8"), (
        "make it again: python reports/build.py --claims results/claims.md"
    )


def test_studies_that_are_given_count_with_the_committed_ones(tmp_path: Path) -> None:
    study = str(committed_files()[0])
    page = tmp_path / "claims.md"
    assert main(["--claims", str(page), "--study", study]) == 0
    assert "and 1 other; not written" in page.read_text(encoding="utf-8")
    assert main(["--claims", str(tmp_path / "none" / "claims.md")]) == 2


def of_committed(name: str) -> ClaimFinding:
    found = judge(read_sweeps(committed_files()))
    return next(one for one in found if one.id == name)


def test_the_study_with_controls_decides_and_older_ones_cannot() -> None:
    found = of_committed("simvtp-alignment")
    by_verdict = {one.verdict: one.scale for one in found.evidence}
    assert by_verdict[SUPPORTED].startswith("tiny_pair on shapes")
    assert by_verdict[NOT_TESTABLE].startswith("tiny on shapes")
