"""The orientation of a decoded frame: which way a display matrix says that it is to be shown."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

SKEW = 0.02  # of the picture's axes: less is taken for rounding


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to lay a picture down: transposed first, then flipped."""

    transposed: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @property
    def mirrored(self) -> bool:
        """Returns whether no rotation leads here."""
        return self.transposed ^ self.flip_rows ^ self.flip_columns

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the (height, width) of the upright picture; its own inverse."""
        return (width, height) if self.transposed else (height, width)

    def upright(self, pixels: np.ndarray) -> np.ndarray:
        """Returns [H, W, 3] as it is meant to be seen; a view."""
        if self.transposed:
            pixels = pixels.transpose(1, 0, 2)
        if self.flip_rows:
            pixels = pixels[::-1]
        return pixels[:, ::-1] if self.flip_columns else pixels

    def filters(self) -> list[tuple[str, str]]:
        """Returns FFmpeg's filters that do it, with their arguments."""
        if self.transposed:
            direction = 2 * self.flip_rows + self.flip_columns
            return [("transpose", str(direction))]
        flips = (("vflip", self.flip_rows), ("hflip", self.flip_columns))
        return [(name, "") for name, wanted in flips if wanted]


UPRIGHT = Orientation()


def orientation_of(frame: Any) -> Orientation:
    """Returns the orientation of PyAV's frame; upright where it has no display matrix.

    Raises:
        ValueError: the matrix turns the picture by an angle that is no multiple of 90 degrees.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d = struct.unpack_from("=5i", bytes(matrix))
    straight, turned = min(abs(a), abs(d)), min(abs(b), abs(c))
    if max(abs(b), abs(c)) <= SKEW * straight:
        return Orientation(False, d < 0, a < 0)
    if max(abs(a), abs(d)) <= SKEW * turned:
        return Orientation(True, b < 0, c < 0)
    if not straight and not turned:
        return UPRIGHT
    raise ValueError("its display matrix turns the picture by no multiple of 90 degrees")
