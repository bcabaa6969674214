"""A video to a small clip of the training size, frame by frame: a film of any length takes the
memory of a few frames (and of the result).

What comes out: upright, without sound, at a constant frame rate; H.264 (yuv420p, even sides), or
uncompressed RGB. Each frame of the new grid of times shows what the source showed then; a source
with a constant rate that is kept gives its own frames, one for one.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from simvtp.data.video.encode import H264Writer
from simvtp.data.video.pyav_reader import quarter_turns, upright
from simvtp.data.video.readers import fit_short_side
from simvtp.data.video.tar_member import file_of, member_bytes
from simvtp.errors import DataError

STEP = 32  # source frames between two yields
FASTEST = 60  # frames per second that are kept of a video that claims more
UNKNOWN_RATE = 25
LONGEST_GAP_S = 600  # between two frames; more is taken for a broken time stamp
LARGEST_RAW = 2**30  # bytes of one uncompressed clip

Steps = Generator[None, None, "Transcoded"]
Shown = tuple[
    Fraction, Fraction, Any
]  # when a frame comes, for how long (both in seconds), the frame


@dataclass(frozen=True)
class TranscodeTarget:
    """How videos are written.

    Attributes:
        short: length of the short side in pixels, never enlarged, aspect kept; 0: `height` and
            `width` hold.
        height, width: exactly this; what is too much of the longer side is cut off evenly at both
            ends.
        fps: frames per second; 0 keeps those of the source (60 at most).
        crf: x264 quality, lower is better.
        gop: largest distance between key frames; short, because four frames of a clip are read from
            four places.
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
        """(height, width) to which an upright frame is scaled, and (height, width) that are kept of
        its middle; the latter even.
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
    """The new file and what it holds."""

    content: bytes
    frames: int
    fps: float
    height: int
    width: int


class UnusableVideo(DataError):
    """A video that cannot be transcoded.

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
    "no_video": "FFmpeg cannot open it (an error page, a download that stopped), or it holds no picture",
    "damaged": "cut off, or a frame does not decode",
    "outside": "the wanted part lies behind the end",
    "decoder": "the decoder hung or crashed",
    "large": "uncompressed, it has more than 1 GiB: take a lower --fps or --size, or --store h264",
}


def transcode(
    path: Path, target: TranscodeTarget, start_s: float | None = None, end_s: float | None = None
) -> Steps:
    """Decode, cut, turn, resize and encode; yields now and then, and returns (`yield from`) a
    Transcoded.

    Args:
        path: a video file or a member of a shard.
        start_s, end_s: the part that is wanted, in seconds from the beginning of the video; None =
            from its beginning, to its end. An end behind the video's own is cut to it.

    Raises:
        UnusableVideo: and nothing else, whatever the decoder raised.
    """
    if not file_of(path).is_file():
        raise UnusableVideo("missing", KINDS["missing"])
    if not file_of(path).stat().st_size:
        raise UnusableVideo("empty", KINDS["empty"])
    try:
        return (yield from _transcode(path, target, start_s, end_s))
    except UnusableVideo:
        raise
    except DataError as error:
        reason = str(error).replace(str(path), "the file")
    except Exception as error:  # FFmpeg's errors are OSError, ValueError and classes of its own
        reason = f"{type(error).__name__}: {' '.join(str(error).replace(str(path), 'the file').split())[:200]}"
    raise UnusableVideo("damaged", reason)  # not chained: the error would keep the container open


