"""Video files: reading (the only place that imports decord; PyAV is shared with `fast` and `transcode`) and writing small ones.

All back-ends open the file, read and close it inside one call, with one decoder thread: a reader that stays open decodes ahead without
bound, and one that is open while the process forks hangs for ever (both seen with decord 0.6). Unresized, all give the same bytes; `fast`, the default, also where
frames are resized while decoding.
Frames stand upright: the rotation that a phone writes into the file is applied. A path may name a member of a tar shard
(`simvtp.data.member`).
"""

from __future__ import annotations

import bisect
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from simvtp.data.member import file_of, member_bytes, raw_clip
from simvtp.data.transforms import resize
from simvtp.errors import ConfigError, DataError, UserError

T = TypeVar("T")


@dataclass(frozen=True)
class VideoInfo:
    """What a container says of its first video stream, with the number of frames counted, not estimated."""

    frames: int
    fps: float
    height: int
    width: int


class Reader(Protocol):
    """A decoder back-end. It may raise what it likes: `probe` and `read_frames` turn it into DataError. Must be picklable."""

    name: str

    def probe(self, path: Path) -> VideoInfo:
        """What the file holds."""

    def read(self, path: Path, indices: Sequence[int], size: tuple[int, int] | None) -> np.ndarray:
        """uint8 [n, H, W, 3], RGB, the frames `indices` (any order, repeats allowed), resized to (height, width) if `size` is given."""


def get_reader(name: str) -> Reader:
    """The back-end of that name; an unknown name raises ConfigError."""
    if name not in READERS:
        raise ConfigError(f"data.reader={name}: there is no such reader; choose one of {', '.join(READERS)}.")
    return READERS[name]()


def probe(path: Path, reader: Reader) -> VideoInfo:
    """Number of frames, frames per second, height, width; DataError with the path and the reason if that cannot be found.

    Of uncompressed frames in a shard the checksum is compared, and the rate is 0: the index of the shard knows it.
    """
    raw = raw_clip(path)
    if raw is not None:
        raw.verify()
        return VideoInfo(raw.frames, 0.0, raw.height, raw.width)
    info = _or_data_error(path, lambda: reader.probe(path))
    if info.frames < 1 or info.height < 1 or info.width < 1:
        raise DataError(f"{path} does not decode: it has no video frames.")
    return info


