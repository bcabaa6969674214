"""Crops, resizes and flips of uint8 clips [T, H, W, 3]; one box for all frames of a clip.

Each random choice is a pure function of uniform numbers that the caller draws (see
`simvtp.data.loading.sample_order.sample_draws`), so a sample looks the same in any process.
RandAugment and random erasing: `simvtp.data.loading.augment`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn.functional import interpolate

from simvtp.errors import ConfigError

SCALES = (1.0, 0.875, 0.75, 0.66)  # method notes 1.1
ATTEMPTS = 10  # of random_resized, before it falls back to the centre
SMALLEST_AREA = 0.08  # of random_resized, published for fine-tuning
CROP_UNIFORMS = 3 + ATTEMPTS * 2  # uniform numbers that `train_box` may use
ENLARGE_FOR_CROPS = 8 / 7  # frames are read at 256 px for crops that end at 224

Box = tuple[int, int, int, int]  # top, left, height, width


def read_side(image_size: int, crop: str) -> int:
    """Returns the short side at which frames are decoded (never enlarged).

    It is image_size where the whole frame is kept, 8/7 of it for random crops.
    """
    return image_size if crop == "center" else round(image_size * ENLARGE_FOR_CROPS)


def resize(clip: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes uint8 frames, bilinear with antialiasing: [T, H, W, 3] -> [T, height, width, 3].

    Returns its argument where nothing changes.
    """
    if clip.shape[1:3] == (height, width):
        return clip
    frames = torch.from_numpy(np.ascontiguousarray(clip)).permute(0, 3, 1, 2)
    return (
        interpolate(frames, (height, width), mode="bilinear", antialias=True)
        .permute(0, 2, 3, 1)
        .numpy()
    )


def crop_and_resize(clip: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Returns the box, resized to size x size."""
    top, left, height, width = box
    return resize(clip[:, top : top + height, left : left + width], size, size)


def center_box(height: int, width: int) -> Box:
    """Returns the largest square in the middle."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def eval_box(height: int, width: int, crop: int, crops: int) -> Box:
    """Returns square number `crop` of `crops` along the longer side, from one end to the other.

    A single one lies in the middle.
    """
    if crops == 1:
        return center_box(height, width)
    side = min(height, width)
    offset = round(crop * (max(height, width) - side) / (crops - 1))
    return (offset, 0, side, side) if height > width else (0, offset, side, side)


def multiscale_box(height: int, width: int, uniform: np.ndarray) -> Box:
    """Returns a box of the multi-scale crop (method notes 1.1).

    Height and width are scales of the short side, at most one step of `SCALES` apart, at one of 13
    fixed positions (a 5 x 5 grid without its odd points), all choices equally likely.

    Args:
        uniform: numbers 0 and 1 are used.
    """
    base = min(height, width)
    pairs = [(a, b) for i, a in enumerate(SCALES) for j, b in enumerate(SCALES) if abs(i - j) <= 1]
    scale_h, scale_w = pairs[int(uniform[0] * len(pairs))]
    h, w = round(base * scale_h), round(base * scale_w)
    corners = [(y, x) for y in range(5) for x in range(5) if (y + x) % 2 == 0]
    y, x = corners[int(uniform[1] * len(corners))]
    return y * (height - h) // 4, x * (width - w) // 4, h, w


def random_resized_box(
    height: int, width: int, uniform: np.ndarray, smallest: float = SMALLEST_AREA
) -> Box:
    """Returns a box of area `smallest` to 1 of the frame, aspect 3/4 to 4/3 (method notes 1.8).

    Args:
        uniform: the first 2 + 2 * ATTEMPTS numbers are used.
        smallest: above 0, at most 1.
    """
    for attempt in range(ATTEMPTS):
        u_area, u_aspect = uniform[2 + 2 * attempt : 4 + 2 * attempt]
        area = (smallest + (1 - smallest) * u_area) * height * width
        aspect = math.exp(math.log(3 / 4) + u_aspect * math.log(16 / 9))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(uniform[0] * (height - h + 1)), int(uniform[1] * (width - w + 1)), h, w
    return center_box(height, width)


def train_box(
    kind: str, height: int, width: int, uniform: np.ndarray, smallest: float = SMALLEST_AREA
) -> Box:
    """Returns the box of `data.train_crop`.

    Args:
        uniform: CROP_UNIFORMS numbers in [0, 1).
        smallest: of random_resized, see there.

    Raises:
        ConfigError: there is no such crop.
    """
    if kind == "center":
        return center_box(height, width)
    if kind == "multiscale":
        return multiscale_box(height, width, uniform)
    if kind == "random_resized":
        return random_resized_box(height, width, uniform, smallest)
    raise ConfigError(f"train_crop={kind}: choose from multiscale, center, random_resized.")


def flip(clip: np.ndarray) -> np.ndarray:
    """Returns the clip with left and right swapped (a view)."""
    return clip[:, :, ::-1]
