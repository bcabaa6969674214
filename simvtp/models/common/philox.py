"""Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011) in integer arithmetic.

Every number is a pure function of (seed, step, sample, stream). So the numbers are the same on CPU
and GPU, need no random state in a checkpoint, and cost no transfer and no host synchronisation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(
    counter: Sequence[Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes Philox4x32-10: four 32-bit words for each counter.

    Args:
        counter: four int64 tensors of one shape (or broadcastable), values in [0, 2**32).
        key: two integers in [0, 2**32).

    Returns:
        Four int64 tensors with values in [0, 2**32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # A product of two 32-bit numbers wraps in int64, but keeps its 64 bits: the shift copies
        # the sign, the mask removes it.
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (((second >> 32) & _LOW) ^ c1) ^ k0,
            second & _LOW,
            (((first >> 32) & _LOW) ^ c3) ^ k1,
            first & _LOW,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return c0, c1, c2, c3


def stream_uniforms(
    samples: int,
    columns: dict[int, int],
    *,
    seed: int,
    step: int,
    first_sample: int,
    device: torch.device | str | None = None,
) -> dict[int, Tensor]:
    """Returns uniform noise for several streams at once.

    It is one pass of the generator, so that a GPU launches few kernels.

    Args:
        samples: number of samples.
        columns: stream number -> numbers per sample.
        seed: any integer; its low 64 bits are the key.
        step: training step, in [0, 2**32).
        first_sample: index of the first sample within the global batch of this step.

    Returns:
        stream number -> float32 [samples, columns] in [0, 1), multiples of 2**-24.
    """
    blocks = {stream: -(-width // 4) for stream, width in columns.items()}

    def integers(start: int, stop: int) -> Tensor:
        return torch.arange(start, stop, dtype=torch.int64, device=device)

    def constant(value: int, *shape: int) -> Tensor:
        return torch.full(shape, value & _LOW, dtype=torch.int64, device=device)

    stream_word = torch.cat([constant(stream, count) for stream, count in blocks.items()])
    block_word = torch.cat([integers(0, count) for count in blocks.values()])
    sample_word = (integers(0, samples) + first_sample) & _LOW
    counter = torch.broadcast_tensors(
        constant(step, 1, 1), sample_word[:, None], stream_word[None, :], block_word[None, :]
    )
    words = torch.stack(philox(counter, (seed & _LOW, (seed >> 32) & _LOW)), dim=-1)
    noise = (words >> 8).to(torch.float32) * 2.0**-24  # [samples, blocks, 4]
    parts = noise.split(list(blocks.values()), dim=1)
    return {
        stream: part.flatten(1)[:, :width]
        for (stream, width), part in zip(columns.items(), parts, strict=True)
    }
