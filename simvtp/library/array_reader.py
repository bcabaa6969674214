"""Clips that lie in memory, read as films are: the same choice of frames, crops and views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from simvtp.data.video.transforms import resize
from simvtp.data.video.video_reader import VideoInfo
from simvtp.errors import DataError


class ArrayReader:
    """A reader of arrays.

    Args:
        arrays: uint8 [T, H, W, 3] by the path that stands for them.
    """

    name = "array"

    def __init__(self, arrays: Mapping[Path, np.ndarray]) -> None:
        self._arrays = arrays

    def probe(self, path: Path) -> VideoInfo:
        frames, height, width, _ = self._arrays[path].shape
        return VideoInfo(frames, 0.0, height, width)

    def read(self, path: Path, indices: Sequence[int], size: tuple[int, int] | None) -> np.ndarray:
        frames = self._arrays[path][list(indices)]
        return frames if size is None else resize(frames, *size)


def as_clip(video: object, number: int) -> np.ndarray:
    """Returns a clip as uint8 [T, H, W, 3].

    Raises:
        DataError: it is something else; with the number of the clip.
    """
    array = video.detach().cpu().numpy() if isinstance(video, Tensor) else np.asarray(video)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or not array.size:
        raise DataError(
            f"video number {number}: an array must be uint8 [T, H, W, 3] (RGB, 0 to 255), and this "
            f"is {array.dtype} {list(array.shape)}."
        )
    return array
