"""decord as a reader (the only import of decord), for the films that it reads rightly."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simvtp.data.video.container.frame_table import FrameTable
from simvtp.data.video.decord_compatible import FastReader
from simvtp.data.video.tar_member import file_of, member_bytes
from simvtp.data.video.video_reader import VideoInfo
from simvtp.errors import UserError

# decord 0.6 takes the padding of a line for a fourth colour where frames are 24, 48 or 72 pixels
# wide.
TOO_NARROW = "The size must exactly match"

log = logging.getLogger(__name__)


class DecordReader:
    """decord: unmaintained, but fast enough and well known.

    The default reader stands in where decord gives other frames than a film has: made-up time
    stamps, groups that lean on the one before, mirrored pictures, several video streams, MPEG-TS;
    and for the codecs and the few widths that it cannot read.
    """

    name = "decord"

    def __init__(self) -> None:
        self._other = FastReader()

    @staticmethod
    def _open(path: Path, size: tuple[int, int] | None) -> Any:
        """Returns decord's reader; None where its old FFmpeg cannot open the film."""
        try:
            import decord
        except ImportError as error:
            raise UserError(
                f"data.reader=decord, but decord does not import ({error}): "
                "install it or set data.reader=pyav."
            ) from error
        decord.logging.set_level(decord.logging.QUIET)
        if not file_of(path).is_file():
            raise FileNotFoundError("there is no such file")
        height, width = size or (-1, -1)
        source = member_bytes(path) or str(path)
        try:
            return decord.VideoReader(
                source, ctx=decord.cpu(0), width=width, height=height, num_threads=1
            )
        except Exception as error:  # decord's own class is not part of its interface
            log.info("decord cannot open %s; the default reader stands in: %s", path, error)
            return None

    def frame_table(self, path: Path) -> FrameTable:
        """Returns the table of a film; see `PyavReader`."""
        return self._other.frame_table(path)

    def scan(self, path: Path, size: tuple[int, int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields all frames in their order; see `PyavReader`."""
        return self._other.scan(path, size)

    def probe(self, path: Path) -> VideoInfo:
        """Returns what the film holds."""
        if not self.frame_table(path).is_plain:
            return self._other.probe(path)
        video = self._open(path, None)
        if video is None:
            return self._other.probe(path)
        try:
            height, width, _ = video[0].shape
            return VideoInfo(len(video), float(video.get_avg_fps()), height, width)
        finally:
            del video

    def read(self, path: Path, indices: Sequence[int], size: tuple[int, int] | None) -> np.ndarray:
        """Returns uint8 [n, H, W, 3]; see `Reader`."""
        if not self.frame_table(path).is_plain:
            return self._other.read(path, indices, size)
        video = self._open(path, size)
        if video is None:
            return self._other.read(path, indices, size)
        try:
            return video.get_batch(list(indices)).asnumpy()
        except Exception as error:  # decord's own class is not part of its interface
            if TOO_NARROW not in str(error):
                raise
        finally:
            del video
        return self._other.read(path, indices, size)
