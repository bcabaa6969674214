"""Reading video files with PyAV: exact by presentation time. `fast` builds upon it and gives
decord's frames.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simvtp.data.video.tar_member import member_bytes
from simvtp.data.video.video_reader import VideoInfo
from simvtp.errors import UserError

OLDEST_PYAV = 17, 0, 1


def pyav(reader: str) -> Any:
    """PyAV for the reader of that name; UserError if it is not there, or too old to be told not to
    start threads.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(
            f"data.reader={reader}, but PyAV does not import ({error}): install av or set data.reader=decord."
        ) from error
    if tuple(int(part) for part in re.findall(r"\d+", av.__version__)[:3]) < OLDEST_PYAV:
        oldest = ".".join(str(part) for part in OLDEST_PYAV)
        raise UserError(
            f"data.reader={reader} needs PyAV {oldest} or newer, not {av.__version__}: update av or set data.reader=decord."
        )
    return av


class PyavReader:
    """PyAV, exact by presentation time; see `simvtp.data.video.decord_compatible` for what comes
    from it and is faster.

    Seeks to the key frame before each wanted stretch, does not decode frames that nothing needs
    (`skip_frame`), and stops as soon as the wanted frames are out. Files without usable time stamps
    are decoded from the start.
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
                if (
                    turns is None
                ):  # the container's display matrix is shown with the first frame only
                    turns = next((quarter_turns(frame) for frame in packet.decode()), None)
            height, width = context.height, context.width
            return VideoInfo(
                frames, float(rate), *((width, height) if turns in (1, 3) else (height, width))
            )

    def read(self, path: Path, indices: Sequence[int], size: tuple[int, int] | None) -> np.ndarray:
        wanted = sorted(set(indices))
        with self._open(path) as container:
            stream = container.streams.video[0]
            packets = [
                (p.pts, p.is_keyframe)
                for p in container.demux(stream)
                if p.size and not p.is_discard
            ]
            if wanted and not 0 <= wanted[0] <= wanted[-1] < len(packets):
                raise IndexError(f"frame {wanted[-1]} of {len(packets)}")
            times = [pts for pts, _ in packets]
            found: dict[int, np.ndarray] = {}
            if (
                None not in times
                and len(set(times)) == len(times)
                and any(key for _, key in packets)
            ):
                times.sort()
                keys = sorted(pts for pts, key in packets if key)
                numbers = {times[number]: number for number in wanted}
                for pts, frame in decode_by_time(
                    container, stream, [times[n] for n in wanted], keys
                ):
                    found[numbers[pts]] = upright(frame, size)
        if len(found) < len(wanted):
            found |= self._in_order(path, wanted, lambda frame: upright(frame, size))
        return np.stack([found[number] for number in indices])

    def _in_order(
        self, path: Path, wanted: Sequence[int], convert: Callable[[Any], np.ndarray]
    ) -> dict[int, np.ndarray]:
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
            raise IndexError(
                f"frame {min(set(wanted) - set(found))} is missing: the file is damaged or cut off"
            )
        return found


def prepared(container: Any) -> Any:
    """A container that PyAV has opened, its first video stream decoded by one thread; ValueError if
    it has none.
    """
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
    """uint8 [H, W, 3], RGB: PyAV's frame as it is meant to be seen, resized (bilinear) to (height,
    width) if given.
    """
    turns = quarter_turns(frame)
    if size is not None:
        height, width = size if turns % 2 == 0 else size[::-1]
        frame = frame.reformat(
            width=width, height=height, format="rgb24", interpolation="BILINEAR", threads=1
        )
    pixels = frame.to_ndarray(
        format="rgb24", threads=1
    )  # FFmpeg would start threads for each frame
    return np.rot90(pixels, turns) if turns else pixels


def decode_by_time(
    container: Any, stream: Any, wanted: list[int], keys: list[int]
) -> Iterator[tuple[int, Any]]:
    """Yield (time stamp, frame) for the sorted time stamps `wanted`; `keys`: sorted time stamps of
    the key frames.
    """
    context = stream.codec_context
    segments: list[list[int]] = []
    last = -2
    for pts in wanted:
        group = bisect.bisect_right(keys, pts) - 1
        if (
            group > last + 1 or not segments
        ):  # decoding on through the next group costs less than a seek
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