def _transcode(
    path: Path, target: TranscodeTarget, start_s: float | None, end_s: float | None
) -> Steps:
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        _not_cut_off(stream, file_of(path).stat().st_size if file_of(path) == path else None)
        source_fps = min(
            Fraction(stream.average_rate or stream.guessed_rate or UNKNOWN_RATE), Fraction(FASTEST)
        )
        fps = Fraction(target.fps or source_fps).limit_denominator(1001)
        start, end = Fraction(start_s or 0), None if end_s is None else Fraction(end_s)
        frames = _from_file(container, stream, source_fps, start)
        buffer, sizes = io.BytesIO(), ((0, 0), (0, 0))
        writer: _Writer | None = None
        count = 0
        try:
            for shown in _on_grid(frames, fps, max(fps, source_fps), start, end):
                if shown is None:
                    yield
                    continue
                if writer is None:
                    turned = quarter_turns(shown) % 2 == 1
                    sizes = target.sizes(
                        *((shown.width, shown.height) if turned else (shown.height, shown.width))
                    )
                    writer = _writer(target, buffer, sizes[1], fps)
                writer.write(_middle(upright(shown, sizes[0]), *sizes[1]))
                count += 1
        finally:
            if writer is not None:
                writer.close()
    if not count:
        raise UnusableVideo(
            "outside",
            f"no frame lies between {float(start):g} s and {'its end' if end is None else f'{float(end):g} s'}",
        )
    return Transcoded(buffer.getvalue(), count, float(fps), *sizes[1])


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
    """Frame after frame, as they are."""

    def __init__(self, target: io.BytesIO) -> None:
        self._target = target

    def write(self, frame: np.ndarray) -> None:
        """Append one frame, uint8 [H, W, 3]."""
        if self._target.tell() + frame.nbytes > LARGEST_RAW:
            raise UnusableVideo("large", KINDS["large"])
        self._target.write(np.ascontiguousarray(frame).data)

    def close(self) -> None:
        """Nothing is left to be done."""


def _opened(path: Path) -> Any:
    import av

    try:
        container = av.open(member_bytes(path) or str(path))
    except (av.error.FFmpegError, ValueError) as error:
        raise UnusableVideo(
            "no_video",
            f"{type(error).__name__}: {' '.join(str(error).replace(str(path), 'the file').split())[:200]}",
        ) from None
    if not container.streams.video:
        container.close()
        raise UnusableVideo("no_video", "it has no video stream")
    return container


def _not_cut_off(stream: Any, size: int | None) -> None:
    """UnusableVideo if the container's own table names bytes behind the end of the file: FFmpeg only
    stops earlier then, without a word.
    """
    ends = [entry.pos + entry.size for entry in stream.index_entries]
    if size is not None and ends and max(ends) > size:
        raise UnusableVideo(
            "damaged", f"the file is cut off: it has {size} bytes and speaks of {max(ends)}"
        )


def _from_file(
    container: Any, stream: Any, fps: Fraction, start: Fraction
) -> Iterator[Shown | None]:
    """The frames from the last key frame before `start` on, with their times; None after every STEP
    of them.
    """
    base, origin = Fraction(stream.time_base), stream.start_time or 0
    if start > 0:
        container.seek(origin + int(start / base), stream=stream, backward=True)
    fed = decoded = 0
    clock = Fraction(0)  # for frames without a time stamp
    for packet in container.demux(stream):
        fed += bool(packet.size and not packet.is_discard)
        for frame in packet.decode():
            time = clock if frame.pts is None else (frame.pts - origin) * base
            length = (frame.duration or 0) * base or 1 / fps
            clock = time + length
            decoded += 1
            yield time, length, frame
            if decoded % STEP == 0:
                yield None
    if not fed:
        raise UnusableVideo("no_video", "it has no video frames")
    if start == 0 and decoded < fed:  # after a seek the first frames may rightly be lost
        raise UnusableVideo("damaged", f"{decoded} of its {fed} frames decode")


def _on_grid(
    frames: Iterator[Shown | None],
    fps: Fraction,
    finer: Fraction,
    start: Fraction,
    end: Fraction | None,
) -> Iterator[Any]:
    """What is shown at start, start + 1/fps, ...: the last frame that has come by then, give or
    take half a frame of the finer rate (containers round times). None wherever `frames` has one."""
    number, shown, over = 0, None, Fraction(0)
    tolerance = 1 / (2 * finer)

    def due(until: Fraction) -> bool:
        moment = start + number / fps
        return moment + tolerance < until and (
            end is None or moment + tolerance < end or number == 0
        )

    for item in frames:
        if item is None:
            yield None
            continue
        time, length, frame = item
        if shown is not None and time - over > LONGEST_GAP_S:
            raise UnusableVideo("damaged", f"its time stamps leap by {float(time - over):.0f} s")
        while shown is not None and due(time):
            yield shown
            number += 1
        if end is not None and time + tolerance >= end and time > start + tolerance:
            break
        shown, over = frame, max(over, time + length)
    else:
        while shown is not None and due(over):
            yield shown
            number += 1


def _middle(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return frame[top : top + height, left : left + width]
