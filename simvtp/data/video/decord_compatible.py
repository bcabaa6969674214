"""The default reader: the frames of decord, bit for bit, by PyAV, in less time and without decord's
traps.

What makes it fast: key frames are sought by presentation time; pictures that no other needs are not
decoded unless they are wanted; the decoder is drained as soon as the last wanted packet is in; the
table of a file's time stamps is kept, so that a file that was looked at before is not read through
again; one open gives table and frames; opening a file decodes nothing (FFmpeg would decode its
first picture); frames are converted by this thread alone (FFmpeg would start threads for each graph
of filters, and for each frame) straight to their place; clips of shards need no demuxer
(`simvtp.data.video.h264_store`), and their checksum is compared when this process meets them first.

What makes it equal: decord sends frames through FFmpeg's filters `transpose` and `scale`
(bilinear), so this does, too. A plain conversion by PyAV (`data.reader=pyav`) places the chroma
samples elsewhere and differs by 0.1 to 0.4 of 255 in the mean where frames are resized. Two
differences are left: files that are cut off are read as far as they go, where decord gives up
earlier; and behind a seek into groups that lean on the one before (open GOPs) these are the frames
that decoding in order gives, which decord's then are not.
"""

from __future__ import annotations

import io
import itertools
import os
from collections import OrderedDict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from simvtp.data.video.h264_store import StoredClip, stored_clip
from simvtp.data.video.pyav_reader import PyavReader, decode_by_time, prepared, pyav, quarter_turns
from simvtp.data.video.tar_member import file_of, member_bytes, member_part
from simvtp.data.video.video_reader import VideoInfo

KEPT_FRAMES = 2_000_000  # time stamps in the tables that a process keeps, 16 MB
TURNS = {
    0: (),
    1: ("2",),
    2: ("1", "1"),
    3: ("1",),
}  # arguments of FFmpeg's `transpose` by quarter turns counter-clockwise

ANY_CLOCK = Fraction(1, 1000)  # of the filters, none of which asks what time it is

UNDECODED = {"skip_frame": "all"}  # while FFmpeg looks at a stream
Table = tuple[
    np.ndarray, list[int], int
]  # presentation times, sorted, of all frames (int64) and of key frames; number of frames. Empty: unusable
Stamp = tuple[int, int, int]


class FastReader(PyavReader):
    """PyAV with a table of frames for each file and decord's way of resizing."""

    name = "fast"

    def __init__(self) -> None:
        self._tables: OrderedDict[Path, tuple[Stamp, Table | StoredClip]] = OrderedDict()
        self._kept = 0

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    @staticmethod
    def _open(path: Path, member: io.BytesIO | None = None) -> Any:
        av = pyav("fast")
        options: Any = [dict(UNDECODED), dict(UNDECODED)]  # of the first two streams
        content: Any = member or member_bytes(path) or str(path)
        container: Any = av.open(content, stream_options=options)
        if (
            container.streams.video and container.streams.video[0].codec_context.pix_fmt is None
        ):  # a codec that says so by a picture only
            container.close()
            return PyavReader._open(path)
        return prepared(container)

    def probe(self, path: Path) -> VideoInfo:
        with self._open(path) as container:
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate or 0
            packets, turns = [], None
            for packet in container.demux(stream):
                if packet.size and not packet.is_discard:
                    packets.append((packet.pts, packet.is_keyframe))
                if (
                    turns is None
                ):  # the container's display matrix is shown with the first frame only
                    turns = next((quarter_turns(frame) for frame in packet.decode()), None)
            if (
                file_of(path) == path
            ):  # of a member, the bytes themselves are looked at when it is read
                self._keep(path, _table(packets))
            height, width = stream.codec_context.height, stream.codec_context.width
            return VideoInfo(
                len(packets),
                float(rate),
                *((width, height) if turns in (1, 3) else (height, width)),
            )

    def read(self, path: Path, indices: Sequence[int], size: tuple[int, int] | None) -> np.ndarray:
        pyav("fast")
        wanted = sorted(set(indices))
        rows, convert = _Rows(indices), FrameConverter(size)
        known, content = self._known(path), None
        if known is None:
            content = member_bytes(path)
            stored = stored_clip(content.getvalue()) if content is not None else None
            if stored is not None:
                self._keep(path, stored)
                known = stored
        if isinstance(known, StoredClip):
            _inside(wanted, known.frames)
            whole = content.getvalue() if content is not None else b""
            for number, frame in known.decode(
                wanted, lambda a, b: whole[a:b] if whole else member_part(path, a, b)
            ):
                rows.put(number, convert(frame))
            return rows.whole()
        with self._open(path, content) as container:
            stream = container.streams.video[0]
            if known is None:
                known = _table(
                    [
                        (p.pts, p.is_keyframe)
                        for p in container.demux(stream)
                        if p.size and not p.is_discard
                    ]
                )
                self._keep(path, known)
            times, keys, count = known
            _inside(wanted, count)
            if len(keys):
                numbers = {int(times[number]): number for number in wanted}
                for pts, frame in decode_by_time(container, stream, list(numbers), keys):
                    rows.put(numbers[pts], convert(frame))
        if rows.missing:
            for number, pixels in self._in_order(path, sorted(rows.missing), convert).items():
                rows.put(number, pixels)
        return rows.whole()

    def _known(self, path: Path) -> Table | StoredClip | None:
        found = self._tables.get(path)
        if found is None or found[0] != _stamp(path):
            return None
        self._tables.move_to_end(path)
        return found[1]

    def _keep(self, path: Path, table: Table | StoredClip) -> None:
        if path in self._tables:
            self._kept -= _frames_in(self._tables.pop(path)[1])
        self._tables[path] = _stamp(path), table
        self._kept += _frames_in(table)
        while self._kept > KEPT_FRAMES:
            self._kept -= _frames_in(self._tables.popitem(last=False)[1][1])


