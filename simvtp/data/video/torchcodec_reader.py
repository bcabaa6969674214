"""torchcodec as a reader, for those who have it (the only import of torchcodec).

It is not among the requirements: its wheels fit one version of torch each, and it needs the shared
libraries of FFmpeg on the machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from simvtp.data.video.container.frame_table import FrameTable
from simvtp.data.video.decord_compatible import FastReader
from simvtp.data.video.tar_member import file_of, member_bytes
from simvtp.data.video.transforms import resize
from simvtp.data.video.video_reader import VideoInfo
from simvtp.errors import UserError


class TorchcodecReader:
    """torchcodec on the CPU, exact seeking, one thread.

    Frames are resized after decoding, with antialiasing: other pixels than decord's where they are
    made smaller, so the fingerprint distinguishes the two. The default reader stands in where time
    stamps do not give the order of frames (see `DecordReader`).
    """

    name = "torchcodec"

    def __init__(self) -> None:
        self._other = FastReader()

    def frame_table(self, path: Path) -> FrameTable:
        """Returns the table of a film; see `PyavReader`."""
        return self._other.frame_table(path)

    @staticmethod
    def _open(path: Path) -> Any:
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, OSError, RuntimeError) as error:
            raise _missing(error) from None
        if not file_of(path).is_file():
            raise FileNotFoundError("there is no such file")
        content = member_bytes(path)
        source = content.getvalue() if content else str(path)
        try:
            return VideoDecoder(
                source, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
            )
        except RuntimeError as error:
            # Its libraries, which it loads now, do not find FFmpeg's: the file is not to blame.
            if "libtorchcodec" in str(error):
                raise _missing(error) from None
            raise

    def scan(self, path: Path, size: tuple[int, int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields all frames in their order; see `PyavReader`."""
        return self._other.scan(path, size)

    def probe(self, path: Path) -> VideoInfo:
        """Returns what the film holds."""
        video = self._open(path)
        if not self.frame_table(path).is_plain:
            return self._other.probe(path)
        height, width = video[0].shape[:2]
        # 29.999999999999996 is 30.
        rate = Fraction(video.metadata.average_fps or 0).limit_denominator(100_000)
        return VideoInfo(int(video.metadata.num_frames), float(rate), int(height), int(width))

    def read(self, path: Path, indices: Sequence[int], size: tuple[int, int] | None) -> np.ndarray:
        """Returns uint8 [n, H, W, 3]; see `Reader`."""
        video = self._open(path)
        if not self.frame_table(path).is_plain:
            frames = self._other.read(path, indices, None)
        else:
            frames = video.get_frames_at(indices=list(indices)).data.numpy()
        return frames if size is None else resize(frames, *size)


def _missing(error: BaseException) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(
        f"data.reader=torchcodec, but torchcodec does not import ({reason}): install the version "
        "that fits this torch, and FFmpeg's shared libraries, or set data.reader=fast."
    )
