"""Counts that follow from the mask settings: how many units a ratio hides, and frames by step."""

from __future__ import annotations

from simvtp.config.model_config import MaskConfig, ModelConfig
from simvtp.errors import ConfigError


def mask_units(model: ModelConfig, masks: MaskConfig) -> int:
    """Returns the number of units among which the video mask chooses.

    Units are positions of a time slot (tube, per_frame, block), tubes of the clip (random) or time
    slots (frame).
    """
    t, h, w = model.grid
    return {"random": t * h * w, "frame": t}.get(masks.video_kind, h * w)


def hidden_per_slot(model: ModelConfig, masks: MaskConfig) -> int:
    """Returns the number of units that the video mask hides (see `mask_units` for the units).

    It is int(ratio * units), as released: 0.9 of 196 is 176.
    """
    return int(masks.video_ratio * mask_units(model, masks))


def frame_curriculum(schedule: str) -> tuple[tuple[int, int], ...]:
    """Parses `masks.frame_schedule` into pairs (frames, step before which they hold).

    `1:2000,2:1000` gives (1, 2000), (2, 3000).

    Raises:
        ConfigError: the text is not of this form.
    """
    stages: list[tuple[int, int]] = []
    for part in schedule.split(",") if schedule else ():
        frames, sign, steps = part.partition(":")
        valid = sign and frames.strip().isdigit() and steps.strip().isdigit()
        if not valid or int(frames) < 1:
            raise ConfigError(
                f"masks.frame_schedule={schedule}: write frames:steps with commas between, "
                "for example 1:2000,2:1000."
            )
        stages.append((int(frames), int(steps) + (stages[-1][1] if stages else 0)))
    return tuple(stages)
