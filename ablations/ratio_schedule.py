"""Ablation of the mask ratios together with the length of the pre-training.

Question: does the best pair of ratios depend on how long the pre-training is?
The paper: one length (200 epochs); no figure for others is known. Masked autoencoders of video gain
from high ratios most in long trainings (arXiv 2205.09113).
Expected: low ratios ahead in short trainings, high ones the better the longer: an interaction.

`no pre-training` is a row outside the grid.

Command: `python sweeps/run.py ratio_schedule` (recipe `tiny`: two pairs of ratios, two lengths),
`--full-grid` (four pairs, four lengths).
Cost: in proportion to the epochs.
"""

from __future__ import annotations

from collections.abc import Sequence

from ablations.design import Ablation, Axis, null_arm
from ablations.headline import headline
from ablations.schedule import length, length_name
from simvtp.config.experiment_config import Experiment

RATIOS = ((0.5, 0.15), (0.9, 0.75), (0.5, 0.75), (0.9, 0.15))  # video, text
FACTORS = (1, 4, 0.5, 2)
SMALL = 2  # of each axis


def ratio_axis(count: int) -> Axis:
    """Returns the axis of pairs of ratios, `video 0.5 text 0.15`."""
    settings = {
        f"video {video:g} text {text:g}": {"masks.video_ratio": video, "masks.text_ratio": text}
        for video, text in RATIOS[:count]
    }
    return Axis("ratios", "mask ratios", tuple(settings), settings=settings)


def build(base: Experiment, seeds: Sequence[int] = (0,), full: bool = False) -> Ablation:
    """Makes the grid of pairs of ratios and lengths.

    Args:
        base: the experiment that every cell changes.
        seeds: each cell is run once per seed.
        full: all pairs and lengths, for the recipe `tiny` as well.
    """
    count = SMALL if base.name == "tiny" and not full else len(RATIOS)
    lengths = {length_name(base, factor): length(base, factor) for factor in FACTORS[:count]}
    return Ablation(
        name="ratio_schedule",
        title="Mask ratios and length of the pre-training",
        question="Do the best mask ratios depend on the length of the pre-training?",
        paper_says="One length is used, 200 epochs. No figure for others is known.",
        base=base,
        axes=(
            ratio_axis(count),
            Axis("length", "length of the pre-training", tuple(lengths), settings=lengths),
        ),
        seeds=tuple(seeds),
        metric=headline(base).metric,
        metric_label=headline(base).label,
        controls=null_arm(base),
    )
