"""VideoMAE of the package transformers, which trains MVM alone: the baseline of our MVM."""

from __future__ import annotations

from typing import Any

from torch import nn

from simvtp.config.model_config import SimVTPConfig
from simvtp.errors import UserError
from simvtp.models.common.layers import BLOCK_NORM_EPS


def build_transformers_baseline(config: SimVTPConfig, **options: Any) -> nn.Module:
    """Returns a `VideoMAEForPreTraining` of these sizes with random weights.

    The norms are the released ones; transformers chooses its implementation of attention.

    Raises:
        UserError: transformers is not installed.
    """
    try:
        from transformers import VideoMAEConfig, VideoMAEForPreTraining
    except ImportError as error:
        raise UserError(
            "transformers is not installed here: without it, measure with `--what all`."
        ) from error
    settings = VideoMAEConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_frames=config.frames,
        tubelet_size=config.tubelet_size,
        hidden_size=config.dim,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=round(config.dim * config.mlp_ratio),
        layer_norm_eps=BLOCK_NORM_EPS,
        use_mean_pooling=False,
        norm_pix_loss=True,
        decoder_hidden_size=config.decoder_dim,
        decoder_num_hidden_layers=config.decoder_depth,
        decoder_num_attention_heads=config.decoder_heads,
        decoder_intermediate_size=round(config.decoder_dim * config.mlp_ratio),
        **options,
    )
    model: nn.Module = VideoMAEForPreTraining(settings)
    return model
