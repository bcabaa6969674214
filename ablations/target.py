"""What masked tubes are rebuilt as: pixels normalised in each tube, or raw pixels.

Question: does it help that a tube's own brightness and contrast need not be predicted? The paper:
normalised (released behaviour, as MAE and VideoMAE). Figures: unknown. Direction to expect:
normalised above raw.

The two losses are not on one scale: they are not to be compared with each other, the retrieval
figures are. The weight of MVM is 1 in both.

Command: `python sweeps/run.py target` (two cells).
Cost: a run of the recipe for each cell and seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ablations.variants import Variants
from simvtp.config.experiment_config import Experiment


def cells(base: Experiment) -> Mapping[str, Mapping[str, Any]]:
    return {
        "normalised pixels": {"losses.mvm_target": "normalized"},
        "raw pixels": {"losses.mvm_target": "raw"},
    }


STUDY = Variants(
    name="target",
    title="Target of masked video modelling",
    question="Should masked tubes be predicted as normalised or as raw pixels?",
    paper_says="Normalised per tube and colour channel. No figure for raw pixels is known.",
    label="target of MVM",
    cells=cells,
)
build = STUDY.build
