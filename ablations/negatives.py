"""What the aligning objectives tell apart, and how sharply: negatives of VTC and VTM, temperature
of VTC.

Question: do negatives of all ranks, hard negatives for matching, or a learned temperature help? The
paper: negatives of one GPU (16 pairs), random ones for matching, a fixed temperature of 0.05
(released behaviour). Figures for others: unknown. Direction to expect: global above local where
there are many ranks; hard above random for matching, as in ALBEF; a learned temperature near the
fixed one.

**On one rank local and global negatives are the same** (the batch is all there is): on one GPU or
CPU, leave `local` out, as the small grid does; its cells would repeat those of `global` figure by
figure. The temperature is learned from `losses.temperature` on, in the pre-training only. Cells are
called `VTC+VTM+temperature`.

Command: `python sweeps/run.py negatives` (recipe `tiny`: four cells), `--full-grid` (eight; several
ranks needed). Cost: a run of the recipe for each cell and seed; hard negatives cost nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablations.variants import Variants
from simvtp.config.experiment_config import Experiment


def cells(base: Experiment) -> Mapping[str, Mapping[str, Any]]:
    return {
        f"{where}+{which}+{temperature}": {
            "losses.vtc_negatives": where,
            "model.vtm_negatives": which,
            "model.learned_temperature": temperature == "learned",
        }
        for where in ("global", "local")
        for which in ("random", "hard")
        for temperature in ("fixed", "learned")
    }


def small(base: Experiment) -> Sequence[str]:
    """On one rank: without `local`."""
    return [name for name in cells(base) if name.startswith("global")]


STUDY = Variants(
    name="negatives",
    title="Negatives and temperature of contrast and matching",
    question="Do negatives of all ranks, hard negatives or a learned temperature help?",
    paper_says="Negatives of the same GPU, random ones for matching, temperature 0.05 fixed. No figure for others is known.",
    label="negatives (VTC+VTM+temperature)",
    cells=cells,
    small=small,
    short="negatives",
)
build = STUDY.build
