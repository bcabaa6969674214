"""A finished cache of decoded frames: reads, checks and repairs them (see build_cache.py)."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from simvtp.data.video.decode_workers import SharedTexts
from simvtp.data.video.readers import read_frames
from simvtp.data.video.video_reader import Reader
from simvtp.errors import DataError

log = logging.getLogger(__name__)


class ClipState(IntEnum):
    """State of a clip in a cache."""

    UNKNOWN = 0
    DECODED = 1
    DIRECT = 2  # not all frames decode: it is read from its file each time
    DEAD = 3  # it ended its decoder: it must not be read at all


@dataclass
class DecodedCache:
    """A finished cache. Picklable; each process maps the file on first use.

    Attributes:
        path: the file of frames.
        paths: the video file of each clip.
        reader: decodes frames that are damaged in the cache.
        state: uint8 [clips], see `ClipState`.
        start: int64 [clips], number of the first frame's byte.
        shape: int64 [clips, 3]: frames, height, width.
        first: int64 [clips], number of the clip's first frame in `checksums`.
        checksums: uint32 [frames of all clips], CRC-32 of each frame.
        reasons: {clip: reason} of clips that ended their decoder.
    """

    path: Path
    paths: SharedTexts
    reader: Reader
    state: np.ndarray
    start: np.ndarray
    shape: np.ndarray
    first: np.ndarray
    checksums: np.ndarray
    reasons: dict[int, str]
    _map: Any = field(default=None, repr=False)
    _checked: Any = field(default=None, repr=False)  # bool, by frame, of this process

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None, "_checked": None}

    def holds(self, clip: int) -> bool:
        """Returns True if the clip can be read here.

        Raises:
            DataError: it must not be read at all.
        """
        if self.state[clip] == ClipState.DEAD:
            raise DataError(self.reasons[clip])
        return bool(self.state[clip] == ClipState.DECODED)

    def length(self, clip: int) -> int:
        """Returns the number of frames of a clip."""
        return int(self.shape[clip, 0])

    def read(self, clip: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns frames of a clip as a copy, uint8 [n, H, W, 3].

        Raises:
            DataError: they are damaged in the cache, and the clip's file does not decode any more.
        """
        if self._map is None:
            self._map = np.memmap(self.path, np.uint8, "r")
            self._checked = np.zeros(len(self.checksums), bool)
        frames, height, width = (int(n) for n in self.shape[clip])
        start, first = int(self.start[clip]), int(self.first[clip])
        pixels = self._map[start : start + frames * height * width * 3]
        pixels = pixels.reshape(frames, height, width, 3)
        checked = self._checked[first : first + frames]
        wanted = np.asarray(indices)
        found = np.asarray(pixels[wanted])
        for position, frame in enumerate(wanted.tolist()):
            if checked[frame]:
                continue
            if zlib.crc32(found[position]) != self.checksums[first + frame]:
                repaired = self._decode_again(clip)
                checked[:] = True
                return repaired[wanted]
            checked[frame] = True
        return found

    def _decode_again(self, clip: int) -> np.ndarray:
        """Decodes a damaged clip, writes it into the cache if that is possible, and returns it."""
        video = Path(self.paths[clip])
        frames, height, width = (int(n) for n in self.shape[clip])
        log.warning("%s: the frames of %s are damaged: decoding them again", self.path, video)
        decoded = read_frames(video, range(frames), self.reader, (height, width))
        try:
            write_frames(self.path, int(self.start[clip]), decoded)
        except OSError as error:
            log.warning("%s cannot be repaired: %s", self.path, error)
        return decoded


def write_frames(path: Path, start: int, frames: np.ndarray) -> None:
    target = np.memmap(path, np.uint8, "r+")
    target[start : start + frames.size] = frames.reshape(-1)
