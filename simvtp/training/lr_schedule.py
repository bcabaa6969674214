"""Learning rate as a pure function of the step, so that a resumed run cannot be one step off."""

from __future__ import annotations

import math

from simvtp.config.train_config import Schedule, TrainConfig


def stage_steps(train: TrainConfig, steps_per_epoch: int) -> int:
    """Returns the optimizer steps of a stage: `max_steps` if given, else by its epochs."""
    return train.max_steps or max(1, round(train.epochs * steps_per_epoch))


def learning_rate(
    step: int,
    total: int,
    *,
    peak: float,
    low: float,
    warmup_ratio: float,
    schedule: Schedule = "cosine",
    decay_ratio: float = 0.0,
) -> float:
    """Returns the learning rate of step 0..total-1.

    Linear from 0 to `peak`. The warm-up takes round(warmup_ratio * total) steps; its first step
    has rate 0 and its last one `peak`. Then, with `cosine` (released behaviour), a half cosine to
    `low`; with `wsd` (Hägele et al. 2024) `peak`, and over the last round(decay_ratio * total)
    steps a straight line to `low`.
    """
    warmup = round(warmup_ratio * total)
    if step < warmup:
        return peak * step / max(1, warmup - 1)
    if schedule == "wsd":
        decay = min(round(decay_ratio * total), total - warmup)
        falling = (step - (total - decay)) / max(1, decay)
        return peak - (peak - low) * min(1.0, max(0.0, falling))
    done = (step - warmup) / max(1, total - warmup)
    return low + 0.5 * (peak - low) * (1 + math.cos(math.pi * min(1.0, done)))


def stage_rate(step: int, total: int, train: TrainConfig) -> float:
    """Returns `learning_rate` with the settings of a stage."""
    return learning_rate(
        step,
        total,
        peak=train.lr,
        low=train.min_lr,
        warmup_ratio=train.warmup_ratio,
        schedule=train.schedule,
        decay_ratio=train.decay_ratio,
    )
