"""Reading video files, whichever decoder does it (the only place that imports decord).

All back-ends open the file, read and close it inside one call, with one decoder thread: a reader
that stays open decodes ahead without bound, and one that is open while the process forks hangs for
ever (both seen with decord 0.6). Unresized, all give the same bytes; `fast`, the default, also
where frames are resized while decoding. Frames stand upright: the rotation that a phone writes into
the file is applied. A path may name a member of a tar shard (`simvtp.data.video.tar_member`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from simvtp.data.loading.transforms import resize
from simvtp.data.video.pyav_reader import PyavReader
from simvtp.data.video.tar_member import file_of, member_bytes, raw_clip
from simvtp.data.video.video_reader import Reader, VideoInfo
from simvtp.errors import ConfigError, DataError, UserError

T = TypeVar("T")


def get_reader(name: str) -> Reader:
    """The back-end of that name; an unknown name raises ConfigError."""
    if name not in READERS:
        raise ConfigError(
            f"data.reader={name}: there is no such reader; choose one of {', '.join(READERS)}."
        )
    return READERS[name]()


def probe(path: Path, reader: Reader) -> VideoInfo:
    """Number of frames, frames per second, height, width; DataError with the path and the reason if
    that cannot be found.

    Of uncompressed frames in a shard the checksum is compared, and the rate is 0: the index of the
    shard knows it.
    """
    raw = raw_clip(path)
    if raw is not None:
        raw.verify()
        return VideoInfo(raw.frames, 0.0, raw.height, raw.width)
    info = _or_data_error(path, lambda: reader.probe(path))
    if info.frames < 1 or info.height < 1 or info.width < 1:
        raise DataError(f"{path} does not decode: it has no video frames.")
    return info


def read_frames(
    path: Path, indices: Sequence[int], reader: Reader, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Decode some frames.

    Args:
        path: a video file, or a member of a shard; uncompressed frames need no decoder, and
            `reader` is not asked.
        indices: frame numbers from 0, in any order, repeats allowed.
        reader: see `get_reader`.
        size: (height, width) to resize to while decoding (bilinear); None keeps the stored size.

    Returns:
        uint8 [n, H, W, 3], RGB.

    Raises:
        DataError: whatever went wrong while decoding, with the path and the reason.
    """
    raw, numbers = raw_clip(path), [int(i) for i in indices]
    if raw is not None:
        frames = raw.read(numbers)
        return frames if size is None else resize(frames, *size)
    frames = _or_data_error(path, lambda: reader.read(path, numbers, size))
    if (
        frames.dtype != np.uint8
        or frames.shape[0] != len(indices)
        or (size and frames.shape[1:3] != tuple(size))
    ):
        raise DataError(
            f"{path} does not decode: asked for {len(indices)} frames of size {size}, got {frames.shape} {frames.dtype}."
        )
    return frames


def fit_short_side(height: int, width: int, side: int) -> tuple[int, int]:
    """(height, width) with the short side reduced to `side`, aspect kept; never enlarged."""
    short = min(height, width)
    if short <= side:
        return height, width
    return max(side, round(height * side / short)), max(side, round(width * side / short))


def _or_data_error(path: Path, call: Callable[[], T]) -> T:
    reason = ""
    try:
        return call()
    except UserError:
        raise
    except Exception as error:  # decoders raise RuntimeError, IndexError, ValueError, OSError and classes of their own
        text = " ".join(str(error).replace(str(path), "the file").split())
        reason = f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
    # Raised here and not above: an error that is chained keeps the frames of the decoder, and with
    # them an open reader, alive.
    raise DataError(f"{path} does not decode ({reason}).")


# decord 0.6 takes the padding of a line for a fourth colour where frames are 24, 48 or 72 pixels
# wide.
TOO_NARROW = "The size must exactly match"


class DecordReader:
    """decord. Unmaintained but fast enough and well known; see the module's text for what it must
    never meet. PyAV reads for it the few widths that it cannot."""

    name = "decord"

    @staticmethod
    def _open(path: Path, size: tuple[int, int] | None) -> Any:
        try:
            import decord
        except ImportError as error:
            raise UserError(
                f"data.reader=decord, but decord does not import ({error}): install it or set data.reader=pyav."
            ) from error
        decord.logging.set_level(decord.logging.QUIET)
        if not file_of(path).is_file():
            raise FileNotFoundError("there is no such file")
        height, width = size or (-1, -1)
        return decord.VideoReader(
            member_bytes(path) or str(path),
            ctx=decord.cpu(0),
            width=width,
            height=height,
            num_threads=1,
        )

    def probe(self, path: Path) -> VideoInfo:
        video = self._open(path, None)
        try:
            height, width, _ = video[0].shape
            return VideoInfo(len(video), float(video.get_avg_fps()), height, width)
        finally:
            del video

    def read(self, path: Path, indices: Sequence[int], size: tuple[int, int] | None) -> np.ndarray:
        video = self._open(path, size)
        try:
            return video.get_batch(list(indices)).asnumpy()
        except Exception as error:  # decord's own class is not part of its interface
            if TOO_NARROW not in str(error):
                raise
        finally:
            del video
        return PyavReader().read(path, indices, size)


def _fast() -> Reader:
    from simvtp.data.video.decord_compatible import FastReader

    return FastReader()


def _torchcodec() -> Reader:
    from simvtp.data.video.torchcodec_reader import TorchcodecReader

    return TorchcodecReader()


READERS: dict[str, Callable[[], Reader]] = {
    "fast": _fast,
    "decord": DecordReader,
    "pyav": PyavReader,
    "torchcodec": _torchcodec,
}
