"""Reads video files with PyAV: frames by their position in the film, found through its table.

`simvtp.data.video.decord_compatible` builds on it and gives decord's pixels.
"""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from simvtp.data.video.container.frame_order import (
    agrees_with_decoder,
    decode_in_order,
    is_doubtful,
    table_by_decoding,
    table_of_stamps,
)
from simvtp.data.video.container.frame_table import FramesContradictTable, FrameTable, PacketId
from simvtp.data.video.container.open_container import open_container
from simvtp.data.video.container.orientation import orientation_of
from simvtp.data.video.container.packets import list_packets
from simvtp.data.video.h264_store import StoredClip
from simvtp.data.video.tar_member import file_of, member_bytes
from simvtp.data.video.video_reader import VideoInfo

KEPT_FRAMES = 2_000_000  # time stamps in the tables that a process keeps, 16 MB
FileStamp = tuple[int, int, int]


class FrameTables:
    """The tables of the videos that a process met last; one of a file that changed is dropped."""

    def __init__(self) -> None:
        self._tables: OrderedDict[Path, tuple[FileStamp, FrameTable | StoredClip]] = OrderedDict()
        self.entries = 0

    def __iter__(self) -> Iterator[Path]:
        return iter(self._tables)

    def get(self, path: Path) -> FrameTable | StoredClip | None:
        """Returns the table of a video, or None; OSError if the file is gone."""
        found = self._tables.get(path)
        if found is None or found[0] != _file_stamp(path):
            return None
        self._tables.move_to_end(path)
        return found[1]

    def keep(self, path: Path, table: FrameTable | StoredClip) -> None:
        if path in self._tables:
            self.entries -= _entries(self._tables.pop(path)[1])
        self._tables[path] = _file_stamp(path), table
        self.entries += _entries(table)
        while self.entries > KEPT_FRAMES and len(self._tables) > 1:
            self.entries -= _entries(self._tables.popitem(last=False)[1][1])


def _entries(table: FrameTable | StoredClip) -> int:
    return table.frames if isinstance(table, StoredClip) else max(1, table.entries)


def _file_stamp(path: Path) -> FileStamp:
    """Returns what changes when another file takes the path of this one."""
    stat = os.stat(file_of(path))
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


