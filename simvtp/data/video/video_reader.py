"""The interface of a decoder back-end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from simvtp.data.video.container.frame_table import FrameTable


@dataclass(frozen=True)
class VideoInfo:
    """The size of a film: frames counted, not estimated; height and width of the upright picture.

    Attributes:
        fps: frames per second, on average; 0 = unknown.
    """

    frames: int
    fps: float
    height: int
    width: int


class Reader(Protocol):
    """A decoder back-end. Must be picklable.

    It may raise what it likes: `probe` and `read_frames` turn it into DataError.
    """

    name: str

    def probe(self, path: Path) -> VideoInfo:
        """Returns what the file holds."""

    def read(self, path: Path, indices: Sequence[int], size: tuple[int, int] | None) -> np.ndarray:
        """Returns uint8 [n, H, W, 3], RGB, the frames `indices` (any order, repeats allowed).

        They are resized to (height, width) if `size` is given.
        """


@runtime_checkable
class TimedReader(Protocol):
    """A reader that knows when each frame is shown, and decodes a film in one go."""

    def frame_table(self, path: Path) -> FrameTable:
        """Returns the table of a film."""

    def scan(self, path: Path, size: tuple[int, int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (position, uint8 [H, W, 3]) of all frames, decoded once from the beginning."""
