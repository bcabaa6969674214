"""Options of one forward pass, and random numbers that belong to a sample rather than to a rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BatchSlice:
    """The samples of a micro-batch within the global batch.

    Attributes:
        first: index of the first sample.
        count: number of samples in the micro-batch.
        total: number of samples in the global batch.
    """

    first: int
    count: int
    total: int


@dataclass(frozen=True)
class ForwardOptions:
    """Options of one forward pass that change how it is computed, not what it computes.

    Attributes:
        merge_passes: run the encoder passes of a step in one call where the result is the same.
        pack_text: leave the padding of texts out of the encoder where padding has no effect.
        gradient_checkpointing: keep only the input of each block for the backward pass.
        batch_slice: the samples of this micro-batch within the global batch, by which dropout is
            drawn; None draws for the micro-batch alone.
    """

    merge_passes: bool = False
    pack_text: bool = False
    gradient_checkpointing: bool = False
    batch_slice: BatchSlice | None = None


DEFAULT_OPTIONS = ForwardOptions()


def per_sample_uniform(
    samples: int, shape: tuple[int, ...], batch_slice: BatchSlice | None, device: torch.device
) -> Tensor:
    """Returns uniform numbers [samples, *shape] for dropout.

    With a batch slice they are drawn for the whole global batch, and this micro-batch keeps its
    own: the numbers of a sample then depend on the seed and on the sample, not on how the batch is
    split over ranks and micro-batches. `samples` may be a multiple of the slice's count.
    """
    if batch_slice is None:
        return torch.rand(samples, *shape, device=device)
    drawn = torch.rand(samples // batch_slice.count, batch_slice.total, *shape, device=device)
    return drawn[:, batch_slice.first : batch_slice.first + batch_slice.count].flatten(0, 1)
