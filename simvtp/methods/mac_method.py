"""MAC as a method: see `method.Method`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.config.model_config import MACConfig, MACMaskConfig, MaskConfig, ModelConfig
from simvtp.config.tree import narrow
from simvtp.errors import ConfigError
from simvtp.models.mac.mac_masks import draw_frame_masks
from simvtp.models.mac.mac_model import MAC
from simvtp.models.weights.conversion import ConversionReport
from simvtp.models.weights.pretrained import initialise_from


class MACMethod:
    """Masked-then-alignment. It has no pair encoder."""

    pair = False
    objectives: tuple[str, ...] = ("vtc",)

    def build(self, config: ModelConfig, wanted: tuple[str, ...], seed: int) -> MAC:
        if tuple(wanted) != ("vtc",):
            raise ConfigError(
                f"model.method=mac has the contrastive objective alone, not {', '.join(wanted)}."
            )
        model = MAC(narrow(config, MACConfig))
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
        return draw_frame_masks(
            batch,
            narrow(config, MACConfig),
            narrow(masks, MACMaskConfig),
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
        encoder: str = "dual",
    ) -> nn.Module:
        """Returns a copy of the model: its two towers and projections; there is nothing to pool."""
        if encoder != "dual":
            raise ConfigError(
                f"finetune.task.encoder={encoder}: model.method=mac always has two towers; "
                "leave it as 'dual'."
            )
        tuned = MAC(replace(narrow(config, MACConfig), drop_path=drop_path))
        state, positions = model.state_dict(), "video_tower.embedding.temporal"
        # `config` may ask for fewer frames: the first positions in time
        state[positions] = state[positions][: config.grid[0]]
        tuned.load_state_dict(state)
        weight = next(model.parameters())
        return tuned.to(device=weight.device, dtype=weight.dtype)
