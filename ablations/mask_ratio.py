"""Ablation of the mask ratios: video mask ratio x text mask ratio during pre-training.

Question: which fraction of the video tubes and of the words should be hidden, so that the pair has
to be understood together?
The paper: hiding 90 % of the video and 75 % of the text is best, far above BERT's 15 % for text.
Expected: text-to-video R@1 rises from (0.50, 0.15) towards (0.90, 0.75). Our reading of why: few
hidden words can be guessed from the other words without looking at the video. On a small data set
with a small model the optimum may lie elsewhere; results are reported as they come out.

A row outside the grid, `no pre-training`, fine-tunes the initial weights: only what lies above it
was gained by pre-training.

Command: `python sweeps/mask_ratio.py` (recipe `tiny_pair`: four cells that hold BERT's ratio and
the published optimum, and no pre-training), `python sweeps/mask_ratio.py --recipe base --full-grid
--data webvid.csv --executor slurm` (all 48 cells).
Cost: `tiny` is meant for a laptop (minutes a point on 2 cores). The full grid of `base` is 48
pre-trainings of ViT-B, not measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from ablations.base_recipe import SMALL_GRID_RECIPES
from ablations.design import Ablation, Axis, null_arm
from ablations.headline import headline
from simvtp.config.experiment_config import Experiment

VIDEO_KEY, TEXT_KEY = "masks.video_ratio", "masks.text_ratio"
FULL_VIDEO = (0.50, 0.60, 0.70, 0.75, 0.80, 0.85, 0.90, 0.95)
FULL_TEXT = (0.15, 0.30, 0.45, 0.60, 0.75, 0.90)
# Four cells: the published optimum and its upper neighbour. Lower ratios cost more (`tiny_pair`: a
# step at 0.75 takes 1.5 times one at 0.90): with them the demo takes longer than ten minutes.
SMALL_VIDEO = (0.90, 0.95)
SMALL_TEXT = (0.15, 0.75)
PUBLISHED_OPTIMUM = {VIDEO_KEY: 0.90, TEXT_KEY: 0.75}


def build(
    base: Experiment,
    video_ratios: Sequence[float] | None = None,
    text_ratios: Sequence[float] | None = None,
    seeds: Sequence[int] = (0,),
    full: bool = False,
) -> Ablation:
    """Makes the grid over both ratios.

    Args:
        base: the experiment that every cell changes.
        video_ratios, text_ratios: default: the small grid for the recipe `tiny` (unless `full`),
            the paper's whole grid for any other.
        seeds: each cell is run once per seed.
        full: the whole grid by default.
    """
    small = base.name in SMALL_GRID_RECIPES and not full
    video = tuple(dict.fromkeys(video_ratios or (SMALL_VIDEO if small else FULL_VIDEO)))
    text = tuple(dict.fromkeys(text_ratios or (SMALL_TEXT if small else FULL_TEXT)))
    return Ablation(
        name="mask_ratio",
        title="Video and text mask ratio",
        question="Which fraction of the video tubes and of the words should be hidden "
        "during pre-training?",
        paper_says="Hiding 90 % of the video and 75 % of the text is best "
        "(BERT hides 15 % of the words).",
        base=base,
        axes=(
            Axis(VIDEO_KEY, "video mask ratio", video, short="video"),
            Axis(TEXT_KEY, "text mask ratio", text, short="text"),
        ),
        seeds=tuple(seeds),
        metric=headline(base).metric,
        metric_label=headline(base).label,
        published_optimum=PUBLISHED_OPTIMUM,
        controls=null_arm(base),
    )
