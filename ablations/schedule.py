"""Ablation of the length of the pre-training: none, and multiples of the recipe's epochs.

Question: what does pre-training give, and how much of it is enough?
The paper: 200 epochs of WebVid-2M; results for shorter schedules, and for none, are unknown.
Expected: any pre-training far above none, then slowly upwards. Masked autoencoders gain for longer
than contrastive models.

Each cell has a whole schedule of its own (warm-up, then cosine to the end), not a part of a longer
one. Fine-tuning is the same in all.

Command: `python sweeps/run.py schedule` (recipe `tiny`: none, half, once, twice its epochs),
`--full-grid` (up to four times).
Cost: in proportion to the epochs: on `tiny`, four times the epochs are about two and a half times
the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablations.variants import Cells, Variants
from simvtp.config.experiment_config import Experiment
from simvtp.config.finetune_config import INITIAL

NONE = "none"
MULTIPLES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4)


def cells(base: Experiment) -> Cells:
    """Returns no pre-training, then each multiple of the base's length."""
    lengths = {length_name(base, factor): length(base, factor) for factor in MULTIPLES}
    return {NONE: {"finetune.init": INITIAL}} | lengths


def small(base: Experiment) -> Sequence[str]:
    """Returns no pre-training, half, once and twice the base's length."""
    return [NONE, *(length_name(base, factor) for factor in (1 / 2, 1, 2))]


def length(base: Experiment, factor: float) -> Mapping[str, Any]:
    """Returns the settings of a multiple of the base's length."""
    if base.pretrain.max_steps:
        return {"pretrain.max_steps": max(1, round(factor * base.pretrain.max_steps))}
    return {"pretrain.epochs": factor * base.pretrain.epochs}


def length_name(base: Experiment, factor: float) -> str:
    """Returns `6 epochs`, or `100 steps`."""
    (key, count), *_ = length(base, factor).items()
    unit = "steps" if key.endswith("steps") else "epochs" if count != 1 else "epoch"
    return f"{count:g} {unit}"


STUDY = Variants(
    name="schedule",
    title="Length of the pre-training",
    question="What does pre-training give, and how much of it is enough?",
    paper_says="200 epochs of WebVid-2M. No figure for other lengths is known.",
    label="length of the pre-training",
    cells=cells,
    small=small,
    short="pre-training",
)
build = STUDY.build