class _Rows:
    """Where decoded frames go: one array for all, made when the first of them comes."""

    def __init__(self, indices: Sequence[int]) -> None:
        self._count = len(indices)
        self._places: dict[int, list[int]] = {}
        for place, number in enumerate(indices):
            self._places.setdefault(number, []).append(place)
        self._out: np.ndarray | None = None

    @property
    def missing(self) -> set[int]:
        """Numbers of the frames that have not come."""
        return set(self._places)

    def put(self, number: int, pixels: np.ndarray) -> None:
        """Frame `number`, [H, W, 3]; ValueError if it is not as large as the others."""
        if self._out is None:
            self._out = np.empty((self._count, *pixels.shape), np.uint8)
        for place in self._places.pop(number):
            self._out[place] = pixels

    def whole(self) -> np.ndarray:
        """All of them; IndexError if one has not come."""
        if self._out is None or self._places:
            raise IndexError(
                f"frame {min(self._places, default=0)} is missing: the file is damaged or cut off"
            )
        return self._out


def _inside(wanted: Sequence[int], count: int) -> None:
    if wanted and not 0 <= wanted[0] <= wanted[-1] < count:
        raise IndexError(f"frame {wanted[-1]} of {count}")


def _frames_in(table: Table | StoredClip) -> int:
    return table.frames if isinstance(table, StoredClip) else len(table[0])  # 8 bytes each


def _stamp(path: Path) -> Stamp:
    """What changes when another file takes the place of this one."""
    stat = os.stat(file_of(path))
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _table(packets: list[tuple[int | None, bool]]) -> Table:
    times = [pts for pts, _ in packets if pts is not None]
    keys = sorted(pts for pts, key in packets if key and pts is not None)
    if len(set(times)) < len(packets):  # some have none, or the same
        return np.empty(0, np.int64), [], len(packets)
    return np.sort(np.array(times, np.int64)), keys, len(packets)


class FrameConverter:
    """Turns decoded frames into upright RGB of one size, as decord does. One graph of filters
    serves all frames of a kind.

    What comes out may lie in FFmpeg's memory: copy it, or keep it and nothing else of the frame.
    """

    def __init__(self, size: tuple[int, int] | None) -> None:
        from av.video.reformatter import VideoReformatter

        self._size = size
        self._reformatter = VideoReformatter()
        self._graphs: dict[tuple[int, int, str, int], tuple[Any, Any, Any]] = {}

    def __call__(self, frame: Any) -> np.ndarray:
        """uint8 [H, W, 3]."""
        turns = quarter_turns(frame)
        if self._size is None:
            pixels = _pixels(self._reformatter.reformat(frame, format="rgb24", threads=1))
            return np.rot90(pixels, turns) if turns else pixels
        kind = frame.height, frame.width, frame.format.name, turns
        if kind not in self._graphs:
            self._graphs[kind] = self._graph(frame, turns)
        _, source, sink = self._graphs[kind]
        source.push(frame)
        return _pixels(sink.pull())

    def _graph(self, frame: Any, turns: int) -> tuple[Any, Any, Any]:
        from av.filter import Graph

        height, width = self._size or (0, 0)
        graph = Graph()
        graph.threads = 1
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=ANY_CLOCK
        )
        chain = [source, *(graph.add("transpose", turn) for turn in TURNS[turns])]
        chain += [
            graph.add("scale", f"{width}:{height}:flags=bilinear"),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ]
        for one, following in itertools.pairwise(chain):
            one.link_to(following)
        graph.configure()
        return graph, source, chain[-1]


def _pixels(frame: Any) -> np.ndarray:
    """uint8 [H, W, 3]: the memory of a frame in rgb24, without the padding of its lines."""
    plane = frame.planes[0]
    lines = np.frombuffer(plane, np.uint8)[: frame.height * plane.line_size].reshape(
        frame.height, plane.line_size
    )
    return lines[:, : frame.width * 3].reshape(frame.height, frame.width, 3)
