"""How much decoder the words need: a linear head, or blocks of some depth and width before it.

Question: does a text decoder of its own take work off the encoder, or does it take away what the
encoder should learn? The paper: figure 2 draws a text decoder and says nothing of its depth; the
released implementation has one linear layer ("linear"). Figures: unknown. Direction to expect:
unknown; if words behave as pixels do in masked autoencoders, some depth helps features that are
fine-tuned little, and hardly those that are fine-tuned long.

Command: `python sweeps/run.py text_decoder` (recipe `tiny`: linear, depth 1 and 2), `--full-grid`
(depth 1, 2, 4; width of the video decoder and of the encoder). Cost: a run of the recipe for each
cell and seed; a block more costs a few per cent of the pre-training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablations.variants import Variants
from simvtp.config.experiment_config import Experiment
from simvtp.config.model_config import SimVTPConfig
from simvtp.config.tree import narrow

DEPTHS = (1, 2, 4)
LINEAR = "linear"


def sizes(base: Experiment) -> SimVTPConfig:
    """Returns the model settings of a base experiment, which must be SimVTP's."""
    return narrow(base.model, SimVTPConfig)


def cells(base: Experiment) -> Mapping[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {
        LINEAR: {"model.text_decoder_depth": 0, "model.text_decoder_dim": 0}
    }
    for width in dict.fromkeys((sizes(base).decoder_dim, base.model.dim)):
        found |= {
            _name(depth, width): {
                "model.text_decoder_depth": depth,
                "model.text_decoder_dim": width,
            }
            for depth in DEPTHS
        }
    return found


def small(base: Experiment) -> Sequence[str]:
    return (LINEAR, *(_name(depth, sizes(base).decoder_dim) for depth in DEPTHS[:2]))


def _name(depth: int, width: int) -> str:
    return f"depth {depth} width {width}"


STUDY = Variants(
    name="text_decoder",
    title="Depth and width of the text decoder",
    question="Does a text decoder help, and how deep and wide should it be?",
    paper_says="A text decoder is drawn, its depth is not given; the released implementation has one linear layer. No figure is known.",
    label="text decoder",
    cells=cells,
    small=small,
    short="decoder",
)
build = STUDY.build
