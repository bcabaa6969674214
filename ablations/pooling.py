"""Ablation of the pooling of a caption: mean with padding, mean of the content, or [CLS].

Question: what does it cost that the released implementation averages over the padding too?
The paper: does not say; the released implementation takes the mean over all positions, padding
included, and no [CLS] for video. Results are unknown.
Expected: content above with_pads (the amount of padding in the mean depends on the length of a
caption, not on its meaning); [CLS], whose vector has not been trained before, at or below the
content mean on little data.

The pooling is the same in pre-training (VTC, and VTM for pairs) and in fine-tuning. The video has
no [CLS]: its vector is the mean of its tubes in every cell, and `cls` means the text's [CLS] for
texts and for pairs.

Command: `python sweeps/run.py pooling` (three cells).
Cost: a run of the recipe for each cell and seed.
"""

from __future__ import annotations

from ablations.variants import Cells, Variants
from simvtp.config.experiment_config import Experiment
from simvtp.config.tree import flatten

KINDS = ("with_pads", "content", "cls")


def cells(base: Experiment) -> Cells:
    """Returns each pooling, in fine-tuning for tasks that rank a gallery."""
    keys = ["model.pooling"]
    if "finetune.task.pooling" in flatten(base):
        keys.append("finetune.task.pooling")
    return {kind: dict.fromkeys(keys, kind) for kind in KINDS}


STUDY = Variants(
    name="pooling",
    title="How a caption becomes one vector",
    question="Is the mean with padding, the mean of the content or [CLS] "
    "the better vector of a caption?",
    paper_says="The released implementation averages over all positions, padding included. "
    "No figure for others is known.",
    label="pooling",
    cells=cells,
)
build = STUDY.build
