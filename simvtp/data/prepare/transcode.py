"""Turns a video into a small clip of the training size, a few frames in memory at a time.

The clip is upright, without sound, at a constant frame rate; H.264 (yuv420p, even sides), or
uncompressed RGB. Each frame of the new grid of times shows what the source showed then; a source
with a constant rate that is kept gives its own frames, one for one.
"""

from __future__ import annotations

import io
import math
from collections.abc import Generator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from simvtp.data.prepare.encode import H264Writer
from simvtp.data.video.container.frame_table import (
    UNKNOWN_RATE,
    WITHOUT_CLOCK,
    FramesContradictTable,
    FrameTable,
    end_of,
    part_of,
    shortest_distance,
)
from simvtp.data.video.frame_folder import FrameFolderReader, is_frame_folder, video_exists
from simvtp.data.video.pyav_reader import PyavReader, upright
from simvtp.data.video.readers import fit_short_side
from simvtp.data.video.tar_member import file_of
from simvtp.errors import DataError

STEP = 32  # source frames between two yields
FASTEST = 60  # frames per second that are kept of a video that claims more
LARGEST_RAW = 2**30  # bytes of one uncompressed clip

Steps = Generator[None, None, "Transcoded"]


@dataclass(frozen=True)
class TranscodeTarget:
    """Size, rate and quality of the clips that are written.

    Attributes:
        short: length of the short side in pixels, never enlarged, aspect kept; 0: `height` and
            `width` hold.
        height: exactly this; what is too much is cropped evenly at both ends.
        width: likewise.
        fps: frames per second; 0 keeps those of the source (60 at most).
        crf: x264 quality, lower is better.
        gop: largest distance between key frames; short, because a training clip reads its frames
            from several groups.
        fastdecode: see `H264Writer`.
        store: h264, or raw: frames as they are, uint8 [frames, height, width, 3].
    """

    short: int = 256
    height: int = 0
    width: int = 0
    fps: float = 0.0
    crf: int = 18
    gop: int = 4
    fastdecode: bool = True
    store: Literal["h264", "raw"] = "h264"

    def sizes(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns the size to which an upright frame is scaled, and the size of its middle.

        Both are (height, width); only the middle is stored, with even sides.
        """
        if self.short:
            scaled = fit_short_side(height, width, self.short)
            even = max(2, scaled[0] // 2 * 2), max(2, scaled[1] // 2 * 2)
            return even, even
        scale = max(Fraction(self.height, height), Fraction(self.width, width))
        return (max(self.height, round(height * scale)), max(self.width, round(width * scale))), (
            self.height,
            self.width,
        )


@dataclass(frozen=True)
class Transcoded:
    """A small clip: its bytes, and what it holds."""

    content: bytes
    frames: int
    fps: float
    height: int
    width: int


class UnusableVideo(DataError):
    """Raised for a video that cannot be transcoded.

    Attributes:
        kind: one of KINDS.
        reason: in words, without the path.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind, self.reason = kind, reason


KINDS = {
    "missing": "there is no such file",
    "empty": "the file has no bytes",
    "no_video": "FFmpeg cannot open it (an error page, a download that stopped), "
    "or it holds no picture",
    "damaged": "cut off, or a frame does not decode",
    "outside": "the wanted part lies behind the end",
    "decoder": "the decoder hung or crashed",
    "large": "uncompressed, it has more than 1 GiB: take a lower --fps or --size, or --store h264",
}


def transcode(
    path: Path, target: TranscodeTarget, start_s: float | None = None, end_s: float | None = None
) -> Steps:
    """Decodes, trims, turns, resizes and encodes a video.

    Yields now and then, and returns (`yield from`) a Transcoded.

    Args:
        path: a video file or a member of a shard.
        target: size, rate and quality.
        start_s: where the wanted part begins, in seconds from the first frame; None = there.
        end_s: where it ends; None, or behind the end of the video = there.

    Raises:
        UnusableVideo: whatever the decoder raised; nothing else.
    """
    if not video_exists(path) and not path.is_dir():
        raise UnusableVideo("missing", KINDS["missing"])
    if not is_frame_folder(path) and not file_of(path).stat().st_size:
        raise UnusableVideo("empty", KINDS["empty"])
    try:
        return (yield from _transcode(path, target, start_s, end_s))
    except UnusableVideo:
        raise
    except DataError as error:
        reason = str(error).replace(str(path), "the file")
    except Exception as error:  # FFmpeg's errors are OSError, ValueError and classes of their own
        reason = _in_words(error, path)
    # Not chained: the error would keep the container open.
    raise UnusableVideo("damaged", reason)


def _in_words(error: Exception, path: Path) -> str:
    text = " ".join(str(error).replace(str(path), "the file").split())
    return f"{type(error).__name__}: {text[:200]}"


def _transcode(
    path: Path, target: TranscodeTarget, start_s: float | None, end_s: float | None
) -> Steps:
    reader = FrameFolderReader() if is_frame_folder(path) else PyavReader()
    _refuse_what_does_not_open(reader, path)
    table = reader.frame_table(path)
    for _ in range(2):  # the table may be replaced twice: counted, then without seeking
        try:
            return (yield from _encoded(reader, path, table, target, start_s, end_s))
        except FramesContradictTable:
            table = reader.count_by_decoding(path, table)
    return (yield from _encoded(reader, path, table, target, start_s, end_s))


def _encoded(
    reader: PyavReader,
    path: Path,
    table: FrameTable,
    target: TranscodeTarget,
    start_s: float | None,
    end_s: float | None,
) -> Steps:
    fps, grid = frames_on_grid(table, target.fps, start_s, end_s)
    positions, repeats = np.unique(grid, return_counts=True)
    buffer, sizes = io.BytesIO(), ((0, 0), (0, 0))
    writer: _Writer | None = None
    frames = reader.frames(path, table, positions.tolist())
    try:
        for number, (_, frame) in enumerate(frames):
            if writer is None:
                sizes = target.sizes(*table.orientation.size(frame.height, frame.width))
                writer = _writer(target, buffer, sizes[1], fps)
            pixels = _middle(upright(frame, sizes[0]), *sizes[1])
            for _ in range(repeats[number]):
                writer.write(pixels)
            if number % STEP == STEP - 1:
                yield
    finally:
        frames.close()
        if writer is not None:
            writer.close()
    return Transcoded(buffer.getvalue(), len(grid), float(fps), *sizes[1])


def frames_on_grid(
    table: FrameTable, target_fps: float, start_s: float | None, end_s: float | None
) -> tuple[Fraction, np.ndarray]:
    """Returns the new frame rate, and for each moment of the new film the frame that is shown then.

    Moments are start, start + 1/fps, ...; a frame counts as shown half a frame before its time,
    because containers round times.

    Args:
        table: of the source.
        target_fps: frames per second; 0 = those of the source, 60 at most.
        start_s: see `transcode`.
        end_s: likewise.

    Raises:
        UnusableVideo: no frame lies in the part.
    """
    source_fps = min(Fraction(table.fps or UNKNOWN_RATE), Fraction(FASTEST)).limit_denominator(1001)
    fps = Fraction(target_fps or source_fps).limit_denominator(1001)
    times = table.times
    if not table.has_clock and (start_s is not None or end_s is not None):
        raise UnusableVideo("outside", f"it {WITHOUT_CLOCK}")
    first, last = part_of(table, start_s, end_s)
    if first >= table.count:
        until = "its end" if end_s is None else f"{end_s:g} s"
        raise UnusableVideo("outside", f"no frame lies between {start_s or 0:g} s and {until}")
    start = start_s or 0.0
    rounding = min(shortest_distance(times, table.fps), float(1 / max(fps, source_fps))) / 2
    end = min(end_s if end_s is not None else math.inf, end_of(times, table.fps or UNKNOWN_RATE))
    count = max(1, math.ceil((end - rounding - start) * fps - 1e-9))
    moments = start + np.arange(count) / float(fps) + rounding * (1 + 1e-6)
    shown = np.searchsorted(times, moments, "right") - 1
    return fps, np.clip(shown, first, last - 1)


class _Writer(Protocol):
    def write(self, frame: np.ndarray) -> None: ...

    def close(self) -> None: ...


def _writer(
    target: TranscodeTarget, buffer: io.BytesIO, size: tuple[int, int], fps: Fraction
) -> _Writer:
    if target.store == "raw":
        return _RawWriter(buffer)
    return H264Writer(buffer, *size, fps, target.crf, target.gop, target.fastdecode)


class _RawWriter:
    """Writes frame after frame, uncompressed."""

    def __init__(self, target: io.BytesIO) -> None:
        self._target = target

    def write(self, frame: np.ndarray) -> None:
        """Appends one frame, uint8 [H, W, 3]."""
        if self._target.tell() + frame.nbytes > LARGEST_RAW:
            raise UnusableVideo("large", KINDS["large"])
        self._target.write(np.ascontiguousarray(frame).data)

    def close(self) -> None:
        """Does nothing: frames are written at once."""


def _refuse_what_does_not_open(reader: PyavReader, path: Path) -> None:
    """Raises UnusableVideo if a file is no video, or names bytes behind its own end.

    FFmpeg only stops earlier in a file that is cut off, and says nothing.
    """
    import av

    if is_frame_folder(path):
        return
    try:
        container = reader.open(path)
    except (av.error.FFmpegError, ValueError) as error:
        if str(error).startswith("no video stream"):
            raise UnusableVideo("no_video", f"it has {error}") from None
        raise UnusableVideo("no_video", _in_words(error, path)) from None
    size = file_of(path).stat().st_size if file_of(path) == path else None
    with container:
        ends = [e.pos + e.size for s in container.streams.video for e in s.index_entries]
    if size is not None and ends and max(ends) > size:
        raise UnusableVideo(
            "damaged", f"the file is cut off: it has {size} bytes and speaks of {max(ends)}"
        )


def _middle(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return frame[top : top + height, left : left + width]
