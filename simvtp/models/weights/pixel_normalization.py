"""Pixel normalisation of foreign checkpoints: one rule for all importers.

Our embeddings see pixels normalised with the ImageNet mean and standard deviation. A checkpoint
that was trained with other values says so in its preprocessing config; the difference is folded
into the weight and the bias of the embedding, so that the imported model sees what it was trained
on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from simvtp.errors import CheckpointError
from simvtp.models.common.embeddings import IMAGENET_MEAN, IMAGENET_STD
from simvtp.models.weights.conversion import ConversionReport

PREPROCESSOR = "preprocessor_config"  # key under which its content is kept in the settings


@dataclass(frozen=True)
class PixelNormalization:
    """Mean and standard deviation of the channels, for pixels in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = PixelNormalization(IMAGENET_MEAN, IMAGENET_STD)


def normalization_of(settings: Mapping[str, Any], where: str) -> PixelNormalization | None:
    """Returns the normalisation that a checkpoint's configs name; None if they name none.

    timm has `pretrained_cfg` with `mean` and `std` in config.json; transformers has `image_mean`,
    `image_std` and `do_normalize` in preprocessor_config.json.

    Raises:
        CheckpointError: a value is not three numbers, or a deviation is not above 0.
    """
    timm, transformers = settings.get("pretrained_cfg"), settings.get(PREPROCESSOR)
    if isinstance(transformers, Mapping):
        if transformers.get("do_normalize") is False:
            return PixelNormalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        found = transformers.get("image_mean"), transformers.get("image_std")
    elif isinstance(timm, Mapping):
        found = timm.get("mean"), timm.get("std")
    else:
        return None
    if found == (None, None):
        return None
    mean, std = (_three(value, where) for value in found)
    if min(std) <= 0:
        raise CheckpointError(f"{where}: the pixel deviation {std} in its config must be above 0.")
    return PixelNormalization(mean, std)


def _three(value: Any, where: str) -> tuple[float, float, float]:
    numbers = [value] * 3 if isinstance(value, int | float) else value
    if not isinstance(numbers, list | tuple) or len(numbers) != 3:
        raise CheckpointError(f"{where}: {value!r} in its preprocessing config is not 3 numbers.")
    try:
        first, second, third = (float(number) for number in numbers)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where}: {value!r} in its preprocessing config is not 3 numbers."
        ) from error
    return first, second, third


def with_our_normalization(
    report: ConversionReport, embedding: str, settings: Mapping[str, Any], where: str
) -> ConversionReport:
    """Returns the report with an embedding for pixels normalised as ours are.

    With x the pixels as ours are: theirs(x) = (x * our std + our mean - their mean) / their std.

    Args:
        embedding: name of the linear layer over tubes or patches, with inputs in (..., c) order.
        settings: config.json of the checkpoint, with its preprocessor_config.json.
    """
    weight, bias = f"{embedding}.weight", f"{embedding}.bias"
    if weight not in report.values:
        return report
    theirs = normalization_of(settings, where)
    if theirs is None:
        note = "no preprocessing config: the ImageNet mean and deviation of pixels are assumed"
        return replace(report, notes=(*report.notes, note))
    if theirs == IMAGENET:
        return report
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (theirs.mean, theirs.std))
    our_mean, our_std = (
        torch.tensor(v, dtype=torch.float64) for v in (IMAGENET_MEAN, IMAGENET_STD)
    )
    values = dict(report.values)
    values[weight], values[bias] = _fold(
        values[weight], values[bias], our_std / std, (our_mean - mean) / std
    )
    note = f"{weight}: pixels with mean {theirs.mean} and deviation {theirs.std}, folded in"
    return replace(report, values=values, notes=(*report.notes, note))


def _fold(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Folds x * scale + shift (by channel) into a layer with weight [D, P], in float64."""
    exact = weight.to(torch.float64).unflatten(1, (-1, 3))
    shifted = bias.to(torch.float64) + exact.sum(dim=1) @ shift
    return (exact * scale).flatten(1).to(weight.dtype), shifted.to(bias.dtype)