class PyavReader:
    """PyAV with a table of frames for each file (see `frame_table`).

    Seeks to the key frame before each wanted stretch, does not decode frames that nothing needs
    (`skip_frame`), and stops as soon as the wanted frames are out.
    """

    name = "pyav"

    def __init__(self) -> None:
        self.tables = FrameTables()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    def open(self, path: Path, content: io.BytesIO | None = None) -> Any:
        """Returns PyAV's container of a file."""
        return open_container(path, content, self.name)

    def converter(self, size: tuple[int, int] | None) -> Callable[[Any], np.ndarray]:
        """Returns a function from PyAV's frame to uint8 [H, W, 3], upright, of `size` if given."""
        return lambda frame: upright(frame, size)

    def frame_table(self, path: Path, content: io.BytesIO | None = None) -> FrameTable:
        """Returns the table of a film, from memory if it was looked at before.

        Raises:
            DataError, or whatever PyAV raises: the film cannot be read.
        """
        found = self.tables.get(path)
        if isinstance(found, FrameTable):
            return found
        with self.open(path, content) as container:
            stream, packets = list_packets(container)
            table = table_of_stamps(container, stream, packets)
            doubtful = table is not None and is_doubtful(container, stream, packets)
            index, several = stream.index, len(container.streams.video) > 1
            first = None
            if table is not None and not doubtful and table.seekable:
                first = _first_frame(decode_by_table(container, stream, table, [0]))
        if doubtful and table is not None:
            with self.open(path) as container:
                if not agrees_with_decoder(container, container.streams[table.stream], table):
                    table = None
        table = self._completed(path, table, index, first)
        if several:
            table = replace(table, one_stream=False)
            self.tables.keep(path, table)
        return table

    def count_by_decoding(self, path: Path, table: FrameTable) -> FrameTable:
        """Returns the table that decoding gives, in place of one that the decoder contradicted.

        Raises:
            DataError: the film is damaged.
        """
        if table.counted:  # seeking leads astray: count from the beginning
            table = replace(table, ids=table.ids[:0], keys=table.keys[:0], seeks=table.seeks[:0])
            self.tables.keep(path, table)
            return table
        return self._completed(path, None, table.stream)

    def _completed(
        self, path: Path, table: FrameTable | None, stream: int, first: Any = None
    ) -> FrameTable:
        """Returns the table with what the first frame says, and keeps it.

        Args:
            path: of the film.
            table: None = decode the film to see the order of its frames.
            stream: index of the stream.
            first: the first frame, if it was decoded already.
        """
        if table is None:
            with self.open(path) as container:
                table = table_by_decoding(container, container.streams[stream])
            table = replace(table, counted=True)
        first = first or _first_frame(self._decoded(path, table, [0]))
        if first is None and not table.counted:
            return self._completed(path, None, stream)
        if first is None:
            table = replace(table, ids=table.ids[:0], keys=table.keys[:0])
            first = _first_frame(self._decoded(path, table, [0]))
        if first is None:
            raise IndexError("it has no frame that decodes")
        table = table.with_first_frame((first.height, first.width), orientation_of(first))
        self.tables.keep(path, table)
        return table

    def probe(self, path: Path) -> VideoInfo:
        """Returns what the film holds; sizes are those of the upright picture."""
        # Of a member of a shard the checksum is compared each time.
        table = self.frame_table(path, member_bytes(path))
        return VideoInfo(table.count, table.fps, *table.orientation.size(*table.size))

    def read(self, path: Path, indices: Sequence[int], size: tuple[int, int] | None) -> np.ndarray:
        """Returns uint8 [n, H, W, 3]; see `Reader`."""
        return self.read_film(path, indices, size)

    def read_film(
        self,
        path: Path,
        indices: Sequence[int],
        size: tuple[int, int] | None,
        content: io.BytesIO | None = None,
    ) -> np.ndarray:
        """Returns uint8 [n, H, W, 3] of a film that needs a demuxer.

        Raises:
            IndexError: a frame is outside, or missing.
        """
        wanted = sorted(set(indices))
        table = self.frame_table(path, content)
        for _ in range(3):  # the table may be replaced twice: counted, then without seeking
            check_inside(wanted, table.count)
            rows, convert = FrameRows(indices), self.converter(size)
            try:
                for position, frame in self._decoded(path, table, wanted, content):
                    rows.put(position, self._converted(frame, convert, size, table))
                return rows.all()
            except FramesContradictTable:
                table = self.count_by_decoding(path, table)
        raise IndexError(f"frame {wanted[0]} is missing: the file is damaged or cut off")

    def scan(self, path: Path, size: tuple[int, int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (position, uint8 [H, W, 3]) of all frames, decoded once from the beginning.

        If the decoder contradicts the table, positions begin at 0 again.

        Raises:
            DataError, or whatever PyAV raises: the film does not decode to its end.
        """
        table = self.frame_table(path)
        for attempt in range(3):  # the table may be replaced twice: counted, then without seeking
            convert = self.converter(size)
            try:
                for position, frame in self._decoded(path, table, range(table.count)):
                    yield position, convert(frame)
                return
            except FramesContradictTable:
                if attempt == 2:
                    raise IndexError("its frames come in another order each time") from None
                table = self.count_by_decoding(path, table)

    def frames(
        self, path: Path, table: FrameTable, wanted: Sequence[int]
    ) -> Generator[tuple[int, Any]]:
        """Yields (position, PyAV's frame) for the rising positions `wanted`.

        Raises:
            FramesContradictTable: ask `count_by_decoding` for another table, and begin again.
        """
        return self._decoded(path, table, wanted)

    def _converted(
        self,
        frame: Any,
        convert: Callable[[Any], np.ndarray],
        size: tuple[int, int] | None,
        table: FrameTable,
    ) -> np.ndarray:
        """Returns the pixels; a film that changes its size keeps that of its first frame."""
        if size is None and (frame.height, frame.width) != table.size:
            return self.converter(orientation_of(frame).size(*table.size))(frame)
        return convert(frame)

    def _decoded(
        self,
        path: Path,
        table: FrameTable,
        wanted: Sequence[int],
        content: io.BytesIO | None = None,
    ) -> Generator[tuple[int, Any]]:
        with self.open(path, content) as container:
            stream = container.streams[table.stream]
            if table.seekable:
                yield from decode_by_table(container, stream, table, wanted)
            else:
                yield from _counted_off(decode_in_order(container, stream), wanted)


class FrameRows:
    """Collects decoded frames: one array for all, made when the first of them comes."""

    def __init__(self, indices: Sequence[int]) -> None:
        self._count = len(indices)
        self._rows: dict[int, list[int]] = {}
        for row, position in enumerate(indices):
            self._rows.setdefault(position, []).append(row)
        self._out: np.ndarray | None = None

    @property
    def missing(self) -> set[int]:
        """Returns the positions of the frames that have not come."""
        return set(self._rows)

    def put(self, position: int, pixels: np.ndarray) -> None:
        """Stores frame `position`, [H, W, 3]; ValueError if it is not as large as the others."""
        if self._out is None:
            self._out = np.empty((self._count, *pixels.shape), np.uint8)
        for row in self._rows.pop(position):
            self._out[row] = pixels

    def all(self) -> np.ndarray:
        """Returns uint8 [n, H, W, 3]; IndexError if a frame has not come."""
        if self._out is None or self._rows:
            raise IndexError(
                f"frame {min(self._rows, default=0)} is missing: the file is damaged or cut off"
            )
        return self._out


def _first_frame(frames: Iterator[tuple[int, Any]]) -> Any:
    """Returns the first frame, or None if the table does not lead to it."""
    try:
        return next(frames)[1]
    except (FramesContradictTable, StopIteration):
        return None


def check_inside(wanted: Sequence[int], count: int) -> None:
    """Raises IndexError if a position of the sorted `wanted` is none of `count` frames."""
    if wanted and not 0 <= wanted[0] <= wanted[-1] < count:
        raise IndexError(f"frame {wanted[-1]} of {count}")


def upright(frame: Any, size: tuple[int, int] | None = None) -> np.ndarray:
    """Returns uint8 [H, W, 3], RGB: PyAV's frame as it is meant to be seen.

    Args:
        frame: of a decoder.
        size: (height, width) to resize to (bilinear), of the upright picture.
    """
    orientation = orientation_of(frame)
    if size is not None:
        height, width = orientation.size(*size)
        frame = frame.reformat(
            width=width, height=height, format="rgb24", interpolation="BILINEAR", threads=1
        )
    # FFmpeg would start threads for each frame.
    return orientation.upright(frame.to_ndarray(format="rgb24", threads=1))


def decode_by_table(
    container: Any, stream: Any, table: FrameTable, wanted: Sequence[int]
) -> Iterator[tuple[int, Any]]:
    """Yields (position, frame) for the sorted positions `wanted`, by seeking to key frames.

    Raises:
        FramesContradictTable: a frame does not come, or not in the order of the table.
    """
    context = stream.codec_context
    by_pts, by_dts = table.by is PacketId.PTS, table.by is PacketId.DTS
    for key, segment in table.segments(wanted):
        seek = int(table.seeks[key])
        key_id = int(table.key_ids[key])
        remaining = {int(table.ids[position]): position for position in segment}
        unfed, begun, last = set(remaining), False, -1
        container.seek(seek, stream=stream, backward=True)
        for packet in container.demux(stream):
            if not by_pts:
                packet.pts = packet.dts if by_dts else packet.pos
            identity = packet.pts
            begun = begun or identity == key_id
            context.skip_frame = "DEFAULT" if identity in unfed else "NONREF"
            unfed.discard(identity)
            frames = packet.decode()
            if not unfed and packet.size:
                context.skip_frame = "DEFAULT"
                frames = [*frames, *context.decode(None)]
            for frame in frames:
                position = remaining.pop(frame.pts, None)
                if position is None:
                    continue
                if position < last or not begun:
                    raise FramesContradictTable
                last = position
                yield position, frame
            if not unfed:
                break
        if remaining:
            raise FramesContradictTable


def _counted_off(frames: Iterator[Any], wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
    left = set(wanted)
    for position, frame in enumerate(frames):
        if position in left:
            left.discard(position)
            yield position, frame
        if not left:
            return
    if left:
        raise IndexError(f"frame {min(left)} is missing: the file is damaged or cut off")
