"""The default reader: decord's frames, bit for bit, by PyAV, in less time and without its traps.

It is fast because key frames are sought by time stamp; pictures that no other needs are not decoded
unless they are wanted; the decoder is drained as soon as the last wanted packet is in; the table of
a file's frames is kept, so that a file that was looked at before is not read through again; opening
a file decodes nothing (FFmpeg would decode its first picture); frames are converted by this thread
alone (FFmpeg would start threads for each graph of filters, and for each frame) straight into the
result; clips of shards need no demuxer (`simvtp.data.video.h264_store`), and their checksum is
compared when this process meets them first.

It is equal because decord sends frames through FFmpeg's filters `transpose` and `scale` (bilinear),
so this does, too. A plain conversion by PyAV (`data.reader=pyav`) samples the chroma elsewhere and
differs by 0.1 to 0.4 of 255 in the mean where frames are resized. Differences that are left are in
docs/data.md ("What is read, what is refused, and why"): decord is not asked for films on which it
is wrong (`simvtp.data.video.readers`).
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from simvtp.data.video.container.frame_table import FrameTable
from simvtp.data.video.container.open_container import pyav
from simvtp.data.video.container.orientation import UPRIGHT, Orientation, orientation_of
from simvtp.data.video.h264_store import StoredClip, stored_clip
from simvtp.data.video.pyav_reader import FrameRows, PyavReader, check_inside
from simvtp.data.video.tar_member import member_bytes, member_part

ANY_CLOCK = Fraction(1, 1000)  # of the filters, none of which asks what time it is


class FastReader(PyavReader):
    """PyAV with decord's way of resizing, and without a demuxer for clips of shards."""

    name = "fast"

    def converter(self, size: tuple[int, int] | None) -> Callable[[Any], np.ndarray]:
        """Returns a function from PyAV's frame to uint8 [H, W, 3]; copy what it returns."""
        return FrameConverter(size)

    def read(self, path: Path, indices: Sequence[int], size: tuple[int, int] | None) -> np.ndarray:
        """Returns uint8 [n, H, W, 3]; see `Reader`."""
        pyav("fast")
        known, content = self.tables.get(path), None
        if known is None:
            content = member_bytes(path)
            stored = stored_clip(content.getvalue()) if content is not None else None
            if stored is not None:
                self.tables.keep(path, stored)
                known = stored
        if isinstance(known, StoredClip):
            return _read_stored(path, known, indices, size, content)
        return self.read_film(path, indices, size, content)

    def frame_table(self, path: Path, content: io.BytesIO | None = None) -> FrameTable:
        """Returns the table of a film; that of a clip in a shard is not kept (it has its own)."""
        known = self.tables.get(path)
        table = super().frame_table(path, content)
        if isinstance(known, StoredClip):
            self.tables.keep(path, known)
        return table


def _read_stored(
    path: Path,
    clip: StoredClip,
    indices: Sequence[int],
    size: tuple[int, int] | None,
    content: io.BytesIO | None,
) -> np.ndarray:
    """Returns frames of a clip as `data shard` writes it."""
    wanted = sorted(set(indices))
    check_inside(wanted, clip.frames)
    rows, convert = FrameRows(indices), FrameConverter(size, upright=True)
    whole = content.getvalue() if content is not None else b""

    def part(first: int, end: int) -> bytes:
        return whole[first:end] if whole else member_part(path, first, end)

    for position, frame in clip.decode(wanted, part):
        rows.put(position, convert(frame))
    return rows.all()


class FrameConverter:
    """Turns decoded frames into upright RGB of one size, as decord does.

    One graph of filters serves all frames of a kind. The pixels may lie in FFmpeg's memory: copy
    them, or keep them and nothing else of the frame.

    Args:
        size: (height, width); None = that of each frame.
        upright: no frame has a display matrix.
    """

    def __init__(self, size: tuple[int, int] | None, upright: bool = False) -> None:
        from av.video.reformatter import VideoReformatter

        self._size, self._upright = size, upright
        self._reformatter = VideoReformatter()
        self._graphs: dict[tuple[int, int, str, Orientation], tuple[Any, Any, Any]] = {}

    def __call__(self, frame: Any) -> np.ndarray:
        """Returns uint8 [H, W, 3]."""
        orientation = UPRIGHT if self._upright else orientation_of(frame)
        if self._size is None:
            pixels = _pixels(self._reformatter.reformat(frame, format="rgb24", threads=1))
            return orientation.upright(pixels)
        kind = frame.height, frame.width, frame.format.name, orientation
        if kind not in self._graphs:
            self._graphs[kind] = self._graph(frame, orientation)
        _, source, sink = self._graphs[kind]
        source.push(frame)
        return _pixels(sink.pull())

    def _graph(self, frame: Any, orientation: Orientation) -> tuple[Any, Any, Any]:
        from av.filter import Graph

        height, width = self._size or (0, 0)
        graph = Graph()
        graph.threads = 1
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=ANY_CLOCK
        )
        chain = [source, *(graph.add(name, how) for name, how in orientation.filters())]
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
    """Returns uint8 [H, W, 3]: the memory of a frame in rgb24, without the padding of its lines."""
    plane = frame.planes[0]
    lines = np.frombuffer(plane, np.uint8)[: frame.height * plane.line_size].reshape(
        frame.height, plane.line_size
    )
    return lines[:, : frame.width * 3].reshape(frame.height, frame.width, 3)
