"""Writes H.264, the same bytes each time."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

# x264's lookahead (macroblock tree, choice of B-frames) gave other bytes from run to run in 1 clip
# of 2, even with one thread.
REPEATABLE = "mbtree=0:rc-lookahead=0:scenecut=0:weightp=0"
# Of x264's settings for cheap decoding those that pay: bits that are read without arithmetic, edges
# of blocks that are not smoothed.
FASTDECODE = "no-cabac=1:no-deblock=1"


class H264Writer:
    """Writer of an H.264 mp4: yuv420p, constant frame rate; equal frames give equal bytes.

    Args:
        target: a path, or a file object that can seek.
        height: even.
        width: even.
        fps: frames per second; denominators above 1001 are rounded.
        crf: x264 quality, lower is better (18 = visually lossless).
        gop: largest distance between key frames.
        fastdecode: a tenth more bytes for half the time of decoding; at a low quality (crf above
            25) edges of blocks are seen.
    """

    def __init__(
        self,
        target: Any,
        height: int,
        width: int,
        fps: Fraction,
        crf: int = 18,
        gop: int = 8,
        fastdecode: bool = False,
    ) -> None:
        import av

        self._convert = av.VideoFrame.from_ndarray
        self._container = av.open(target, "w", format="mp4", options={"fflags": "+bitexact"})
        self._stream: Any = self._container.add_stream(
            "libx264",
            rate=fps.limit_denominator(1001),
            options={
                "crf": str(crf),
                "preset": "veryfast",
                "bf": "0",
                "x264-params": f"{REPEATABLE}:{FASTDECODE}" if fastdecode else REPEATABLE,
            },
        )
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"
        self._stream.codec_context.gop_size = gop
        self._stream.codec_context.thread_count = 1

    def write(self, frame: np.ndarray) -> None:
        """Appends one frame, uint8 [H, W, 3], RGB."""
        self._container.mux(
            self._stream.encode(self._convert(np.ascontiguousarray(frame), format="rgb24"))
        )

    def close(self) -> None:
        """Writes what the encoder still holds, and the table of frames."""
        self.__exit__(None)

    def __enter__(self) -> H264Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()


def encode_h264(frames: np.ndarray, path: Path, fps: float, crf: int = 18, gop: int = 8) -> None:
    """Writes an H.264 mp4 (yuv420p); equal frames give equal bytes.

    The file is complete or absent.

    Args:
        frames: uint8 [T, H, W, 3], RGB; H and W even (yuv420p halves the colour planes).
        path: where to write; its folder is created.
        fps: frames per second.
        crf: x264 quality, lower is better (18 = visually lossless).
        gop: largest distance between key frames; short, because training reads windows from the
            middle.

    Raises:
        ValueError: frames of another type or shape, or of odd size.
        OSError: the file cannot be written.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not len(frames):
        raise ValueError(
            "frames must be uint8 [T, H, W, 3] with T at least 1, "
            f"not {frames.dtype} {frames.shape}"
        )
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(
            "H.264 with yuv420p needs even height and width, "
            f"not {frames.shape[1]}x{frames.shape[2]}"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with H264Writer(
            str(temporary), frames.shape[1], frames.shape[2], Fraction(fps), crf, gop
        ) as writer:
            for frame in frames:
                writer.write(frame)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
