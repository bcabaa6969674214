"""Ablation of the text decoder: a linear head, or blocks of some depth and width before it.

Question: does a text decoder of its own take work off the encoder, or does it take away what the
encoder should learn?
The paper: figure 2 draws a text decoder and does not give its depth; the released implementation
has one linear layer ("linear"). Results are unknown.
Expected: unknown; if words behave as pixels do in masked autoencoders, some depth helps features
that are fine-tuned little, and hardly those that are fine-tuned long.

Command: `python sweeps/run.py text_decoder` (recipe `tiny`: linear, depth 1 and 2), `--full-grid`
(depth 1, 2, 4; width of the video decoder and of the encoder).
Cost: a run of the recipe for each cell and seed; one more block costs a few per cent of the
pre-training.
"""

from __future__ import annotations

from collections.abc import Sequence

from ablations.variants import Cells, Variants, two_settings
from ablations.video_decoder import cell_name, sizes
from simvtp.config.experiment_config import Experiment

KEYS = ("model.text_decoder_depth", "model.text_decoder_dim")
DEPTHS = (1, 2, 4)
LINEAR = "linear"


def cells(base: Experiment) -> Cells:
    """Returns the linear head, then every depth with every width."""
    widths = dict.fromkeys((sizes(base).decoder_dim, base.model.dim))
    pairs = [(0, 0), *((depth, width) for width in widths for depth in DEPTHS)]
    return two_settings(KEYS, pairs, lambda d, w: cell_name(d, w) if d else LINEAR)


def small(base: Experiment) -> Sequence[str]:
    """Returns the linear head and two depths at the width of the video decoder."""
    return (LINEAR, *(cell_name(depth, sizes(base).decoder_dim) for depth in DEPTHS[:2]))


STUDY = Variants(
    name="text_decoder",
    title="Depth and width of the text decoder",
    question="Does a text decoder help, and how deep and wide should it be?",
    paper_says="A text decoder is drawn, its depth is not given; the released implementation has "
    "one linear layer. No figure is known.",
    label="text decoder",
    cells=cells,
    small=small,
    short="decoder",
)
build = STUDY.build
