"""Sampling of frame indices from a clip.

All are pure functions of numbers; a frame index is always inside [0, n_frames).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Window = Literal["tight", "whole", "spread", "parts"]

# A stride: of every clip its middle frame, again and again; an image is a clip of one frame.
STILL = 0


def window_length(frames: int, stride: int) -> int:
    """Returns the number of frames from the first to the last sampled one, both included."""
    return (frames - 1) * stride + 1


def train_indices(
    n_frames: int, frames: int, stride: int, uniform: float, window: Window = "tight"
) -> np.ndarray:
    """Returns a random window: int64 [frames], `stride` apart.

    The window has `window_length` frames, or with `whole` and `spread` (released) frames * stride.
    With `spread` the frames lie evenly over the window, as in VideoMAE's fine-tuning: 0, 4, 8, 12,
    17 ... 63 of 64.

    A clip that is shorter than the window is stretched instead: the frames are spread evenly from
    its first to its last frame, and repeat where it has too few (ours). Published: 16 frames,
    stride 4 (method notes 1.1).

    Args:
        uniform: in [0, 1), chooses the start evenly among all that fit.
        window: length of the window, and placement of the frames in it.
    """
    if stride == STILL:
        return _middle(n_frames, frames)
    length = window_length(frames, stride) if window == "tight" else frames * stride
    room = n_frames - length
    if room < 0:
        return _stretched(n_frames, frames)
    start = min(int(uniform * (room + 1)), room)
    if window == "spread":
        places = np.linspace(0, length, frames)
        return start + np.minimum(places, length - 1).astype(np.int64)
    return start + stride * np.arange(frames)


def eval_indices(
    n_frames: int, frames: int, stride: int, segment: int, segments: int
) -> np.ndarray:
    """Returns window number `segment` of `segments`: int64 [frames].

    One window lies in the middle; several start evenly from the first possible start to the last.
    Short clips are stretched, as in training, so that all their windows are the same.
    """
    if stride == STILL:
        return _middle(n_frames, frames)
    room = n_frames - window_length(frames, stride)
    if room < 0:
        return _stretched(n_frames, frames)
    start = room // 2 if segments == 1 else round(segment * room / (segments - 1))
    return start + stride * np.arange(frames)


def part_indices(n_frames: int, uniforms: np.ndarray) -> np.ndarray:
    """Returns a frame of each of T equal parts of a clip, int64 [T] (Frozen-in-Time's sampling).

    The last frame of a part is never taken unless it is its only one, as in the published code. A
    clip of fewer than T frames repeats some (ours; published: the rest of the frames is grey).

    Args:
        uniforms: [T] in [0, 1), chooses the frame of each part.
    """
    first, length = _parts(n_frames, len(uniforms))
    chosen = first + (uniforms * np.maximum(1, length - 1)).astype(np.int64)
    return np.minimum(chosen, n_frames - 1)


def middle_indices(n_frames: int, frames: int, segment: int, segments: int) -> np.ndarray:
    """Returns the middle frame of each of `frames` equal parts of a clip, int64 [frames].

    With several segments, number `segment` of as many evenly spread places in each part.
    """
    first, length = _parts(n_frames, frames)
    chosen = first + (2 * segment + 1) * np.maximum(0, length - 1) // (2 * segments)
    return np.minimum(chosen, n_frames - 1)


def _parts(n_frames: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns first frame and length of `count` equal parts, int64 [count] each."""
    if n_frames < 1:
        raise ValueError("a clip without frames cannot be sampled")
    borders = np.linspace(0, n_frames, count + 1).astype(np.int64)
    return borders[:-1], np.diff(borders)


def _stretched(n_frames: int, frames: int) -> np.ndarray:
    if n_frames < 1:
        raise ValueError("a clip without frames cannot be sampled")
    return np.rint(np.linspace(0, n_frames - 1, frames)).astype(np.int64)


def _middle(n_frames: int, frames: int) -> np.ndarray:
    if n_frames < 1:
        raise ValueError("a clip without frames cannot be sampled")
    return np.full(frames, (n_frames - 1) // 2, dtype=np.int64)
