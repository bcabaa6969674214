"""Redundancy of clips over space and time: how well visible patches tell hidden ones (ours).

Two figures, of frames uint8 [F, S, S, 3] cut into patches of P x P pixels:

* correlation of a patch with the same patch of another frame, each normalised to mean 0 and
  deviation 1 in each colour channel, as the target of MVM is;
* in-painting: hidden positions (the same in all frames, as tube masking hides them) are filled by
  the harmonic function of the visible pixels; squared error over the variance of the clip's pixels.

Real captioned clips at 64 px, two seconds, 8 frames a second, have about 0.49 from the first to the
last frame, and 0.38, 0.60 and 0.87 at mask ratios 0.5, 0.75 and 0.9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATIOS = (0.5, 0.75, 0.9)
REAL_CORRELATION = 0.49  # of real clips, as in the module's docstring
REAL_INPAINTING = (0.38, 0.60, 0.87)
FLAT = (
    0.5  # deviation in grey levels below which a patch counts as flat: its normalised values are 0
)
SWEEPS = 200  # of the relaxation; more change no figure's second digit on frames of 64 px

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Redundancy:
    """Means over clips.

    Attributes:
        first_last: correlation of normalised patches of the first and the last frame.
        adjacent: of the first and the second frame.
        inpainting: error over variance at each of `RATIOS`.
    """

    first_last: float
    adjacent: float
    inpainting: tuple[float, ...]


def measure_redundancy(clips: Sequence[Frames], patch: int, seed: int = 0) -> Redundancy:
    """Returns the redundancy of clips [F, S, S, 3]; S is a multiple of `patch`."""
    rng = np.random.default_rng(seed)
    last = [patch_correlation(clip[0], clip[-1], patch) for clip in clips]
    adjacent = [patch_correlation(clip[0], clip[1], patch) for clip in clips]
    errors = [
        float(np.mean([inpainting_error(clip[::4], patch, ratio, rng) for clip in clips]))
        for ratio in RATIOS
    ]
    return Redundancy(float(np.mean(last)), float(np.mean(adjacent)), tuple(errors))


def patch_correlation(first: Frames, second: Frames, patch: int) -> float:
    """Returns the mean correlation of the patches of two frames [S, S, 3]; flat ones count as 0."""
    return float((_normalised(first, patch) * _normalised(second, patch)).mean())


def _normalised(frame: Frames, patch: int) -> NDArray[np.float64]:
    """Returns [S²/P², P², 3] with mean 0 and deviation 1 in each patch and channel."""
    count = frame.shape[0] // patch
    cut = frame.reshape(count, patch, count, patch, 3).transpose(0, 2, 1, 3, 4)
    values = cut.reshape(count * count, patch * patch, 3).astype(np.float64)
    values -= values.mean(axis=1, keepdims=True)
    deviation = values.std(axis=1, keepdims=True)
    return np.asarray(np.where(deviation > FLAT, values / np.maximum(deviation, FLAT), 0.0))


def inpainting_error(clip: Frames, patch: int, ratio: float, rng: np.random.Generator) -> float:
    """Returns the squared error of harmonic in-painting over the variance of the clip's pixels.

    Args:
        clip: [F, S, S, 3].
        patch: side of a hidden square, in pixels.
        ratio: of the positions, that are hidden, in (0, 1); at least one stays visible.
        rng: draws the positions.
    """
    side = clip.shape[1] // patch
    hidden = np.zeros(side * side, dtype=bool)
    count = min(side * side - 1, max(1, round(ratio * side * side)))
    hidden[rng.permutation(side * side)[:count]] = True
    mask = np.kron(hidden.reshape(side, side), np.ones((patch, patch), dtype=bool))
    pixels = clip.astype(np.float64)
    filled: NDArray[Any] = pixels.copy()
    filled[:, mask] = pixels[:, ~mask].mean(axis=(0, 1))
    for _ in range(SWEEPS):
        around = np.pad(filled, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
        mean = (
            around[:, :-2, 1:-1] + around[:, 2:, 1:-1] + around[:, 1:-1, :-2] + around[:, 1:-1, 2:]
        )
        filled[:, mask] = mean[:, mask] / 4
    variance = np.square((pixels - pixels.mean(axis=(0, 1, 2)))[:, mask]).mean()
    return float(np.square((filled - pixels)[:, mask]).mean() / variance) if variance else 0.0
