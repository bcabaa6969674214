"""The page of the objectives of tiny_pair says what its file of values says."""

from __future__ import annotations

import csv
import json
import math
import re
import statistics
from pathlib import Path

import pytest
from scipy import stats

FOLDER = Path(__file__).resolve().parents[2] / "results/studies/2026-11-30-objectives-of-tiny-pair"
USE = "text0.75_video0.5"
DASH = "—"
SEEDS = 5
CHANCE = 100 / 512
ALL, BASE = "MVM+MLM+VTC+VTM", "VTC+VTM"
Values = dict[tuple[str, str, str], list[float]]


def measured() -> Values:
    """(objectives, setting or variant, metric) -> values by seed, of t2v retrieval and of use."""
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    with open(FOLDER / "losses_values.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["direction"] == "t2v" or row["variant"] == USE:
                place = row["variant"] or row["setting"]
                key = row["losses"], place, row["metric"]
                found.setdefault(key, {})[int(row["seed"])] = float(row["value"])
    assert all(sorted(by_seed) == list(range(SEEDS)) for by_seed in found.values())
    return {key: [by_seed[seed] for seed in range(SEEDS)] for key, by_seed in found.items()}


def over_twin(values: Values, name: str) -> list[float] | None:
    own, twin = values.get((name, USE, "mlm_loss_own")), values["text only", USE, "mlm_loss_own"]
    if own is None or name == "text only":
        return None
    return [there - here for there, here in zip(twin, own, strict=True)]


def spread(numbers: list[float] | None, digits: int) -> str:
    if numbers is None:
        return DASH
    return f"{statistics.mean(numbers):.{digits}f} ± {statistics.stdev(numbers):.{digits}f}"


def rows() -> dict[str, list[str]]:
    """Returns the cells of the page's table by its first column."""
    lines = (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| objectives |"))
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start + 2 :]]
    return {cells[0]: cells[1:] for cells in table[: table.index([""])]}


def expected(name: str, values: Values) -> list[str]:
    return [
        spread(values[name, "zero-shot", "R1"], 1),
        spread(values[name, "finetuned", "R1"], 1),
        spread(values[name, "finetuned", "R10"], 1),
        spread(values.get((name, USE, "mlm_gain_other")), 3),
        spread(over_twin(values, name), 3),
        spread(values.get((name, USE, "psnr_gain_mean_colour")), 2),
    ]


def interval(numbers: list[float]) -> tuple[float, float]:
    """Returns the 95 % interval of a mean over seeds, by Student's t."""
    mean = statistics.mean(numbers)
    half = stats.t.ppf(0.975, len(numbers) - 1) * statistics.stdev(numbers) / math.sqrt(SEEDS)
    return mean - half, mean + half


def difference(values: Values, name: str, other: str, metric: str) -> list[float]:
    """Returns the differences of two rows after fine-tuning, seed by seed."""
    pair = values[name, "finetuned", metric], values[other, "finetuned", metric]
    return [here - there for here, there in zip(*pair, strict=True)]


def test_each_row_of_the_page_is_that_of_the_values() -> None:
    values = measured()
    assert set(rows()) == {name for name, _, _ in values}
    for name, cells in rows().items():
        assert cells == expected(name, values), name


def stated(pattern: str) -> list[float]:
    """Returns the numbers that a sentence of the page states."""
    text = " ".join((FOLDER / "README.md").read_text(encoding="utf-8").split())
    found = re.search(pattern, text)
    assert found is not None, pattern
    return [float(group) for group in found.groups()]


def test_the_sentences_on_use_hold() -> None:
    values = measured()
    with_vtc = [name for name in rows() if "VTC" in name]
    least = min(statistics.mean(values[name, "zero-shot", "R1"]) for name in with_vtc) / CHANCE
    assert stated(r"at least (\d+) times chance") == [math.floor(least)]
    gain = over_twin(values, ALL)
    assert gain is not None and interval(gain)[0] > 0
    assert stated(r"all four: (\S+) nat \[(\S+), (\S+)\] over the twin") == pytest.approx(
        [statistics.mean(gain), *interval(gain)], abs=6e-4
    )
    psnr = values[ALL, USE, "psnr_gain_mean_colour"]
    assert stated(r"(\S+) dB \[(\S+), (\S+)\] above the mean colour") == pytest.approx(
        [statistics.mean(psnr), *interval(psnr)], abs=6e-3
    )


@pytest.mark.parametrize("metric", ["R1", "R10"])
def test_the_sentence_on_what_reconstruction_adds_holds(metric: str) -> None:
    gap = difference(measured(), ALL, BASE, metric)
    shown = {
        "R1": r"(\S+) points of R@1 \[(\S+), (\S+)\]",
        "R10": r"(\S+) of R@10 \[(\S+), (\S+)\]",
    }
    assert stated(shown[metric]) == pytest.approx([statistics.mean(gap), *interval(gap)], abs=0.06)
    assert interval(gap)[0] > 0


@pytest.mark.parametrize("metric", ["R1", "R10"])
@pytest.mark.parametrize("name", ["MVM", "MLM", "VTM", "MVM+MLM", "shuffled pairs"])
def test_these_arms_cannot_be_distinguished_from_no_pre_training(name: str, metric: str) -> None:
    low, high = interval(difference(measured(), name, "none", metric))
    assert low < 0 < high


def test_text_alone_is_worse_than_none_in_the_first_ten() -> None:
    assert interval(difference(measured(), "text only", "none", "R10"))[1] < 0


def test_all_four_are_better_than_every_row_and_the_wider_interval_is_that_of_the_report() -> None:
    table = (FOLDER / "losses_comparisons.md").read_text(encoding="utf-8").splitlines()
    for name in set(rows()) - {ALL}:
        (line,) = (line for line in table if line.startswith(f"| {name} "))
        assert line.rstrip("| ").endswith("different: worse"), name
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    (wide,) = re.findall(r"VTC\+VTM it is\s+(\[.*?\])", page)
    provenance = json.loads((FOLDER / "losses_provenance.json").read_text(encoding="utf-8"))
    assert wide in json.dumps(provenance["verdict"], ensure_ascii=False)


def test_the_page_of_results_says_the_figures_of_the_table() -> None:
    values, table = measured(), rows()
    page = (FOLDER.parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    section = " ".join(page.partition("## The older")[0].split())
    sentences = {
        ALL: "All four objectives together reach a text-to-video R@1 of",
        BASE: "VTC and VTM alone",
        "none": "no pre-training",
        "MVM+MLM": "Reconstruction alone (MVM + MLM,",
    }
    for name, words in sentences.items():
        assert f"{words} {table[name][1]}" in section, name
    assert f"{spread(values[ALL, USE, 'psnr_gain_mean_colour'], 2)} dB above" in section


def test_the_table_of_the_longer_schedule_is_that_of_its_file() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    with open(FOLDER / "longer_schedule.csv", encoding="utf-8", newline="") as file:
        points = [{key: float(text) for key, text in row.items()} for row in csv.DictReader(file)]
    gains = {int(p["step"]): p["mlm_loss_own_text_only"] - p["mlm_loss_own"] for p in points}
    for point in points:
        step, gain = int(point["step"]), gains[int(point["step"])]
        other, psnr = point["mlm_gain_other"], point["psnr_gain_mean_colour"]
        assert f"| {step} | {gain:.3f} | {other:.3f} | {psnr:.2f} |" in page
    assert all((gain > 0.1) == (step >= 160) for step, gain in gains.items())
