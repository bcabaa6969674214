"""torchcodec as a reader, for those who have it (the only import of torchcodec). Not among the requirements: its wheels fit one version of
torch each, and it needs the shared libraries of FFmpeg on the machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simvtp.data.member import file_of, member_bytes
from simvtp.data.reader import VideoInfo
from simvtp.data.transforms import resize
from simvtp.errors import UserError


class TorchcodecReader:
    """torchcodec on the CPU, exact seeking, one thread. Frames are resized after decoding, with antialiasing: other pixels than decord's
    where they are made smaller, so the fingerprint tells the two apart."""

    name = "torchcodec"

    @staticmethod
    def _open(path: Path) -> Any:
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: its libraries do not find those of FFmpeg
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"data.reader=torchcodec, but torchcodec does not import ({reason}): install the version that fits this torch, and FFmpeg's "
                "shared libraries, or set data.reader=fast."
            ) from None
        if not file_of(path).is_file():
            raise FileNotFoundError("there is no such file")
        content = member_bytes(path)
        return VideoDecoder(content.getvalue() if content else str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")

    def probe(self, path: Path) -> VideoInfo:
        video = self._open(path)
        height, width = video[0].shape[:2]
        return VideoInfo(int(video.metadata.num_frames), float(video.metadata.average_fps or 0), int(height), int(width))

    def read(self, path: Path, indices: Sequence[int], size: tuple[int, int] | None) -> np.ndarray:
        frames: np.ndarray = self._open(path).get_frames_at(indices=list(indices)).data.numpy()
        return frames if size is None else resize(frames, *size)
