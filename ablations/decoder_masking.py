"""Ablation of decoder masking: all masked tubes are reconstructed, or half of them.

Question: can the decoder's work be halved at no loss?
The paper: reconstructs all masked tubes. Results for fewer are unknown; running-cell masking comes
from VideoMAE V2 (arXiv 2303.16727), which reports about the same accuracy in action recognition for
less time.
Expected: no difference in retrieval, less time.

The cells of each sample and step begin at a random place (`model.decoder_cells` = turned), so that
every masked tube is reconstructed equally often, for any number of time slots.

Command: `python sweeps/run.py decoder_masking` (all and a half), `--full-grid` (a quarter as well).
Cost: a run of the recipe for each cell and seed, less what the decoder saves.
"""

from __future__ import annotations

from ablations.variants import Variants

ALL, HALF, QUARTER = "all masked tubes", "half in running cells", "a quarter in running cells"
RATIOS = {HALF: 0.5, QUARTER: 0.25}
CELLS = {ALL: {"model.decoder_keep_ratio": 1.0}} | {
    name: {"model.decoder_keep_ratio": ratio, "model.decoder_cells": "turned"}
    for name, ratio in RATIOS.items()
}

STUDY = Variants(
    name="decoder_masking",
    title="Fraction of the masked tubes that is reconstructed",
    question="Can the decoder reconstruct half of the masked tubes at no loss?",
    paper_says="All masked tubes are reconstructed. No figure for fewer is known.",
    label="reconstructed tubes",
    cells=CELLS,
    small=(ALL, HALF),
    short="reconstructed",
)
build = STUDY.build
