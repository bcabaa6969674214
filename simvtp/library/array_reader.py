"""Clips that lie in memory, read as films are: the same choice of frames, crops and views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from simvtp.data.video.transforms import resize
from simvtp.data.video.video_reader import VideoInfo


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
