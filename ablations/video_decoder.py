"""How much decoder the pixels need: depth and width of the video decoder.

Question: how small may the video decoder be before the pre-training suffers, and does a larger one
help? The paper: 4 blocks of width 384, as VideoMAE has (released behaviour). Figures for other
sizes: unknown. VideoMAE, from which it comes, settles on 4 (its figures were not checked again).
Direction to expect: flat around the published size.

Command: `python sweeps/run.py video_decoder` (recipe `tiny`: depth 1, 2, 4 at its width),
`--full-grid` (depth 1, 2, 4, 8 and half, the same and twice the width). Cost: the decoder sees all
tubes: twice the width is up to twice the time of the pre-training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablations.variants import Variants
from simvtp.config.experiment_config import Experiment
from simvtp.config.model_config import SimVTPConfig
from simvtp.config.tree import narrow

DEPTHS = (1, 2, 4, 8)


def sizes(base: Experiment) -> SimVTPConfig:
    """Returns the model settings of a base experiment, which must be SimVTP's."""
    return narrow(base.model, SimVTPConfig)


def cells(base: Experiment) -> Mapping[str, Mapping[str, Any]]:
    model = sizes(base)
    widths = [
        width
        for width in (model.decoder_dim // 2, model.decoder_dim, model.decoder_dim * 2)
        if width % model.decoder_heads == 0
    ]
    depths = sorted({*DEPTHS, model.decoder_depth})
    return {
        _name(depth, width): {"model.decoder_depth": depth, "model.decoder_dim": width}
        for width in widths
        for depth in depths
    }


def small(base: Experiment) -> Sequence[str]:
    return [_name(depth, sizes(base).decoder_dim) for depth in DEPTHS[:3]]


def _name(depth: int, width: int) -> str:
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
    baseline=lambda base: _name(sizes(base).decoder_depth, sizes(base).decoder_dim),
)
build = STUDY.build
