"""Reads video files, whichever decoder does it.

All back-ends open the file, read and close it inside one call, with one decoder thread: a reader
that stays open decodes ahead without bound, and one that is open while the process forks hangs for
ever (both seen with decord 0.6). Unresized, all give the same bytes; `fast`, the default, also
where frames are resized while decoding. Frames stand upright: the rotation that a phone writes into
the file is applied. A path may name a member of a tar shard (`simvtp.data.video.tar_member`) or a
folder of pictures (`simvtp.data.video.frame_folder`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from simvtp.data.video.container.frame_table import WITHOUT_CLOCK, part_of
from simvtp.data.video.frame_folder import FrameFolderReader, is_frame_folder
from simvtp.data.video.pyav_reader import PyavReader
from simvtp.data.video.tar_member import READ_AGAIN_S, file_of, raw_clip
from simvtp.data.video.transforms import resize
from simvtp.data.video.video_reader import Reader, TimedReader, VideoInfo
from simvtp.errors import ConfigError, DataError, UserError
from simvtp.runs.atomic_files import TRANSIENT

T = TypeVar("T")
log = logging.getLogger(__name__)
READ_EVERY_S = 0.5
READ_AT_ONCE = 2**22  # bytes
SCANNED = 512  # frames at a time


def get_reader(name: str) -> Reader:
    """Returns the back-end of that name; an unknown name raises ConfigError."""
    if name not in READERS:
        raise ConfigError(
            f"data.reader={name}: there is no such reader; choose one of {', '.join(READERS)}."
        )
    return READERS[name]()


def reader_for(path: Path, reader: Reader) -> Reader:
    """Returns the reader of a path: `reader`, except for folders of pictures."""
    return FrameFolderReader() if is_frame_folder(path) else reader


def probe(path: Path, reader: Reader) -> VideoInfo:
    """Returns the number of frames, frames per second, height and width of a video.

    Of uncompressed frames in a shard the checksum is compared, and the rate is 0: the index of the
    shard knows it.

    Raises:
        DataError: that cannot be found; with the path and the reason.
    """
    raw = raw_clip(path)
    if raw is not None:
        raw.verify()
        return VideoInfo(raw.frames, 0.0, raw.height, raw.width)
    reader = reader_for(path, reader)
    info = or_data_error(path, lambda: reader.probe(path))
    if info.frames < 1 or info.height < 1 or info.width < 1:
        raise DataError(f"{path} does not decode: it has no video frames.")
    return info


def part_range(
    path: Path, reader: Reader, info: VideoInfo, start_s: float | None, end_s: float | None
) -> tuple[int, int]:
    """Returns (first, last + 1): the frames of a video that are shown between two times.

    The one rule for parts of films: files, shards and `data check` ask here.

    Args:
        path: the video.
        reader: any; one that knows no times takes the rate of the film for constant.
        info: as `probe` gives it.
        start_s: seconds from the first frame; None = from there.
        end_s: None = to the end.

    Raises:
        DataError: the film ends before the part begins, or has no clock (a folder of pictures).
    """
    if start_s is None and end_s is None:
        return 0, info.frames
    reader = reader_for(path, reader)
    timed = reader if isinstance(reader, TimedReader) else PyavReader()
    table = or_data_error(path, lambda: timed.frame_table(path))
    if not table.has_clock:
        raise DataError(f"{path} {WITHOUT_CLOCK}.")
    first, last = part_of(table, start_s, end_s)
    if first >= info.frames:
        length = info.frames / info.fps if info.fps else 0.0
        raise DataError(
            f"{path} ends after {length:.2f} s, before the part that begins at {start_s:g} s."
        )
    return first, min(last, info.frames)


def read_frames(
    path: Path, indices: Sequence[int], reader: Reader, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Decodes some frames.

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
    reader = reader_for(path, reader)
    frames = or_data_error(path, lambda: reader.read(path, numbers, size))
    fits = frames.shape[0] == len(indices) and (not size or frames.shape[1:3] == tuple(size))
    if frames.dtype != np.uint8 or not fits:
        raise DataError(
            f"{path} does not decode: asked for {len(indices)} frames of size {size}, "
            f"got {frames.shape} {frames.dtype}."
        )
    return frames


def scan_film(
    path: Path, reader: Reader, size: tuple[int, int], count: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (position, uint8 [H, W, 3]) of all frames of a film, each decoded once.

    A reader that cannot go through a film in one go is asked for SCANNED frames at a time.

    Args:
        count: number of frames, as `probe` gives it.

    Raises:
        DataError: the film does not decode to its end.
    """
    timed = reader_for(path, reader)
    if raw_clip(path) is None and isinstance(timed, TimedReader):
        frames = timed.scan(path, size)
        while (item := or_data_error(path, lambda: next(frames, None), False)) is not None:
            yield item
        return
    for first in range(0, count, SCANNED):
        block = read_frames(path, range(first, min(first + SCANNED, count)), reader, size)
        yield from enumerate(block, start=first)


