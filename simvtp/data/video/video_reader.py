"""What a decoder back-end gives: the interface that `video` chooses an implementation of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class VideoInfo:
    """What a container says of its first video stream, with the number of frames counted, not
    estimated.
    """

    frames: int
    fps: float
    height: int
    width: int


class Reader(Protocol):
    """A decoder back-end. It may raise what it likes: `probe` and `read_frames` turn it into
    DataError. Must be picklable.
    """

    name: str

    def probe(self, path: Path) -> VideoInfo:
        """What the file holds."""

    def read(self, path: Path, indices: Sequence[int], size: tuple[int, int] | None) -> np.ndarray:
        """uint8 [n, H, W, 3], RGB, the frames `indices` (any order, repeats allowed), resized to
        (height, width) if `size` is given.
        """
