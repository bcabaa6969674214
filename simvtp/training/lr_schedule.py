"""Learning rate as a pure function of the step, so that a resumed run cannot be one step off."""

from __future__ import annotations

import math

from simvtp.config.train_config import TrainConfig


def stage_steps(train: TrainConfig, steps_per_epoch: int) -> int:
    """Returns the optimizer steps of a stage: `max_steps` if given, else by its epochs."""
    return train.max_steps or max(1, round(train.epochs * steps_per_epoch))


def learning_rate(step: int, total: int, *, peak: float, low: float, warmup_ratio: float) -> float:
    """Returns the learning rate of step 0..total-1 (released behaviour).

    Linear from 0 to `peak`, then a half cosine to `low`. The warm-up takes
    round(warmup_ratio * total) steps; its first step has rate 0 and its last one
    `peak`.
    """
    warmup = round(warmup_ratio * total)
    if step < warmup:
        return peak * step / max(1, warmup - 1)
    done = (step - warmup) / max(1, total - warmup)
    return low + 0.5 * (peak - low) * (1 + math.cos(math.pi * min(1.0, done)))


def stage_rate(step: int, total: int, train: TrainConfig) -> float:
    """Returns `learning_rate` with the settings of a stage."""
    return learning_rate(
        step, total, peak=train.lr, low=train.min_lr, warmup_ratio=train.warmup_ratio
    )
