"""Masked tubes, to which predictions of them are compared, and trivial answers in their place.

Of each target of MVM there is an answer that needs nothing learnt of the clip. A model has learnt
something as far as its loss is below that of this answer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simvtp.config.model_config import ModelConfig
from simvtp.config.train_config import FeatureTarget
from simvtp.evaluation.reconstruction import STD_EPSILON, tube_statistics
from simvtp.models.common.embeddings import cut_tubes
from simvtp.models.simvtp.video_targets import feature_target

Columns = dict[str, Tensor]  # metric -> float64 [clips]


class HiddenPixels:
    """Pixels of the masked tubes.

    Args:
        pixels: uint8 [b, M, P].
        colour: mean colour of the visible tubes [b, 3] in [0, 1], where MVM was trained on raw
            pixels; None where it was trained on normalised ones.
    """

    def __init__(self, pixels: Tensor, colour: Tensor | None) -> None:
        self._truth = pixels.float().div_(255)
        self._colour = colour
        values = self._truth.unflatten(-1, (-1, 3))
        self._mean, self._deviation = tube_statistics(self._truth)  # [b, M, 1, 3]
        self._deviation = self._deviation + STD_EPSILON
        self._target = self._truth
        if colour is None:
            self._target = ((values - self._mean) / self._deviation).flatten(-2)

    def error(self, prediction: Tensor) -> Tensor:
        """Returns the loss of MVM of each sample [b], of a prediction [b, M, P]."""
        return _mean_square(prediction, self._target)

    def columns(self, prediction: Tensor) -> Columns:
        """Returns loss and PSNR of a prediction, of flat tubes and, raw, of the mean colour."""
        flat = self._mean.expand_as(self._truth.unflatten(-1, (-1, 3))).flatten(-2)
        normalised, picture = self._colour is None, prediction.float()
        if normalised:
            values = picture.unflatten(-1, (-1, 3))
            picture = (values * self._deviation + self._mean).flatten(-2)
        found = {
            "mvm_loss_own": self.error(prediction),
            "mvm_loss_flat": self.error(torch.zeros_like(flat) if normalised else flat),
            "psnr_model": _decibel(picture, self._truth),
            "psnr_flat": _decibel(flat, self._truth),
        }
        return found if self._colour is None else found | self._mean_colour(self._colour)

    def _mean_colour(self, colour: Tensor) -> Columns:
        """Returns loss and PSNR of tubes of one colour [b, 3] of each sample.

        The colour is the mean of what is visible: the best that needs no place and nothing hidden.
        """
        shape = self._truth.unflatten(-1, (-1, 3)).shape
        picture = colour[:, None, None, :].expand(shape).flatten(-2)
        return {
            "mvm_loss_mean_colour": self.error(picture),
            "psnr_mean_colour": _decibel(picture, self._truth),
        }


class HiddenFeatures:
    """Features of the masked tubes, where MVM predicts these (see `video_targets`).

    Args:
        target: float32 [b, M, Q].
        constant: float32 [Q], the answer that is the same for every tube of every clip.
    """

    def __init__(self, target: Tensor, constant: Tensor) -> None:
        self._target, self._constant = target, constant

    def error(self, prediction: Tensor) -> Tensor:
        """Returns the loss of MVM of each sample [b], of a prediction [b, M, P]."""
        return _mean_square(prediction[..., : self._target.shape[-1]], self._target)

    def columns(self, prediction: Tensor) -> Columns:
        """Returns the loss of a prediction, of flat and still tubes (0) and of the constant."""
        return {
            "mvm_loss_own": self.error(prediction),
            "mvm_loss_flat": self.error(torch.zeros_like(self._target)),
            "mvm_loss_constant": self.error(self._constant.expand_as(self._target)),
        }


def constant_feature(
    clips: Tensor, target: FeatureTarget, config: ModelConfig, batch_size: int
) -> Tensor:
    """Returns the mean target [Q] of all tubes of clips uint8 [n, T, H, W, 3].

    Of all constants it has the least error on these tubes.
    """
    every = torch.arange(config.tubes)
    parts = [
        feature_target(target, cut_tubes(part, config), every.expand(len(part), -1), config).sum(
            dim=(0, 1), dtype=torch.float64
        )
        for part in clips.split(batch_size)
    ]
    return (torch.stack(parts).sum(dim=0) / (len(clips) * config.tubes)).float()


def _mean_square(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction.float() - target).square().mean(dim=(1, 2), dtype=torch.float64)


def _decibel(picture: Tensor, truth: Tensor) -> Tensor:
    """Returns the peak signal-to-noise ratio [b] of pictures [b, M, P]."""
    error = (picture.clamp(0, 1) - truth).square().mean(dim=(1, 2), dtype=torch.float64)
    return -10 * error.clamp(min=1e-10).log10()
