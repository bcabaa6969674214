"""The page of the mask ratios of tiny_pair says what its file of values says."""

from __future__ import annotations

import csv
import functools
import json
import math
import re
import statistics
from itertools import product
from pathlib import Path

import pytest
from scipy import stats

FOLDER = Path(__file__).resolve().parents[2] / "results/studies/2026-11-30-mask-ratios-of-tiny-pair"
VIDEO, TEXT = ("0.75", "0.9", "0.95"), ("0.15", "0.75", "0.9")
GRID = tuple(product(VIDEO, TEXT))
NONE = ("no pre-training", "")
PUBLISHED = ("0.9", "0.75")
USE = "text0.75_video0.5"
SEEDS = (0, 1, 2, 3)
DASH = "—"
FINETUNED, ZERO_SHOT = ("finetuned", "R1"), ("zero-shot", "R1")
GAIN, CONTENT = (USE, "mlm_gain_other"), (USE, "content_acc_own")
PSNR = (USE, "psnr_gain_mean_colour")
Cell = tuple[str, str]
Measure = tuple[str, str]  # setting or variant, metric
Sample = dict[int, float]  # by seed


@functools.cache
def measured() -> dict[tuple[Cell, Measure], Sample]:
    """Returns the values of t2v retrieval and of use, of the seeds that every cell has."""
    found: dict[tuple[Cell, Measure], Sample] = {}
    with open(FOLDER / "values.csv", newline="") as file:
        for row in csv.DictReader(file):
            if (row["direction"] == "t2v" or row["variant"] == USE) and int(row["seed"]) in SEEDS:
                cell = row["masks.video_ratio"], row["masks.text_ratio"]
                key = cell, (row["variant"] or row["setting"], row["metric"])
                found.setdefault(key, {})[int(row["seed"])] = float(row["value"])
    assert all(sorted(sample) == list(SEEDS) for sample in found.values())
    return found


def spread(sample: Sample | None, digits: int) -> str:
    if sample is None:
        return DASH
    numbers = list(sample.values())
    return f"{statistics.mean(numbers):.{digits}f} ± {statistics.stdev(numbers):.{digits}f}"


@functools.cache
def cpu_seconds() -> dict[Cell, float]:
    """Returns the CPU-seconds of a run of each cell, the mean over its seeds."""
    record = json.loads((FOLDER / "provenance.json").read_text(encoding="utf-8"))
    found: dict[Cell, float] = {}
    for cell in record["cells"]:
        video, text = cell["cell"]["masks.video_ratio"], cell["cell"]["masks.text_ratio"]
        hours = [run["cpu_hours"] for run in cell["runs"] if run["seed"] in SEEDS]
        found[str(video), "" if text is None else str(text)] = 3600 * statistics.mean(hours)
    return found


def expected(cell: Cell) -> list[str]:
    values = measured()
    return [
        spread(values[cell, ZERO_SHOT], 1),
        spread(values[cell, FINETUNED], 1),
        spread(values[cell, ("finetuned", "R10")], 1),
        spread(values.get((cell, GAIN)), 3),
        spread(values.get((cell, CONTENT)), 1),
        spread(values.get((cell, PSNR)), 2),
        f"{cpu_seconds()[cell]:.0f}",
    ]


def shown(cell: Cell) -> str:
    if cell == NONE:
        return NONE[0]
    return f"{float(cell[0]):.2f} / {float(cell[1]):.2f}{' †' if cell == PUBLISHED else ''}"


def contrast(measure: Measure, better: list[Cell], worse: list[Cell]) -> list[float]:
    """Returns the difference of the means of two groups of cells, seed by seed."""
    values = measured()
    return [
        statistics.mean(values[cell, measure][seed] for cell in better)
        - statistics.mean(values[cell, measure][seed] for cell in worse)
        for seed in SEEDS
    ]


def interval(numbers: list[float]) -> tuple[float, float, float]:
    """Returns a mean over seeds and its 95 % interval by Student's t."""
    mean = statistics.mean(numbers)
    width = stats.t.ppf(0.975, len(numbers) - 1) * statistics.stdev(numbers)
    half = width / math.sqrt(len(numbers))
    return mean, mean - half, mean + half


def of_video(ratio: str) -> list[Cell]:
    return [cell for cell in GRID if cell[0] == ratio]


def of_text(ratio: str) -> list[Cell]:
    return [cell for cell in GRID if cell[1] == ratio]


