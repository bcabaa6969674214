"""Counts that follow from the settings: units that a ratio hides, frames by step, cells."""

from __future__ import annotations

from dataclasses import dataclass, replace

from simvtp.config.experiment_config import Experiment
from simvtp.config.model_config import MaskConfig, ModelConfig
from simvtp.config.train_config import HOG_BINS, LossConfig
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


def hog_cell(model: ModelConfig) -> int:
    """Returns the side of a cell of gradients, in pixels: the largest that patches hold, up to 8.

    MaskFeat has cells of 8 pixels in patches of 16.
    """
    return max(side for side in range(1, 9) if model.patch_size % side == 0)


@dataclass(frozen=True)
class RatioSteps:
    """A mask ratio that changes from step to step: see `masks.video_ratio_steps`.

    Attributes:
        kind: uniform, linear or last.
        first: a ratio; for `last` the fraction of the steps.
        second: a ratio.
    """

    kind: str
    first: float
    second: float

    def ratios(self, constant: float) -> tuple[float, float]:
        """Returns the least and the greatest ratio of the training."""
        ends = (constant if self.kind == "last" else self.first, self.second)
        return min(ends), max(ends)

    def at(self, step: int, total: int, constant: float, uniform: float) -> float:
        """Returns the ratio of a step.

        Args:
            step: from 0.
            total: steps of the training.
            constant: ratio without a schedule.
            uniform: in [0, 1), drawn for this step.
        """
        if self.kind == "last":
            return self.second if step >= total - round(self.first * total) else constant
        way = uniform if self.kind == "uniform" else step / max(1, total - 1)
        return self.first + (self.second - self.first) * way


def ratio_steps(key: str, text: str) -> RatioSteps | None:
    """Parses `masks.video_ratio_steps` or `masks.text_ratio_steps`; None if it is empty.

    Raises:
        ConfigError: the text is not of that form, or has ratios outside [0, 1).
    """
    if not text:
        return None
    kind, *numbers = text.split(":")
    try:
        first, second = (float(number) for number in numbers)
    except ValueError:
        first = second = -1.0
    if kind not in ("uniform", "linear", "last") or not (0 <= first < 1 and 0 <= second < 1):
        raise ConfigError(
            f"{key}={text}: write uniform:A:B, linear:A:B or last:F:B with numbers in [0, 1), for "
            "example uniform:0.6:0.9."
        )
    return RatioSteps(kind, first, second)


def video_ratios(masks: MaskConfig) -> tuple[float, ...]:
    """Returns the constant video ratio; where it changes, also its least and its greatest."""
    steps = ratio_steps("masks.video_ratio_steps", masks.video_ratio_steps)
    return (masks.video_ratio, *(steps.ratios(masks.video_ratio) if steps else ()))


def text_ratios(masks: MaskConfig) -> tuple[float, ...]:
    """Returns the same of the text."""
    steps = ratio_steps("masks.text_ratio_steps", masks.text_ratio_steps)
    return (masks.text_ratio, *(steps.ratios(masks.text_ratio) if steps else ()))


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


def check_ratios(experiment: Experiment) -> None:
    """Checks that every ratio of the pre-training leaves what its objectives need.

    Raises:
        ConfigError: one does not, or ratios change where shapes may not.
    """
    masks = experiment.masks
    video, text = video_ratios(masks), text_ratios(masks)
    if len(video) + len(text) > 2 and experiment.runtime.compile:
        raise ConfigError(
            "a mask ratio by step gives each step another shape, for which runtime.compile=true "
            "would compile again: switch one of them off."
        )
    for ratio in video:
        _check_video_ratio(experiment, replace(masks, video_ratio=ratio))
    if "mlm" in experiment.losses.wanted and min(text) == 0:
        raise ConfigError(
            "losses.mlm needs masked words, but masks.text_ratio=0: raise the ratio or set "
            "losses.mlm=0."
        )


def _check_video_ratio(experiment: Experiment, masks: MaskConfig) -> None:
    model = experiment.model
    units, hidden = mask_units(model, masks), hidden_per_slot(model, masks)
    if hidden >= units:
        raise ConfigError(
            f"masks.video_ratio={masks.video_ratio} leaves no visible tube of {units}: lower it."
        )
    if "mvm" in experiment.losses.wanted and hidden == 0:
        raise ConfigError(
            f"losses.mvm={experiment.losses.weights['mvm']} needs masked tubes, but "
            f"masks.video_ratio={masks.video_ratio} hides none of {units}: raise the ratio or set "
            "losses.mvm=0."
        )


def check_target(experiment: Experiment) -> None:
    """Checks that the tubes have the values that MVM predicts.

    Raises:
        ConfigError: they do not.
    """
    losses, model = experiment.losses, experiment.model
    if not isinstance(losses, LossConfig) or "mvm" not in losses.wanted:
        return
    if losses.mvm_target == "difference" and model.tubelet_size < 2:
        raise ConfigError(
            "losses.mvm_target=difference is that of a tube's frames, but model.tubelet_size="
            f"{model.tubelet_size}: make it 2 or more."
        )
    values = (model.patch_size // hog_cell(model)) ** 2 * 3 * HOG_BINS
    if losses.mvm_target == "hog" and values > model.tube_values:
        raise ConfigError(
            f"losses.mvm_target=hog has {values} values a tube, more than the {model.tube_values} "
            f"of its pixels with model.patch_size={model.patch_size}: raise the patch size."
        )
