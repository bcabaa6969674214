"""The learning rate as a pure function of the step, so that a continued run cannot be one step off."""

from __future__ import annotations

import math

from simvtp.config.train_config import TrainConfig


def stage_steps(train: TrainConfig, steps_per_epoch: int) -> int:
    """Optimizer steps of a stage: `max_steps` where it is given, else the epochs in steps of the
    loader, at least one.
    """
    return train.max_steps or max(1, round(train.epochs * steps_per_epoch))


def learning_rate(step: int, total: int, *, peak: float, low: float, warmup_ratio: float) -> float:
    """Learning rate of step 0..total-1: linear from 0 to `peak`, then a half cosine to `low`
    (released behaviour).

    The warm-up takes round(warmup_ratio * total) steps; its first step has rate 0 and its last one
    `peak`.
    """
    warmup = round(warmup_ratio * total)
    if step < warmup:
        return peak * step / max(1, warmup - 1)
    done = (step - warmup) / max(1, total - warmup)
    return low + 0.5 * (peak - low) * (1 + math.cos(math.pi * min(1.0, done)))


def stage_rate(step: int, total: int, train: TrainConfig) -> float:
    """`learning_rate` with the settings of a stage."""
    return learning_rate(
        step, total, peak=train.lr, low=train.min_lr, warmup_ratio=train.warmup_ratio
    )
