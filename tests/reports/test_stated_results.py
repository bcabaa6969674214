"""Sentences that state a figure or an order say what the analysis of the committed files says."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from reports.analysis.comparisons import (
    BETTER,
    UNDECIDED,
    WORSE,
    compare,
    interval_text,
    signed,
)
from reports.analysis.effects import effects
from reports.analysis.seed_statistics import Difference
from reports.kinds.registry import report_type_of
from reports.output.metric_formats import metric_of
from reports.study.stored_study import read_record, stored_study
from reports.study.sweep_results import SweepResults

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ROOT / "results" / "studies"
RESULTS, MAC = "docs/results.md", "docs/mac.md"
FIRST, SAVINGS, LONGER, ALIGNMENT = (
    f"results/studies/2026-11-21-{name}/README.md"
    for name in (
        "ablations",
        "fidelity-and-savings",
        "longer-schedule",
        "prediction-vs-alignment",
    )
)
FILES = {
    "ratios": "2026-11-21-ablations/mask_ratio",
    "losses": "2026-11-21-ablations/losses",
    "data": "2026-11-21-ablations/data_fraction",
    "ladder": "2026-11-21-fidelity-and-savings/fidelity",
    "merging": "2026-11-21-fidelity-and-savings/token_merging",
    "decoder": "2026-11-21-fidelity-and-savings/decoder_masking",
    "longer": "2026-11-21-longer-schedule/",
    "methods": "2026-11-21-prediction-vs-alignment/",
    "objectives": "2026-11-30-objectives-of-tiny-pair/losses",
}


@functools.cache
def study(name: str) -> SweepResults:
    stem = FILES[name]
    record = read_record(STUDIES / f"{stem}{'' if stem.endswith('/') else '_'}provenance.json")
    return stored_study(record, report_type_of(record).make_axis)


@functools.cache
def page(path: str) -> str:
    return " ".join((ROOT / path).read_text(encoding="utf-8").split())


def gap_text(found: Difference) -> str:
    metric = metric_of("R1")
    return f"{signed(metric, found.mean)} {interval_text(metric, found.interval)}"


# Where it is stated, the words before the figure, the study, the cell, and the verdict.
COMPARED = [
    (
        RESULTS,
        "for 0.54 of the CPU-hours: undecided, ",
        "longer",
        "video mask ratio 0.5",
        UNDECIDED,
    ),
    (LONGER, "25.0 against 26.8 %: undecided, ", "longer", "video mask ratio 0.5", UNDECIDED),
    (RESULTS, "MVM + MLM alone (1.7 ± 0.2) is worse, ", "losses", "objectives MVM+MLM$", WORSE),
    (RESULTS, "with VTM (3.1 ± 1.0), ", "losses", "objectives MVM+MLM+VTM$", WORSE),
    (RESULTS, "with VTC (12.1 ± 4.0) is undecided, ", "losses", "MVM+MLM+VTC$", UNDECIDED),
    (FIRST, "MVM and MLM alone (1.7 %) are worse, ", "losses", "objectives MVM+MLM$", WORSE),
    (FIRST, "and so are MVM, MLM and VTM (3.1 %), ", "losses", "MVM+MLM+VTM$", WORSE),
    (FIRST, "without VTM (12.1 %) it is undecided, ", "losses", "MVM+MLM+VTC$", UNDECIDED),
    (RESULTS, "against 10 % is undecided, ", "data", "100 %", UNDECIDED),
    (FIRST, "against 10 % is undecided, ", "data", "100 %", UNDECIDED),
    (RESULTS, "16.4 ± 1.4 above: better, ", "ladder", "+ clipping", BETTER),
    (SAVINGS, "(the recipe): better, ", "ladder", "+ clipping", BETTER),
    (RESULTS, "into half as many tokens, ", "merging", "a half merged", UNDECIDED),
    (SAVINGS, "visible tubes into their likes, ", "merging", "a half merged", UNDECIDED),
    (RESULTS, "reconstructing half of the masked ones, ", "decoder", "half in", UNDECIDED),
    (SAVINGS, "reconstructing half of the masked tubes, ", "decoder", "half in", UNDECIDED),
    (RESULTS, "worse for the same operations, ", "methods", "no mask, same compute", WORSE),
    (RESULTS, "undecided for the same samples, ", "methods", "no mask, same samples", UNDECIDED),
    (RESULTS, "undecided in both, ", "methods", "prediction + contrast, same samples", UNDECIDED),
    (RESULTS, "3.3] and ", "methods", "prediction + contrast, same compute", UNDECIDED),
    (MAC, "without masks is worse than with them, ", "methods", "no mask, same compute", WORSE),
    (MAC, "same samples it is undecided, ", "methods", "no mask, same samples", UNDECIDED),
    (ALIGNMENT, "without masks is worse, ", "methods", "no mask, same compute", WORSE),
    (ALIGNMENT, "contrast is undecided, ", "methods", "contrast, same compute", UNDECIDED),
    (ALIGNMENT, "without masks is undecided, ", "methods", "no mask, same samples", UNDECIDED),
    (ALIGNMENT, "is undecided as well, ", "methods", "contrast, same samples", UNDECIDED),
    (ALIGNMENT, "worse in both budgets, ", "methods", "budget prediction, same samples", WORSE),
    (ALIGNMENT, "−7.1] and ", "methods", "budget prediction, same compute", WORSE),
]


@pytest.mark.parametrize(("path", "words", "name", "cell", "verdict"), COMPARED)
def test_a_stated_difference_is_that_of_the_file(
    path: str, words: str, name: str, cell: str, verdict: str
) -> None:
    sweep = study(name)
    wanted = cell.removesuffix("$")
    ending = cell.endswith("$")
    (found,) = [
        one
        for one in compare(sweep)
        if wanted in (text := sweep.plan.describe(one.cell))
        and (not ending or text.endswith(wanted))
    ]
    assert found.outcome == verdict
    assert f"{words}{gap_text(found.seeds)}" in page(path)


EFFECTS = [
    (RESULTS, "0.9 is below 0.5, ", "ratios", "video mask ratio 0.90 against 0.50", True),
    (RESULTS, "from 0.5 to 0.9 falls, ", "ratios", "linear trend of video mask ratio", True),
    (
        RESULTS,
        "The text ratio is undecided, ",
        "ratios",
        "text mask ratio 0.75 against 0.15",
        False,
    ),
    (FIRST, "0.9 is below 0.5, ", "ratios", "video mask ratio 0.90 against 0.50", True),
    (FIRST, "from 0.5 to 0.9 falls, ", "ratios", "linear trend of video mask ratio", True),
    (FIRST, "The text ratio is undecided, ", "ratios", "text mask ratio 0.75 against 0.15", False),
    (RESULTS, "the largest, clipping, is ", "ladder", "+ clipping against", False),
    (SAVINGS, "which the released code does not have: ", "ladder", "+ clipping against", False),
    (SAVINGS, "Pooling without padding is ", "ladder", "+ content pooling against", False),
]


@pytest.mark.parametrize(("path", "words", "name", "effect", "shown"), EFFECTS)
def test_a_stated_effect_is_that_of_the_file(
    path: str, words: str, name: str, effect: str, shown: bool
) -> None:
    (found,) = [one for one in effects(study(name)) if one.name.startswith(effect)]
    assert found.difference is not None and found.difference.interval is not None
    low, high = found.difference.interval
    assert (low > 0 or high < 0) == shown
    assert f"{words}{gap_text(found.difference)}" in page(path)


def test_no_single_rung_and_no_single_cell_is_decided() -> None:
    """The page of results and those of the studies say so."""
    rungs = [one.difference for one in effects(study("ladder"))]
    assert all(d is not None and d.interval is not None for d in rungs)
    assert all(d.interval[0] <= 0 <= d.interval[1] for d in rungs if d and d.interval)
    assert max(rungs, key=lambda d: d.mean if d else 0.0) == rungs[-1]
    assert {one.outcome for one in compare(study("ratios"))} == {UNDECIDED}


def test_all_four_objectives_are_better_than_every_other_row() -> None:
    """README and docs/results.md say so of the default recipe, over five seeds."""
    found = compare(study("objectives"))
    assert {one.outcome for one in found} == {WORSE} and len(found) == 9
    assert found[0].other.n == 5
    assert "better than every other subset and every control" in page(RESULTS)
    assert "all four objectives together retrieve better than any part" in page("README.md")


@pytest.mark.parametrize("name", [name for name in FILES if name != "objectives"])
def test_stated_means_are_those_of_the_files(name: str) -> None:
    """Every cell of the older studies that docs/results.md gives with its spread."""
    sweep, text = study(name), page(RESULTS)
    metric = metric_of("R1")
    stated = 0
    for cell in sweep.plan.cells:
        summary = sweep.summary(cell, *sweep.plan.column)
        assert summary is not None and summary.std is not None
        stated += f"{metric.text(summary.mean)} ± {metric.text(summary.std)}" in text
    least = {"ratios": 6, "losses": 4, "data": 2, "longer": 2, "methods": 7, "ladder": 2}
    assert stated >= least.get(name, 0)


def test_stated_spreads_are_of_some_file() -> None:
    """A `mean ± spread` in docs/results.md below the older experiments is of one of the files."""
    metric, known = metric_of("R1"), set()
    for name in FILES:
        sweep = study(name)
        for cell in sweep.plan.cells:
            summary = sweep.summary(cell, *sweep.plan.column)
            if summary is not None and summary.std is not None:
                known.add(f"{metric.text(summary.mean)} ± {metric.text(summary.std)}")
    older = page(RESULTS).partition("The older experiments")[2]
    stated = set(re.findall(r"\d+\.\d ± \d+\.\d", older))
    assert len(stated) > 12 and stated <= known


def test_stated_shares_of_the_cost_are_those_of_the_files() -> None:
    def hours(name: str, ratio: float) -> float:
        sweep = study(name)
        runs = [r.cpu_hours for r in sweep.runs if r.point.cell == (ratio, 0.75)]
        return sum(runs) / len(runs)

    for name, words in (
        ("ratios", "takes {} of the CPU-hours"),
        ("longer", "for {} of the CPU-hours"),
    ):
        share = hours(name, 0.9) / hours(name, 0.5)
        assert words.format(f"{share:.2f}") in page(RESULTS)


@pytest.mark.parametrize("path", [RESULTS, MAC, FIRST, SAVINGS, LONGER, ALIGNMENT])
def test_the_text_of_the_pages_has_no_conclusion_of_the_former_analysis(path: str) -> None:
    """Tables keep what was written then; sentences do not."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    text = " ".join(line for line in lines if not line.startswith("|"))
    text = text.partition("**Video and text mask ratio:")[0]
    for phrase in (
        "not distinguishable",
        "cannot be distinguished",
        "could tell",
        "Welch over seeds",
    ):
        assert phrase not in text, phrase