def read_frames(path: Path, indices: Sequence[int], reader: Reader, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode some frames.

    Args:
        path: a video file, or a member of a shard; uncompressed frames need no decoder, and `reader` is not asked.
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
    if frames.dtype != np.uint8 or frames.shape[0] != len(indices) or (size and frames.shape[1:3] != tuple(size)):
        raise DataError(f"{path} does not decode: asked for {len(indices)} frames of size {size}, got {frames.shape} {frames.dtype}.")
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
    # Raised here and not above: an error that is chained keeps the frames of the decoder, and with them an open reader, alive.
    raise DataError(f"{path} does not decode ({reason}).")


OLDEST_PYAV = 17, 0, 1

# decord 0.6 takes the padding of a line for a fourth colour where frames are 24, 48 or 72 pixels wide.
TOO_NARROW = "The size must exactly match"


class DecordReader:
    """decord. Unmaintained but fast enough and well known; see the module's text for what it must never meet. PyAV reads for it the few
    widths that it cannot."""

    name = "decord"

    @staticmethod
    def _open(path: Path, size: tuple[int, int] | None) -> Any:
        try:
            import decord
        except ImportError as error:
            raise UserError(f"data.reader=decord, but decord does not import ({error}): install it or set data.reader=pyav.") from error
        decord.logging.set_level(decord.logging.QUIET)
        if not file_of(path).is_file():
            raise FileNotFoundError("there is no such file")
        height, width = size or (-1, -1)
        return decord.VideoReader(member_bytes(path) or str(path), ctx=decord.cpu(0), width=width, height=height, num_threads=1)

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


def pyav(reader: str) -> Any:
    """PyAV for the reader of that name; UserError if it is not there, or too old to be told not to start threads."""
    try:
        import av
    except ImportError as error:
        raise UserError(f"data.reader={reader}, but PyAV does not import ({error}): install av or set data.reader=decord.") from error
    if tuple(int(part) for part in re.findall(r"\d+", av.__version__)[:3]) < OLDEST_PYAV:
        oldest = ".".join(str(part) for part in OLDEST_PYAV)
        raise UserError(f"data.reader={reader} needs PyAV {oldest} or newer, not {av.__version__}: update av or set data.reader=decord.")
    return av


class PyavReader:
    """PyAV, exact by presentation time; see `simvtp.data.fast` for what comes from it and is faster.

    Seeks to the key frame before each wanted stretch, does not decode frames that nothing needs (`skip_frame`), and stops as soon as
    the wanted frames are out. Files without usable time stamps are decoded from the start.
    """

    name = "pyav"

    @staticmethod
    def _open(path: Path) -> Any:
        return prepared(pyav("pyav").open(member_bytes(path) or str(path)))

    def probe(self, path: Path) -> VideoInfo:
        with self._open(path) as container:
            stream = container.streams.video[0]
            context = stream.codec_context
            rate = stream.average_rate or stream.guessed_rate or 0
            frames, turns = 0, None
            for packet in container.demux(stream):
                frames += bool(packet.size and not packet.is_discard)
                if turns is None:  # the container's display matrix is shown with the first frame only
                    turns = next((quarter_turns(frame) for frame in packet.decode()), None)
            height, width = context.height, context.width
            return VideoInfo(frames, float(rate), *((width, height) if turns in (1, 3) else (height, width)))

    def read(self, path: Path, indices: Sequence[int], size: tuple[int, int] | None) -> np.ndarray:
        wanted = sorted(set(indices))
        with self._open(path) as container:
            stream = container.streams.video[0]
            packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.size and not p.is_discard]
            if wanted and not 0 <= wanted[0] <= wanted[-1] < len(packets):
                raise IndexError(f"frame {wanted[-1]} of {len(packets)}")
            times = [pts for pts, _ in packets]
            found: dict[int, np.ndarray] = {}
            if None not in times and len(set(times)) == len(times) and any(key for _, key in packets):
                times.sort()
                keys = sorted(pts for pts, key in packets if key)
                numbers = {times[number]: number for number in wanted}
                for pts, frame in decode_by_time(container, stream, [times[n] for n in wanted], keys):
                    found[numbers[pts]] = upright(frame, size)
        if len(found) < len(wanted):
            found |= self._in_order(path, wanted, lambda frame: upright(frame, size))
        return np.stack([found[number] for number in indices])

    def _in_order(self, path: Path, wanted: Sequence[int], convert: Callable[[Any], np.ndarray]) -> dict[int, np.ndarray]:
        """The frames `wanted` (sorted) by decoding from the start."""
        found: dict[int, np.ndarray] = {}
        with self._open(path) as container:
            stream = container.streams.video[0]
            for number, frame in enumerate(container.decode(stream)):
                if number in wanted:
                    found[number] = convert(frame)
                if number >= wanted[-1]:
                    break
        if len(found) < len(wanted):
            raise IndexError(f"frame {min(set(wanted) - set(found))} is missing: the file is damaged or cut off")
        return found


def prepared(container: Any) -> Any:
    """A container that PyAV has opened, its first video stream decoded by one thread; ValueError if it has none."""
    if not container.streams.video:
        container.close()
        raise ValueError("no video stream")
    stream = container.streams.video[0]
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return container


def quarter_turns(frame: Any) -> int:
    """How many times PyAV's frame must be turned counter-clockwise by 90 degrees to stand upright."""
    return round(frame.rotation / 90) % 4


