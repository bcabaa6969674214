"""Video files: the only place that imports decord and PyAV (lazily, inside the functions that need them)."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np


def encode_h264(frames: np.ndarray, path: Path, fps: float, crf: int = 18, gop: int = 8) -> None:
    """Write an H.264 mp4 (yuv420p, one thread, so that equal frames give equal bytes); the file is whole or absent.

    Args:
        frames: uint8 [T, H, W, 3], RGB; H and W even (yuv420p halves the colour planes).
        path: where to write; its folder is created.
        fps: frames per second.
        crf: x264 quality, lower is better (18 = visually lossless).
        gop: largest distance between key frames; short, because training reads windows from the middle.

    Raises:
        ValueError: frames of another type or shape, or of odd size.
        OSError: the file cannot be written.
    """
    import av

    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not len(frames):
        raise ValueError(f"frames must be uint8 [T, H, W, 3] with T at least 1, not {frames.dtype} {frames.shape}")
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"H.264 with yuv420p needs even height and width, not {frames.shape[1]}x{frames.shape[2]}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with av.open(str(temporary), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream(
                "libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": str(crf), "preset": "veryfast"}
            )
            stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
            stream.codec_context.gop_size = gop
            stream.codec_context.thread_count = 1
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            container.mux(stream.encode(None))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
