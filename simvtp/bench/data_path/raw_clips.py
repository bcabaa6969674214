"""A store of raw frames made of noise: clips that need no decoder."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np

from simvtp.data.clips import Clip
from simvtp.data.video.tar_member import member_path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  the clips shall come from memory, not from a disk
WORDS = [
    "a",
    "red",
    "star",
    "rises",
    "over",
    "the",
    "blue",
    "sea",
    "while",
    "two",
    "green",
    "birds",
    "turn",
    "left",
]


def raw_folder() -> Path:
    """Returns a folder in memory where there is one, else that of temporary files."""
    if SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK):
        return SHARED_MEMORY
    return Path(tempfile.gettempdir())


def write_raw_clips(file: Path, count: int, frames: int, side: int) -> list[Clip]:
    """Writes clips of uncompressed frames [frames, side, side, 3] in a row, and returns them.

    Args:
        file: its name must end in `.tar`, as those of shards do.
        count: clips; each has a brightness of its own, so that there is something to learn.
        frames: of a clip.
        side: height and width.
    """
    shape, clips = (frames, side, side), []
    size = frames * side * side * 3
    file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with open(file, "wb") as out:
        for number in range(count):
            base = 40 + number * 160 // count
            pixels = rng.integers(base, base + 40, (*shape, 3), np.uint8).tobytes()
            out.write(pixels)
            digest = hashlib.sha256(pixels).hexdigest()
            path = member_path(file.resolve(), number * size, size, digest, shape)
            caption = " ".join(WORDS[(number + n) % len(WORDS)] for n in range(4 + number % 8))
            measured = frames, 8.0, side, side
            clips.append(Clip(f"raw-{number}", path, (caption,), "train", measured=measured))
    return clips