def fit_short_side(height: int, width: int, side: int) -> tuple[int, int]:
    """Returns (height, width), the short side reduced to `side`, aspect kept; never enlarged."""
    short = min(height, width)
    if short <= side:
        return height, width
    return max(side, round(height * side / short)), max(side, round(width * side / short))


def or_data_error(path: Path, call: Callable[[], T], again: bool = True) -> T:
    """Returns what `call` returns; whatever a decoder raises becomes a DataError with the path.

    If it is not the film but the file system that fails, the call is repeated for READ_AGAIN_S.

    Args:
        path: of the film.
        call: begins its work from its start each time.
        again: False for a call that cannot be repeated.
    """
    deadline, noted = time.monotonic() + READ_AGAIN_S, False
    while True:
        answer, reason = _attempt(path, call)
        if not reason:
            return answer  # type: ignore[return-value]
        failing = _file_system_error(path)
        if failing is None:
            break
        reason = f"it cannot be read: {failing.strerror}; the file system fails"
        if not again or time.monotonic() > deadline:
            break
        if not noted:
            noted = True
            log.warning("%s: %s; trying again for %.0f s", path, failing.strerror, READ_AGAIN_S)
        time.sleep(READ_EVERY_S)
    # Raised here and not where it was caught: an error that is chained keeps the frames of the
    # decoder, and with them an open reader, alive.
    raise DataError(f"{path} does not decode ({reason}).")


def _file_system_error(path: Path) -> OSError | None:
    """Returns the error of a network file system that reading all of a film's file meets."""
    if file_of(path) != path or not path.is_file():
        return None  # members of shards are read with repetitions of their own
    try:
        with open(path, "rb", buffering=0) as file:
            while file.read(READ_AT_ONCE):
                pass
    except OSError as error:
        return error if error.errno in TRANSIENT else None
    return None


def _attempt(path: Path, call: Callable[[], T]) -> tuple[T | None, str]:
    """Returns (what `call` returns, why it failed); the reason is empty if it did not."""
    reason = ""
    try:
        return call(), ""
    except UserError as error:
        if not isinstance(error, DataError) or str(path) in str(error):
            raise
        reason = str(error).rstrip(".")
    # Decoders raise RuntimeError, IndexError, ValueError, OSError and classes of their own.
    except Exception as error:
        text = " ".join(str(error).replace(str(path), "the file").split())
        reason = f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
    return None, reason or "for no reason"


def _decord() -> Reader:
    from simvtp.data.video.decord_reader import DecordReader

    return DecordReader()


def _fast() -> Reader:
    from simvtp.data.video.decord_compatible import FastReader

    return FastReader()


def _torchcodec() -> Reader:
    from simvtp.data.video.torchcodec_reader import TorchcodecReader

    return TorchcodecReader()


READERS: dict[str, Callable[[], Reader]] = {
    "fast": _fast,
    "decord": _decord,
    "pyav": PyavReader,
    "torchcodec": _torchcodec,
}
