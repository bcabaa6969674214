"""A small model and random inputs, shared by the tests of the models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from simvtp.batch import Batch, Masks
from simvtp.config.model_config import MaskConfig, SimVTPConfig
from simvtp.models.common.masking import draw_masks

CONFIG = SimVTPConfig(
    image_size=16,
    frames=4,
    patch_size=8,
    tubelet_size=2,
    dim=24,
    depth=2,
    heads=2,
    decoder_dim=16,
    decoder_depth=2,
    decoder_heads=2,
    vocab_size=50,
    text_length=8,
    max_text_positions=12,
    text_dropout=0.0,
)
MASKS = MaskConfig(video_ratio=0.5, text_ratio=0.5)


def small(**changes: Any) -> SimVTPConfig:
    return replace(CONFIG, **changes)


def random_batch(config: SimVTPConfig, size: int = 3, seed: int = 0) -> Batch:
    """Clips of noise with captions of different lengths, padding included."""
    g = torch.Generator().manual_seed(seed)
    clips = torch.randint(
        0,
        256,
        (size, config.frames, config.image_size, config.image_size, 3),
        dtype=torch.uint8,
        generator=g,
    )
    length = config.text_length
    words = (
        torch.arange(size) % (length - 3) + 1
    )  # from one word up, never the whole length in the first samples
    places = torch.arange(length)
    inside = (places >= 1) & (places <= words[:, None])
    ids = torch.where(inside, torch.randint(5, config.vocab_size, (size, length), generator=g), 0)
    ids = torch.where(places == 0, 2, torch.where(places == words[:, None] + 1, 3, ids))
    word_ids = torch.where(inside, places - 1, -1)
    return Batch(
        clips, ids, places <= words[:, None] + 1, word_ids, tuple(f"clip{i}" for i in range(size))
    )


def masks_for(
    batch: Batch, config: SimVTPConfig, masks: MaskConfig = MASKS, step: int = 0
) -> Masks:
    return draw_masks(batch, config, masks, mask_id=4, seed=0, step=step, first_sample=0)
