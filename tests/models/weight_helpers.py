"""Small models, files and inputs for the tests of weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simvtp.config.model_config import SimVTPConfig
from simvtp.models.common.embeddings import IMAGENET_MEAN, IMAGENET_STD
from tests.models.test_parity import PRETRAINING, read

FIXTURE = SimVTPConfig(
    image_size=32,
    frames=8,
    patch_size=8,
    tubelet_size=2,
    dim=48,
    depth=3,
    heads=3,
    decoder_dim=24,
    decoder_depth=2,
    decoder_heads=2,
    vocab_size=97,
    text_length=12,
    max_text_positions=24,
)
OTHER = replace(
    FIXTURE,
    image_size=48,
    frames=6,
    patch_size=16,
    tubelet_size=3,
    dim=64,
    depth=2,
    heads=4,
    mlp_ratio=3.0,
    decoder_dim=32,
    decoder_depth=1,
    decoder_heads=4,
)


def released(path: Path = PRETRAINING) -> dict[str, Tensor]:
    return {
        name.removeprefix("state/"): value
        for name, value in read(path)[0].items()
        if name.startswith("state/")
    }


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) and left[name].dtype == right[name].dtype
        for name in left
    )


def shaken(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter, biases and norms included, at a value of its own."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=g) * 0.1)
    return model


def videomae_config(config: SimVTPConfig, **more: Any) -> Any:
    from transformers import VideoMAEConfig

    return VideoMAEConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_frames=config.frames,
        tubelet_size=config.tubelet_size,
        hidden_size=config.dim,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=round(config.dim * config.mlp_ratio),
        layer_norm_eps=1e-6,
        decoder_hidden_size=config.decoder_dim,
        decoder_num_hidden_layers=config.decoder_depth,
        decoder_num_attention_heads=config.decoder_heads,
        decoder_intermediate_size=round(config.decoder_dim * config.mlp_ratio),
        **more,
    )


def normalised(clips: Tensor) -> Tensor:
    # What transformers' model is given: [B, T, 3, H, W], ImageNet-normalised.
    values = (clips / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    return values.permute(0, 1, 4, 2, 3)
