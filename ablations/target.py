"""Ablation of the target of masked video modelling: normalised pixels, or raw ones.

Question: does it help that a tube's own brightness and contrast need not be predicted?
The paper: normalised (released behaviour, as MAE and VideoMAE). Results are unknown.
Expected: normalised above raw.

The two losses have different scales, so only the retrieval results may be compared. The weight of
MVM is 1 in both.

Command: `python sweeps/run.py target` (two cells).
Cost: a run of the recipe for each cell and seed.
"""

from __future__ import annotations

from ablations.variants import Variants, one_setting

STUDY = Variants(
    name="target",
    title="Target of masked video modelling",
    question="Should masked tubes be predicted as normalised or as raw pixels?",
    paper_says="Normalised per tube and colour channel. No figure for raw pixels is known.",
    label="target of MVM",
    cells=one_setting(
        "losses.mvm_target", {"normalised pixels": "normalized", "raw pixels": "raw"}
    ),
)
build = STUDY.build
