"""Mixup (Zhang et al., 2018): two samples become two mixtures of both clips and both classes.

Ours: partners are neighbours in the global batch (samples 2k and 2k + 1 of the training), so a rank
and a worker need nothing of another one, and both of a pair are mixed with the same weight, each
mostly of itself or least. The weight follows from the seed and the number of the pair alone. Clips
are mixed as integers from 0 to 255, rounded, after crop, flip and augmentation.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from simvtp.batch import Batch
from simvtp.data.loading.sample_order import uniforms
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.errors import ConfigError

# Of drawing a weight; for alpha up to 1 each one succeeds with probability 1/2 or more.
ATTEMPTS = 64


def mixing_weight(alpha: float, seed: int, stage: str, pair: int) -> float:
    """Returns the weight of its own clip in the mixtures of a pair of samples.

    It is drawn from Beta(alpha, alpha), 0 < alpha <= 1, by Jöhnk's method.
    """
    drawn = uniforms(seed, stage, pair, 2 * ATTEMPTS, "mixup").reshape(ATTEMPTS, 2)
    first, second = ((1 - drawn) ** (1 / alpha)).T  # 1 - u is above 0
    fitting = np.flatnonzero((first + second <= 1) & (first + second > 0))
    if not len(fitting):
        return 0.5
    return float(first[fitting[0]] / (first[fitting[0]] + second[fitting[0]]))


def mix(clips: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mixes pairs of neighbours.

    Args:
        clips: uint8 [2P, ...], pairs one after the other.
        targets: float [2P, K].
        weights: float64 [P].

    Returns:
        Mixed clips and targets of the same shapes.
    """
    pairs = clips.unflatten(0, (-1, 2))
    mixed = torch.empty_like(pairs)
    # Pair by pair: a batch of floats would take four times its memory.
    for number, weight in enumerate(weights.tolist()):
        one, other = pairs[number].to(torch.float32)
        mixed[number, 0] = (other + weight * (one - other)).round_()
        mixed[number, 1] = (one + weight * (other - one)).round_()
    one, other = targets.unflatten(0, (-1, 2)).unbind(1)
    own = weights.to(targets.dtype)[:, None]
    classes = torch.stack([own * one + (1 - own) * other, own * other + (1 - own) * one], dim=1)
    return mixed.flatten(0, 1), classes.flatten(0, 1)


class MixingLoader(TrainLoader):
    """A `TrainLoader` that mixes clips with classes.

    Takes targets int64 [B] below `classes`; those of its batches are float [B, classes].

    Raises:
        ConfigError: a rank's part of a batch is not made of pairs.
    """

    def __init__(self, *arguments: Any, alpha: float, classes: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._alpha, self._classes = alpha, classes
        if self._order.batch_size % (2 * self._order.world):
            raise ConfigError(
                f"finetune.task.mixup={alpha} mixes pairs of samples: "
                f"finetune.train.batch_size={self._order.batch_size} must be an even number for "
                f"each of {self._order.world} processes."
            )

    def batches(self, start_step: int = 0) -> Generator[Batch]:
        """Yields mixed batches; see `TrainLoader.batches`."""
        unmixed = super().batches(start_step)
        try:
            for step, batch in zip(itertools.count(start_step), unmixed, strict=False):
                yield self._mixed(batch, self._order.numbers(step))
        finally:
            unmixed.close()

    def _mixed(self, batch: Batch, numbers: range) -> Batch:
        assert batch.targets is not None
        weights = [
            mixing_weight(self._alpha, self._order.seed, self._order.stage, number // 2)
            for number in numbers[::2]
        ]
        one_hot = F.one_hot(batch.targets, self._classes).float()
        clips, targets = mix(batch.clips, one_hot, torch.tensor(weights, dtype=torch.float64))
        batch = replace(batch, clips=clips, targets=targets)
        return batch.pin_memory() if self._pin else batch
