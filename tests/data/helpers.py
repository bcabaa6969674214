"""Small real videos, and readers that misbehave on purpose.

Readers live here so that worker processes can import them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from simvtp.data.clips import Clip
from simvtp.data.prepare.encode import encode_h264
from simvtp.data.video.pyav_reader import PyavReader
from simvtp.data.video.video_reader import VideoInfo


def moving_square(number: int, frames: int = 16, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 [T, H, W, 3]: a square on a gradient.

    `number` sets its colour and path, so that clips differ.
    """
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[0:height, 0:width]
    ground = np.stack([rows * 2, columns * 2, np.full_like(rows, number * 7 % 200)], -1).astype(
        np.uint8
    )
    clip = np.repeat(ground[None], frames, 0)
    colour, y = rng.integers(0, 256, 3), rng.integers(0, height - 12)
    for t in range(frames):
        x = (t + number) % (width - 12)
        clip[t, y : y + 12, x : x + 12] = colour
    return clip


def make_clips(
    folder: Path, count: int, frames: int = 16, height: int = 48, width: int = 64, captions: int = 1
) -> list[Clip]:
    """Real H.264 files with their captions."""
    clips = []
    for i in range(count):
        path = folder / f"clip{i}.mp4"
        encode_h264(moving_square(i, frames, height, width), path, 8)
        clips.append(
            Clip(
                f"clip{i}",
                path,
                tuple(f"square number {i} wording {j}" for j in range(captions)),
                "train",
            )
        )
    return clips


def damage(path: Path) -> None:
    """Keep half of the bytes, as an interrupted download does."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class TrickReader:
    """PyAV, except for files whose name holds a word.

    `hang` sleeps for ever, `crash` ends the process.
    """

    name = "trick"

    def probe(self, path: Path) -> VideoInfo:
        return PyavReader().probe(path)

    def read(self, path: Path, indices: Sequence[int], size: tuple[int, int] | None) -> np.ndarray:
        while "hang" in path.name:
            time.sleep(3600)
        if "crash" in path.name:
            os._exit(3)
        return PyavReader().read(path, indices, size)
