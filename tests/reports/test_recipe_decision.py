"""The recipe `tiny_pair` is what its committed decision names; the page says its figures."""

import csv
from pathlib import Path

from simvtp.config.recipes import get_recipe
from simvtp.config.train_config import LossConfig

FOLDER = Path(__file__).resolve().parents[2] / "results" / "decisions"
WEIGHTS = ("losses.mlm", "losses.mvm", "pretrain.base_lr")


def rows() -> list[dict[str, str]]:
    path = FOLDER / "2026-11-30-loss-weights-of-tiny-pair.csv"
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def chosen() -> dict[str, str]:
    candidates = [row for row in rows() if row["objectives"] == "all four"]
    return max(candidates, key=lambda row: float(row["psnr_gain_mean_colour"]))


def test_the_recipe_has_the_chosen_weights_and_rate() -> None:
    recipe = get_recipe("tiny_pair")
    assert isinstance(recipe.losses, LossConfig)
    has = (recipe.losses.mlm, recipe.losses.mvm, recipe.pretrain.base_lr)
    assert has == tuple(float(chosen()[name]) for name in WEIGHTS)


def test_the_page_says_the_figures_of_the_chosen_row() -> None:
    row, twin = chosen(), rows()[0]
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    gain = float(twin["mlm_loss_own"]) - float(row["mlm_loss_own"])
    zero_shot = float(row["zero_shot_t2v_R1"])
    assert twin["objectives"] == "text only"
    assert f"{gain:.3f} nat better than text alone" in page
    assert f"{float(row['psnr_gain_mean_colour']):.2f} dB above the mean colour" in page
    assert f"R@1 is {zero_shot:.1f}, {zero_shot / (100 / 256):.0f} times chance" in page
