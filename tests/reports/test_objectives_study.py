"""The page of the objectives of tiny_pair says what its file of values says."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "results/studies/2026-11-30-objectives-of-tiny-pair"
USE = "text0.75_video0.5"
DASH = "—"


def measured() -> dict[tuple[str, str, str], float]:
    """(objectives, setting or variant, metric) -> value, of text-to-video retrieval and of use."""
    found = {}
    with open(FOLDER / "losses_values.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["direction"] == "t2v" or row["variant"] == USE:
                place = row["variant"] or row["setting"]
                found[row["losses"], place, row["metric"]] = float(row["value"])
    return found


def rows() -> dict[str, list[str]]:
    """Returns the cells of the page's table by its first column."""
    lines = (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| objectives |"))
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start + 2 :]]
    return {cells[0]: cells[1:] for cells in table[: table.index([""])]}


def expected(name: str, values: dict[tuple[str, str, str], float]) -> list[str]:
    own, twin = values.get((name, USE, "mlm_loss_own")), values["text only", USE, "mlm_loss_own"]
    gain = values.get((name, USE, "mlm_gain_other"))
    psnr = values.get((name, USE, "psnr_gain_mean_colour"))
    against_twin = None if own is None or name == "text only" else twin - own
    return [
        f"{values[name, 'zero-shot', 'R1']:.1f}",
        f"{values[name, 'finetuned', 'R1']:.1f}",
        f"{values[name, 'finetuned', 'R10']:.1f}",
        DASH if gain is None else f"{gain:.3f}",
        DASH if against_twin is None else f"{against_twin:.3f}",
        DASH if psnr is None else f"{psnr:.2f}",
    ]


def test_each_row_of_the_page_is_that_of_the_values() -> None:
    values = measured()
    assert set(rows()) == {name for name, _, _ in values}
    for name, cells in rows().items():
        assert cells == expected(name, values), name


def test_the_sentences_hold() -> None:
    values = measured()
    with_vtc = [name for name in rows() if "VTC" in name]
    chance = 100 / 512
    assert all(values[name, "zero-shot", "R1"] >= 30 * chance for name in with_vtc)
    below = ("MVM+MLM", "MLM", "text only", "shuffled pairs")
    none = values["none", "finetuned", "R10"]
    assert all(values[name, "finetuned", "R10"] < none for name in below)
    assert values["MVM+MLM+VTC+VTM", "finetuned", "R10"] > values["VTC+VTM", "finetuned", "R10"]
    twin = values["text only", USE, "mlm_loss_own"]
    assert twin - values["MVM+MLM+VTC+VTM", USE, "mlm_loss_own"] < 0
    assert twin - values["MLM", USE, "mlm_loss_own"] == pytest.approx(0.176, abs=5e-4)
