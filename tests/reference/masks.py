"""Masks that only tests need."""

from __future__ import annotations

import torch
from torch import Tensor

from simvtp.batch import Batch, Masks
from simvtp.config.model_config import ModelConfig
from simvtp.models.common.masking import UNUSED
from simvtp.models.common.philox import stream_uniforms


def full_view(batch: Batch, model: ModelConfig) -> Masks:
    """Returns masks that hide nothing.

    V = N, M = 0, the caption as it is, one unused word slot (as with ratio 0), no negative noise.
    """
    b, device = len(batch), batch.input_ids.device
    return Masks(
        visible=torch.arange(model.tubes, device=device).repeat(b, 1),
        masked=torch.zeros(b, 0, dtype=torch.int64, device=device),
        input_ids=batch.input_ids,
        word_positions=torch.zeros(b, 1, dtype=torch.int64, device=device),
        word_labels=torch.full((b, 1), UNUSED, dtype=torch.int64, device=device),
        negative_noise=torch.zeros(b, b, device=device),
    )


def index_mask(indices: Tensor, tubes: int) -> Tensor:
    """Returns bool [B, N], True at the given tubes int64 [B, any]."""
    empty = torch.zeros(indices.shape[0], tubes, dtype=torch.bool, device=indices.device)
    return empty.scatter(1, indices, True)


def uniform(
    samples: int, columns: int, seed: int, step: int, stream: int, first_sample: int
) -> Tensor:
    """Returns uniform noise of one stream: float32 [samples, columns] in [0, 1)."""
    drawn = stream_uniforms(
        samples, {stream: columns}, seed=seed, step=step, first_sample=first_sample
    )
    return drawn[stream]
