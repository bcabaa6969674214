"""Ablation of the video decoder: its depth and width.

Question: how small may the video decoder be before the pre-training suffers, and does a larger one
help?
The paper: 4 blocks of width 384, as VideoMAE has (released behaviour). Results for other sizes are
unknown; VideoMAE settles on 4 blocks (its results were not checked again).
Expected: flat around the published size.

Command: `python sweeps/run.py video_decoder` (recipe `tiny`: depth 1, 2, 4 at its width),
`--full-grid` (depth 1, 2, 4, 8 and half, the same and twice the width).
Cost: the decoder sees all tubes: twice the width is up to twice the time of the pre-training.
"""

from __future__ import annotations

from collections.abc import Sequence

from ablations.variants import Cells, Variants, two_settings
from simvtp.config.experiment_config import Experiment
from simvtp.config.model_config import SimVTPConfig
from simvtp.config.tree import narrow

KEYS = ("model.decoder_depth", "model.decoder_dim")
DEPTHS = (1, 2, 4, 8)


def sizes(base: Experiment) -> SimVTPConfig:
    """Returns the model settings of a base experiment, which must be SimVTP's."""
    return narrow(base.model, SimVTPConfig)


def cells(base: Experiment) -> Cells:
    """Returns every depth with every width that the heads divide."""
    model = sizes(base)
    factors = (model.decoder_dim // 2, model.decoder_dim, model.decoder_dim * 2)
    widths = [width for width in factors if width % model.decoder_heads == 0]
    depths = sorted({*DEPTHS, model.decoder_depth})
    return two_settings(KEYS, [(d, w) for w in widths for d in depths], cell_name)


def small(base: Experiment) -> Sequence[str]:
    """Returns three depths at the width of the base."""
    return [cell_name(depth, sizes(base).decoder_dim) for depth in DEPTHS[:3]]


def cell_name(depth: int, width: int) -> str:
    """Returns `depth 4 width 384`."""
    return f"depth {depth} width {width}"


STUDY = Variants(
    name="video_decoder",
    title="Depth and width of the video decoder",
    question="How small may the video decoder be, and does a larger one help?",
    paper_says="4 blocks of width 384, as in VideoMAE. No figure for other sizes is known.",
    label="video decoder",
    cells=cells,
    small=small,
    short="decoder",
    baseline=lambda base: cell_name(sizes(base).decoder_depth, sizes(base).decoder_dim),
)
build = STUDY.build
