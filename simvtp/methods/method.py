"""Interface of a method to an experiment: build, initialise, mask, fine-tune for retrieval.

A pre-trained model of any method has `embed_video(uint8 [B, T, H, W, 3]) -> [B, D]` and
`embed_text(ids, mask) -> [B, D]`, and is called as model(batch, masks, options) -> outputs named as
`PretrainObjective` needs them. The training loop, the sweeps and the reports know no method.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.config.model_config import MaskConfig, ModelConfig, SimVTPConfig
from simvtp.config.tree import narrow
from simvtp.models.common.masking import draw_masks
from simvtp.models.downstream.retrieval_encoders import Sides, retrieval_encoder
from simvtp.models.simvtp.simvtp_model import OBJECTIVES, SimVTP
from simvtp.models.weights.conversion import ConversionReport
from simvtp.models.weights.pretrained import initialise_from


class Method(Protocol):
    """A way of pre-training.

    Attributes:
        pair: True if its model has a pair encoder (`encode_pair`, `match`); tasks that need one
            refuse the others.
        objectives: all that its model can have.
    """

    pair: bool
    objectives: tuple[str, ...]

    def build(self, config: ModelConfig, wanted: tuple[str, ...], seed: int) -> nn.Module:
        """Returns the model for the wanted objectives, with initial weights by `seed`."""
        ...

    def initialise(self, model: nn.Module, config: ModelConfig) -> list[ConversionReport]:
        """Loads `config.init_video` and `config.init_text` (either may be empty).

        Returns:
            One report for each, in order.
        """
        ...

    def draw(
        self,
        batch: Batch,
        config: ModelConfig,
        masks: MaskConfig,
        *,
        mask_id: int,
        seed: int,
        step: int,
        first_sample: int,
        piece_weights: Tensor | None = None,
    ) -> Masks:
        """Draws the masks of a batch; see `masking.draw_masks`."""
        ...

    def retrieval(
        self,
        model: nn.Module,
        config: ModelConfig,
        *,
        drop_path: float,
        pooling: Any,
        encoder: Sides = "dual",
    ) -> nn.Module:
        """Returns the model that retrieval fine-tunes, from a pre-trained one.

        Its outputs are `video_feature` and `text_feature` [B, D]. `drop_path`, `pooling` and
        `encoder` are those of `finetune`; `config` may ask for fewer frames than the model was
        trained with.
        """
        ...


class SimVTPMethod:
    """Masked video-text pre-training with one encoder (see `models.simvtp`)."""

    pair = True
    objectives: tuple[str, ...] = OBJECTIVES

    def build(self, config: ModelConfig, wanted: tuple[str, ...], seed: int) -> SimVTP:
        model = SimVTP(narrow(config, SimVTPConfig), wanted)
        model.initialise(seed)
        return model

    def initialise(self, model: nn.Module, config: ModelConfig) -> list[ConversionReport]:
        return initialise_from(model, config)

    def draw(
        self,
        batch: Batch,
        config: ModelConfig,
        masks: MaskConfig,
        *,
        mask_id: int,
        seed: int,
        step: int,
        first_sample: int,
        piece_weights: Tensor | None = None,
    ) -> Masks:
        return draw_masks(
            batch,
            config,
            masks,
            mask_id=mask_id,
            seed=seed,
            step=step,
            first_sample=first_sample,
            piece_weights=piece_weights,
        )

    def retrieval(
        self,
        model: nn.Module,
        config: ModelConfig,
        *,
        drop_path: float,
        pooling: Any,
        encoder: Sides = "dual",
    ) -> nn.Module:
        """Returns two copies of the unified encoder (method notes 1.8), or one (ours)."""
        assert isinstance(model, SimVTP)
        sized = narrow(config, SimVTPConfig)
        return retrieval_encoder(
            model, sized, drop_path=drop_path, pooling=pooling, encoder=encoder
        )
