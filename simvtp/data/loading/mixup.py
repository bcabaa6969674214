"""Mixup: the two samples of a pair become two mixtures of both clips and both classes. The method
is that of Zhang et al. (2018).

Ours: partners are neighbours in the global batch (samples 2k and 2k + 1 of the training), so a rank
and a worker need nothing of another one, and both of a pair are mixed with the same share, each
with most of itself or least. The share follows from the seed and the number of the pair alone.
Clips are mixed as integers from 0 to 255, rounded, after crop, flip and augmentation.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from simvtp.batch import Batch
from simvtp.data.loading.loader import TrainLoader
from simvtp.data.loading.sample_order import uniforms
from simvtp.errors import ConfigError

ATTEMPTS = (
    64  # of drawing a share; for alpha up to 1 each one succeeds with probability 1/2 or more
)


def mixing_share(alpha: float, seed: int, stage: str, pair: int) -> float:
    """The share of its own clip in a mixture, from Beta(alpha, alpha) with 0 < alpha <= 1, of a
    pair of samples (Jöhnk's method).
    """
    drawn = uniforms(seed, stage, pair, 2 * ATTEMPTS, "mixup").reshape(ATTEMPTS, 2)
    first, second = ((1 - drawn) ** (1 / alpha)).T  # 1 - u is above 0
    fitting = np.flatnonzero((first + second <= 1) & (first + second > 0))
    if not len(fitting):
        return 0.5
    return float(first[fitting[0]] / (first[fitting[0]] + second[fitting[0]]))


def mix(clips: Tensor, targets: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 clips [2P, ...] and targets float [2P, K], pairs one after the other; shares float64
    [P] -> the mixtures, same shapes.
    """
    pairs = clips.unflatten(0, (-1, 2))
    mixed = torch.empty_like(pairs)
    for number, share in enumerate(
        shares.tolist()
    ):  # pair by pair: a batch of floats would take four times its memory
        one, other = pairs[number].to(torch.float32)
        mixed[number, 0] = (other + share * (one - other)).round_()
        mixed[number, 1] = (one + share * (other - one)).round_()
    one, other = targets.unflatten(0, (-1, 2)).unbind(1)
    share = shares.to(targets.dtype)[:, None]
    return mixed.flatten(0, 1), torch.stack(
        [share * one + (1 - share) * other, share * other + (1 - share) * one], dim=1
    ).flatten(0, 1)


class MixingLoader(TrainLoader):
    """A `TrainLoader` of clips with classes (targets int64 [B] below `classes`) that are mixed; its
    targets are float [B, classes].

    Raises ConfigError where a rank's share of a batch is not made of pairs.
    """

    def __init__(self, *arguments: Any, alpha: float, classes: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._alpha, self._classes = alpha, classes
        if self._order.batch_size % (2 * self._order.world):
            raise ConfigError(
                f"finetune.mixup={alpha} mixes pairs of samples: finetune.train.batch_size={self._order.batch_size} must be an even number "
                f"for each of {self._order.world} processes."
            )

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        parts = super().batches(start_step)
        try:
            for step, batch in zip(itertools.count(start_step), parts, strict=False):
                yield self._mixed(batch, self._order.numbers(step))
        finally:
            parts.close()  # type: ignore[attr-defined]

    def _mixed(self, batch: Batch, numbers: range) -> Batch:
        assert batch.targets is not None
        order = self._order
        shares = torch.tensor(
            [
                mixing_share(self._alpha, order.seed, order.stage, number // 2)
                for number in numbers[::2]
            ],
            dtype=torch.float64,
        )
        clips, targets = mix(batch.clips, F.one_hot(batch.targets, self._classes).float(), shares)
        batch = replace(batch, clips=clips, targets=targets)
        return batch.pin_memory() if self._pin else batch