def upright(frame: Any, size: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 [H, W, 3], RGB: PyAV's frame as it is meant to be seen, resized (bilinear) to (height, width) if given."""
    turns = quarter_turns(frame)
    if size is not None:
        height, width = size if turns % 2 == 0 else size[::-1]
        frame = frame.reformat(width=width, height=height, format="rgb24", interpolation="BILINEAR", threads=1)
    pixels = frame.to_ndarray(format="rgb24", threads=1)  # FFmpeg would start threads for each frame
    return np.rot90(pixels, turns) if turns else pixels


def decode_by_time(container: Any, stream: Any, wanted: list[int], keys: list[int]) -> Iterator[tuple[int, Any]]:
    """Yield (time stamp, frame) for the sorted time stamps `wanted`; `keys`: sorted time stamps of the key frames."""
    context = stream.codec_context
    segments: list[list[int]] = []
    last = -2
    for pts in wanted:
        group = bisect.bisect_right(keys, pts) - 1
        if group > last + 1 or not segments:  # decoding on through the next group costs less than a seek
            segments.append([])
        segments[-1].append(pts)
        last = group
    for segment in segments:
        start = keys[max(0, bisect.bisect_right(keys, segment[0]) - 1)]
        container.seek(start, stream=stream, backward=True)
        unfed, remaining = set(segment), set(segment)
        for packet in container.demux(stream):
            context.skip_frame = "DEFAULT" if packet.pts in unfed else "NONREF"
            unfed.discard(packet.pts)
            frames = packet.decode()
            if not unfed and packet.size:
                context.skip_frame = "DEFAULT"
                frames = [*frames, *context.decode(None)]
            for frame in frames:
                if frame.pts in remaining:
                    remaining.discard(frame.pts)
                    yield frame.pts, frame
            if not unfed:
                break


def _fast() -> Reader:
    from simvtp.data.fast import FastReader  # builds upon this module

    return FastReader()


def _torchcodec() -> Reader:
    from simvtp.data.torchcodec_reader import TorchcodecReader

    return TorchcodecReader()


READERS: dict[str, Callable[[], Reader]] = {"fast": _fast, "decord": DecordReader, "pyav": PyavReader, "torchcodec": _torchcodec}


# x264's lookahead (macroblock tree, choice of B-frames) gave other bytes from run to run in 1 clip of 2, even with one thread.
REPEATABLE = "mbtree=0:rc-lookahead=0:scenecut=0:weightp=0"
# Of x264's settings for cheap decoding those that pay: bits that are read without arithmetic, edges of blocks that are not smoothed.
FASTDECODE = "no-cabac=1:no-deblock=1"


class H264Writer:
    """Frame after frame into an H.264 mp4: yuv420p, constant frame rate, one thread, so that equal frames give equal bytes.

    Args:
        target: a path, or a file object that can seek.
        height, width: even.
        fps: frames per second; denominators above 1001 are rounded.
        crf: x264 quality, lower is better (18 = visually lossless).
        gop: largest distance between key frames.
        fastdecode: a tenth more bytes for half the time of decoding; at a low quality (crf above 25) edges of blocks are seen.
    """

    def __init__(self, target: Any, height: int, width: int, fps: Fraction, crf: int = 18, gop: int = 8, fastdecode: bool = False) -> None:
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
        """Append one frame, uint8 [H, W, 3], RGB."""
        self._container.mux(self._stream.encode(self._convert(np.ascontiguousarray(frame), format="rgb24")))

    def close(self) -> None:
        """Write what the encoder still holds, and the table of frames."""
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
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not len(frames):
        raise ValueError(f"frames must be uint8 [T, H, W, 3] with T at least 1, not {frames.dtype} {frames.shape}")
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"H.264 with yuv420p needs even height and width, not {frames.shape[1]}x{frames.shape[2]}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with H264Writer(str(temporary), frames.shape[1], frames.shape[2], Fraction(fps), crf, gop) as writer:
            for frame in frames:
                writer.write(frame)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