def stated(pattern: str) -> list[float]:
    """Returns the numbers that a sentence of the page states."""
    text = " ".join((FOLDER / "README.md").read_text(encoding="utf-8").split())
    found = re.search(pattern, text)
    assert found is not None, pattern
    return [float(group.replace("−", "-")) for group in found.groups()]


def test_each_row_of_the_page_is_that_of_the_values() -> None:
    lines = (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    for cell in (NONE, *GRID):
        assert f"| {shown(cell)} | {' | '.join(expected(cell))} |" in lines, cell


NUMBERS = r"(\S+) \[(\S+), (\S+)\]"
SENTENCES = {
    r"75 % against 15 % hidden words: " + NUMBERS + " points": (FINETUNED, "text 0.75 0.15"),
    r"90 % against 75 % hidden tubes: " + NUMBERS + " points": (FINETUNED, "video 0.9 0.75"),
    r"95 % against 90 %: " + NUMBERS + " points": (FINETUNED, "video 0.95 0.9"),
    r"75 % instead of 15 % hidden words adds " + NUMBERS + " nat": (GAIN, "text 0.75 0.15"),
    r"90 % instead of 15 % adds " + NUMBERS + " nat": (GAIN, "text 0.9 0.15"),
    r"the accuracy on content words by " + NUMBERS + " points": (CONTENT, "text 0.75 0.15"),
    r"90 % against 75 % changes it by " + NUMBERS + " points": (CONTENT, "text 0.9 0.75"),
    r"90 % instead of 75 % hidden tubes changes the gain by " + NUMBERS + " nat": (
        GAIN,
        "video 0.9 0.75",
    ),
    r"and the reconstruction by " + NUMBERS + " dB": (PSNR, "video 0.9 0.75"),
}


@pytest.mark.parametrize("pattern", SENTENCES)
def test_the_differences_of_the_page_are_those_of_the_values(pattern: str) -> None:
    measure, sides = SENTENCES[pattern]
    axis, high, low = sides.split()
    cells = of_text if axis == "text" else of_video
    decimals = {GAIN: 3, PSNR: 2}.get(measure, 1)
    ends = interval(contrast(measure, cells(high), cells(low)))
    assert stated(pattern) == [pytest.approx(end, abs=0.51 * 10**-decimals) for end in ends]


def test_the_grid_is_better_than_no_pre_training() -> None:
    ends = interval(contrast(FINETUNED, list(GRID), [NONE]))
    assert ends[1] > 0
    pattern = r"all cells together are " + NUMBERS + " points of R@1 better"
    assert stated(pattern) == [pytest.approx(end, abs=0.051) for end in ends]


def test_the_cost_of_a_run_falls_with_the_hidden_tubes() -> None:
    cost = {ratio: statistics.mean(cpu_seconds()[c] for c in of_video(ratio)) for ratio in VIDEO}
    shares = [cost["0.9"] / cost["0.75"], cost["0.95"] / cost["0.75"]]
    assert stated(r"takes (\S+), one at 95 % (\S+) of the CPU-seconds") == [
        pytest.approx(share, abs=0.0051) for share in shares
    ]


def test_no_comparison_with_the_published_optimum_was_decided() -> None:
    record = json.loads((FOLDER / "provenance.json").read_text(encoding="utf-8"))
    ends = record["comparisons"]
    assert len(ends) == len(GRID) and {one["outcome"] for one in ends} == {"undecided"}


def test_the_page_of_results_says_the_range_of_the_cells() -> None:
    page = (FOLDER.parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    means = [statistics.mean(measured()[cell, FINETUNED].values()) for cell in GRID]
    none = statistics.mean(measured()[NONE, FINETUNED].values())
    assert f"between {min(means):.1f} and {max(means):.1f} % at R@1" in page
    assert f"without pre-training it is {none:.1f} %" in page


def test_the_interval_of_the_reports_model_is_that_of_the_claims() -> None:
    claims = (FOLDER.parents[1] / "claims.md").read_text(encoding="utf-8")
    rows = [line for line in claims.splitlines() if "simvtp-mechanism" in line]
    (line,) = (row for row in rows if f"{FOLDER.name}" in row or "mask_ratio-9767e924" in row)
    found = re.search(r"95 % CI \[(\S+), (\S+)\]", line)
    assert found is not None
    ends = [float(end) for end in found.groups()]
    assert stated(r"error of all cells, has \[(\S+), (\S+)\]") == [
        pytest.approx(end, abs=0.0051) for end in ends
    ]
