"""Which masked tubes are rebuilt: all of them, or half of them in running cells.

Question: can the decoder's work be halved at no loss? The paper: rebuilds all masked tubes. Figures
for fewer: unknown; running cells come from VideoMAE V2 (arXiv 2303.16727), which reports about the
same accuracy in action recognition for less time. Direction to expect: no difference in retrieval,
less time.

Command: `python sweeps/run.py decoder_masking` (all and a half), `--full-grid` (a quarter as well).
Cost: a run of the recipe for each cell and seed, less what the decoder is spared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablations.variants import Variants
from simvtp.config.experiment_config import Experiment

ALL, HALF = "all masked tubes", "half in running cells"


def cells(base: Experiment) -> Mapping[str, Mapping[str, Any]]:
    shares = {ALL: 1.0, HALF: 0.5, "a quarter in running cells": 0.25}
    return {name: {"model.decoder_keep_ratio": share} for name, share in shares.items()}


def small(base: Experiment) -> Sequence[str]:
    return (ALL, HALF)


STUDY = Variants(
    name="decoder_masking",
    title="Share of the masked tubes that is rebuilt",
    question="Can the decoder rebuild half of the masked tubes at no loss?",
    paper_says="All masked tubes are rebuilt. No figure for fewer is known.",
    label="tubes that are rebuilt",
    cells=cells,
    small=small,
    short="rebuilt",
)
build = STUDY.build
