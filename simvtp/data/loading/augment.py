"""RandAugment and random erasing of uint8 clips [T, H, W, 3].

All frames of a clip get the same operations with the same settings. Of the released fine-tuning
(method notes 1.8) only `m7-n4-mstd0.5-inc1` and an erasing of 0.25 are known. What these names mean
is taken from the library that reads them, timm: the fifteen operations that grow with the
magnitude, drawn with replacement, each done with probability 0.5, bicubic, grey outside of the
frame, before the crop; after it, a box of normal noise. Ours: the noise is the same in all frames,
and clipped at black and white.

All random numbers come from separate streams (`simvtp.data.loading.sample_order.uniforms` with a
purpose), so that crop, flip, window and caption of a sample are the same with and without
augmentation, in any process. Operations that look at a picture (autocontrast, equalize, contrast)
look at each frame separately.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from simvtp.data.loading.frame_operations import Chosen

PROBABILITY = 0.5  # that a drawn operation is done
PER_OPERATION = 5  # uniform numbers: which, whether, two for the magnitude, sign

ERASED_AREA = (0.02, 1 / 3)  # fractions of the frame
ERASED_ASPECT = (0.3, 1 / 0.3)  # height / width
ATTEMPTS = 10  # to find a box that fits, before nothing is erased
BOX_UNIFORMS = 3 + 2 * ATTEMPTS
# Red, green, blue: the encoder subtracts and divides by these (ImageNet), so that the noise is
# standard normal for it.
NOISE_MEAN = np.array((123.675, 116.28, 103.53))
NOISE_STD = np.array((58.395, 57.12, 57.375))

# (how many, purpose) -> float64 in [0, 1), the same at each call.
DrawUniforms = Callable[[int, str], np.ndarray]


@dataclass(frozen=True)
class Augment:
    """Settings of RandAugment and random erasing; the default does nothing.

    Attributes:
        operations: operations of RandAugment that are drawn for a clip (each is then done with
            probability 0.5).
        magnitude: mean of their strength, which is clipped to 0 and 10.
        spread: standard deviation of their strength.
        erasing: probability that a box is filled with noise.
    """

    operations: int = 0
    magnitude: float = 7.0
    spread: float = 0.5
    erasing: float = 0.0

    def before_crop(self, clip: np.ndarray, draw: DrawUniforms) -> np.ndarray:
        """Applies RandAugment to whole frames. Returns its argument if nothing is done."""
        if not self.operations:
            return clip
        from simvtp.data.loading.frame_operations import apply  # it needs Pillow, as few runs do

        return apply(clip, self.choose(draw(self.operations * PER_OPERATION, "rand_augment")))

    def after_crop(self, clip: np.ndarray, draw: DrawUniforms) -> np.ndarray:
        """Applies random erasing. Returns its argument if nothing is erased, else a copy."""
        if not self.erasing:
            return clip
        box = erased_box(
            clip.shape[1], clip.shape[2], self.erasing, draw(BOX_UNIFORMS, "random_erasing")
        )
        if box is None:
            return clip
        top, left, height, width = box
        noise = _normal(draw(2 * height * width * 3, "noise").reshape(2, height, width, 3))
        clip = clip.copy()
        clip[:, top : top + height, left : left + width] = np.clip(
            np.rint(NOISE_MEAN + NOISE_STD * noise), 0, 255
        ).astype(np.uint8)
        return clip

    def choose(self, uniform: np.ndarray) -> list[Chosen]:
        """Returns the operations for a clip, in order.

        Args:
            uniform: PER_OPERATION numbers for each operation.
        """
        from simvtp.data.loading.frame_operations import OPERATIONS, STRONGEST, Chosen

        names = list(OPERATIONS)
        chosen = []
        for numbers in uniform.reshape(self.operations, PER_OPERATION):
            magnitude = min(
                STRONGEST, max(0.0, self.magnitude + self.spread * float(_normal(numbers[2:4])))
            )
            if numbers[1] < PROBABILITY:
                name = names[int(numbers[0] * len(names))]
                chosen.append(Chosen(name, magnitude, 1.0 if numbers[4] < 0.5 else -1.0))
        return chosen


def erased_box(
    height: int, width: int, probability: float, uniform: np.ndarray
) -> tuple[int, int, int, int] | None:
    """Returns top, left, height and width of the erased box; None for nothing.

    Args:
        uniform: BOX_UNIFORMS numbers.
    """
    if uniform[0] >= probability:
        return None
    for u_area, u_aspect in uniform[3:].reshape(ATTEMPTS, 2):
        area = (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * u_area) * height * width
        aspect = math.exp(
            math.log(ERASED_ASPECT[0]) + u_aspect * math.log(ERASED_ASPECT[1] / ERASED_ASPECT[0])
        )
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < h < height and 0 < w < width:
            return int(uniform[1] * (height - h + 1)), int(uniform[2] * (width - w + 1)), h, w
    return None


def _normal(uniform: np.ndarray) -> np.ndarray:
    """Returns standard normal numbers [...] from uniform ones [2, ...] (Box and Muller)."""
    return np.sqrt(-2 * np.log(1 - uniform[0])) * np.cos(2 * np.pi * uniform[1])
