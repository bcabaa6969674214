"""Ablation of the target of masked video modelling: pixels, gradients, or the change in time.

Question: what should be predicted of a hidden tube? Does it help that its own brightness and
contrast need not be predicted, or that no pixel must be?
The paper: normalised pixels (released behaviour, as MAE and VideoMAE). Results are unknown.
MaskFeat (arXiv 2112.09133) finds histograms of gradients (HOG) better than pixels for video alone.
Expected: HOG and normalised pixels above raw ones; differences help captions about motion alone.

The losses have different scales, so only the retrieval results may be compared. The weight of MVM
is such that the trivial answers of all targets cost the same as that of the base experiment's
target does with its weight: LEVELS are the losses of these answers on 64 clips of the embedded
data, level `pair`: of flat tubes, of the mean colour, and of the mean of the other two targets.

Command: `python sweeps/run.py target` (four cells).
Cost: a run of the recipe for each cell and seed.
"""

from __future__ import annotations

from ablations.variants import Cells, Variants
from simvtp.config.experiment_config import Experiment
from simvtp.config.train_config import LossConfig, MVMTarget
from simvtp.config.tree import narrow

TARGETS: dict[str, MVMTarget] = {
    "normalised pixels": "normalized",
    "raw pixels": "raw",
    "gradients (HOG)": "hog",
    "difference of frames": "difference",
}
LEVELS: dict[MVMTarget, float] = {
    "normalized": 0.957,
    "raw": 0.0430,
    "hog": 0.0751,
    "difference": 0.0331,
}


def cells(base: Experiment) -> Cells:
    """Returns a cell for each target, with the weight that makes the trivial answers alike."""
    losses = narrow(base.losses, LossConfig)
    costs = losses.mvm * LEVELS[losses.mvm_target]
    return {
        name: {
            "losses.mvm_target": target,
            "losses.mvm": losses.mvm
            if target == losses.mvm_target
            else float(f"{costs / LEVELS[target]:.3g}"),
        }
        for name, target in TARGETS.items()
    }


STUDY = Variants(
    name="target",
    title="Target of masked video modelling",
    question="Should masked tubes be predicted as pixels, normalised or raw, as gradients, or as "
    "the change from frame to frame?",
    paper_says="Normalised per tube and colour channel. No figure for other targets is known.",
    label="target of MVM",
    cells=cells,
)
build = STUDY.build
