"""Ablation of the mask ratios together with the width of the encoder.

Question: does the best pair of ratios depend on the size of the model?
The paper: one size for its ratios (ViT-B). No figure for others is known. For text alone larger
models want more hidden (Wettig et al., arXiv 2202.08005).
Expected: the wider, the less high ratios lose: an interaction.

Heads keep their size, so the width follows their number. Decoders, learning rate and steps are
those of the base experiment in all cells. Each width has a row without pre-training outside the
grid.

Command: `python sweeps/run.py ratio_width` (recipe `tiny`: two pairs of ratios, two widths),
`--full-grid` (four pairs, four widths).
Cost: about in proportion to the width and above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablations.design import NO_PRETRAINING, Ablation, Axis, null_arm
from ablations.headline import headline
from ablations.ratio_schedule import RATIOS, SMALL, ratio_axis
from simvtp.config.experiment_config import Experiment

FACTORS = (1, 2, 2 / 3, 4 / 3)  # of the number of heads


def widths(base: Experiment) -> dict[str, Mapping[str, Any]]:
    """Returns the settings of each width, `width 96`."""
    found: dict[str, Mapping[str, Any]] = {}
    size = base.model.dim // base.model.heads
    for factor in FACTORS:
        heads = max(1, round(factor * base.model.heads))
        found[f"width {heads * size}"] = {"model.heads": heads, "model.dim": heads * size}
    return found


def build(base: Experiment, seeds: Sequence[int] = (0,), full: bool = False) -> Ablation:
    """Makes the grid of pairs of ratios and widths.

    Args:
        base: the experiment that every cell changes.
        seeds: each cell is run once per seed.
        full: all pairs and widths, for the recipe `tiny` as well.
    """
    small = base.name == "tiny" and not full
    every = widths(base)
    settings = dict(list(every.items())[: SMALL if small else len(every)])
    controls = {
        f"{NO_PRETRAINING}, {name}": {**settings[name], **start}
        for name in settings
        for start in null_arm(base).values()
    }
    return Ablation(
        name="ratio_width",
        title="Mask ratios and width of the encoder",
        question="Do the best mask ratios depend on the width of the encoder?",
        paper_says="The ratios were chosen for one size. No figure for others is known.",
        base=base,
        axes=(
            ratio_axis(SMALL if small else len(RATIOS)),
            Axis("width", "width of the encoder", tuple(settings), settings=settings),
        ),
        seeds=tuple(seeds),
        metric=headline(base).metric,
        metric_label=headline(base).label,
        controls=controls,
    )
