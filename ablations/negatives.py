"""Ablation of the aligning objectives: negatives of VTC and VTM, temperature of VTC.

Question: do negatives of all ranks, hard negatives for matching, or a learned temperature help?
The paper: negatives of one GPU (16 pairs), random ones for matching, a fixed temperature of 0.05
(released behaviour). Results for others are unknown.
Expected: global above local if there are many ranks; hard above random for matching, as in ALBEF; a
learned temperature near the fixed one.

**On one rank local and global negatives are the same** (the batch is all there is): on one GPU or
CPU, leave `local` out, as the small grid does; its cells would repeat the values of `global`. The
temperature is learned from `losses.temperature` on, in the pre-training only. Cells are called
`VTC+VTM+temperature`.

The full grid has one cell more: VTM with wrong texts for the clips as well as wrong clips for the
texts (`model.vtm_directions` = both), with global and hard negatives and a fixed temperature.

Command: `python sweeps/run.py negatives` (recipe `tiny`: four cells), `--full-grid` (nine; several
ranks needed).
Cost: a run of the recipe for each cell and seed; hard negatives cost nothing more, wrong texts one
encoder pass of the pairs.
"""

from __future__ import annotations

from ablations.variants import Variants

CELLS = {
    f"{where}+{which}+{temperature}": {
        "losses.vtc_negatives": where,
        "model.vtm_negatives": which,
        "model.learned_temperature": temperature == "learned",
    }
    for where in ("global", "local")
    for which in ("random", "hard")
    for temperature in ("fixed", "learned")
}
ON_ONE_RANK = tuple(name for name in CELLS if name.startswith("global"))
BOTH_DIRECTIONS = {
    "global+hard, both directions+fixed": {
        **CELLS["global+hard+fixed"],
        "model.vtm_directions": "both",
    }
}

STUDY = Variants(
    name="negatives",
    title="Negatives and temperature of contrast and matching",
    question="Do negatives of all ranks, hard negatives or a learned temperature help?",
    paper_says="Negatives of the same GPU, random ones for matching, temperature 0.05 fixed. "
    "No figure for others is known.",
    label="negatives (VTC+VTM+temperature)",
    cells=CELLS | BOTH_DIRECTIONS,
    small=ON_ONE_RANK,
    short="negatives",
)
build = STUDY.build
