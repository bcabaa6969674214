"""The operations of RandAugment, by Pillow, on the frames of a clip.

Which are done, and how strongly: `simvtp.data.loading.augment`. Pillow is imported with this module
alone, so that training without RandAugment does not need it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

STRONGEST = 10.0  # magnitudes go from 0 to here
GREY = (128, 128, 128)  # outside of a moved frame

# (frame, strength in [0, 1], -1 or 1) -> frame.
Operation = Callable[[Image.Image, float, float], Image.Image]


def _moved(frame: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return frame.transform(
        frame.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=GREY
    )


def _solarize_add(frame: Image.Image, strength: float, sign: float) -> Image.Image:
    """Raises dark values by up to 110."""
    add = int(strength * 110)
    return frame.point(
        [min(255, value + add) if value < 128 else value for value in range(256)] * 3
    )


OPERATIONS: dict[str, Operation] = {
    "autocontrast": lambda frame, strength, sign: ImageOps.autocontrast(frame),
    "equalize": lambda frame, strength, sign: ImageOps.equalize(frame),
    "invert": lambda frame, strength, sign: ImageOps.invert(frame),
    "rotate": lambda frame, strength, sign: frame.rotate(
        sign * strength * 30, Image.Resampling.BICUBIC, fillcolor=GREY
    ),
    "posterize": lambda frame, strength, sign: ImageOps.posterize(frame, 4 - int(strength * 4)),
    "solarize": lambda frame, strength, sign: ImageOps.solarize(frame, 256 - int(strength * 256)),
    "solarize_add": _solarize_add,
    "color": lambda frame, strength, sign: ImageEnhance.Color(frame).enhance(
        1 + sign * strength * 0.9
    ),
    "contrast": lambda frame, strength, sign: ImageEnhance.Contrast(frame).enhance(
        1 + sign * strength * 0.9
    ),
    "brightness": lambda frame, strength, sign: ImageEnhance.Brightness(frame).enhance(
        1 + sign * strength * 0.9
    ),
    "sharpness": lambda frame, strength, sign: ImageEnhance.Sharpness(frame).enhance(
        1 + sign * strength * 0.9
    ),
    "shear_x": lambda frame, strength, sign: _moved(frame, (1, sign * strength * 0.3, 0, 0, 1, 0)),
    "shear_y": lambda frame, strength, sign: _moved(frame, (1, 0, 0, sign * strength * 0.3, 1, 0)),
    "translate_x": lambda frame, strength, sign: _moved(
        frame, (1, 0, sign * strength * 0.45 * frame.width, 0, 1, 0)
    ),
    "translate_y": lambda frame, strength, sign: _moved(
        frame, (1, 0, 0, 0, 1, sign * strength * 0.45 * frame.height)
    ),
}


@dataclass(frozen=True)
class Chosen:
    """An operation that is done to a clip."""

    name: str  # of OPERATIONS
    magnitude: float  # 0 to STRONGEST
    sign: float  # -1 or 1, for those that have a direction


def apply(clip: np.ndarray, chosen: list[Chosen]) -> np.ndarray:
    """Applies all operations to each frame. Returns its argument if there are none."""
    if not chosen:
        return clip
    out = np.empty_like(clip)
    for number, frame in enumerate(clip):
        image = Image.fromarray(np.ascontiguousarray(frame))
        for operation in chosen:
            image = OPERATIONS[operation.name](
                image, operation.magnitude / STRONGEST, operation.sign
            )
        out[number] = np.asarray(image)
    return out
