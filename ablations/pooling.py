"""One vector for a caption: the mean with the padding, the mean of its content, or its [CLS].

Question: what does it cost that the released implementation averages over the padding too? The
paper: does not say; the released implementation takes the mean over all positions, padding
included, and no [CLS] for video. Figures: unknown. Direction to expect: content above with_pads
(the padding's share of the mean says how short a caption is, not what it says); [CLS], whose vector
nothing has trained before, at or below the content mean on little data.

The same pooling in pre-training (VTC, and VTM for pairs) and in fine-tuning. The video has no
[CLS]: its vector is the mean of its tubes in every cell, and `cls` means the text's [CLS] for texts
and for pairs.

Command: `python sweeps/run.py pooling` (three cells).
Cost: a run of the recipe for each cell and seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ablations.variants import Variants
from simvtp.config.experiment_config import Experiment
from simvtp.config.tree import flatten

KEYS = ("model.pooling", "finetune.task.pooling")  # the second is of tasks that rank a gallery


def cells(base: Experiment) -> Mapping[str, Mapping[str, Any]]:
    keys = [key for key in KEYS if key == KEYS[0] or key in flatten(base)]
    return {kind: dict.fromkeys(keys, kind) for kind in ("with_pads", "content", "cls")}


STUDY = Variants(
    name="pooling",
    title="How a caption becomes one vector",
    question="Is the mean with padding, the mean of the content or [CLS] the better vector of a caption?",
    paper_says="The released implementation averages over all positions, padding included. No figure for others is known.",
    label="pooling",
    cells=cells,
)
build = STUDY.build
