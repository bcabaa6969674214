"""Decodes H.264 clips inside shards without a demuxer.

The position of each frame is read from the mp4's own tables, and a bare decoder gets the bytes.

FFmpeg's demuxer costs 1 ms a clip to open and to list its frames, and reads the whole clip. `data
shard` writes one kind of mp4 only, whose tables are a few hundred bytes: one track, no B-frames
(frames lie in the order in which they are seen), no rotation, no edits. A clip of any other kind is
not described here (None), and is read as ordinary files are.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# A track's display matrix that changes nothing.
UPRIGHT = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
SAMPLE_ENTRY = 78  # bytes of a video's description before its boxes
HARMLESS = {b"avcC", b"btrt", b"pasp"}  # boxes of that description that change no pixel
Stretch = tuple[int, int]  # first frame, last + 1


@dataclass(frozen=True)
class StoredClip:
    """Positions of the frames of a clip.

    Attributes:
        header: what the decoder must know before the first frame (avcC).
        starts: uint32 [frames], bytes from the beginning of the clip.
        sizes: uint32 [frames], bytes.
        keys: int32, numbers of the frames at which decoding can begin, rising; the first is 0.
    """

    header: bytes
    starts: np.ndarray
    sizes: np.ndarray
    keys: np.ndarray

    @property
    def frames(self) -> int:
        return len(self.starts)

    def stretches(self, wanted: Sequence[int]) -> list[Stretch]:
        """Returns what has to be decoded for the frames `wanted` (sorted).

        Each stretch begins at a key frame and ends with a wanted one.
        """
        found: list[Stretch] = []
        for number in wanted:
            key = int(self.keys[np.searchsorted(self.keys, number, "right") - 1])
            if found and key <= found[-1][1]:
                found[-1] = found[-1][0], number + 1
            else:
                found.append((key, number + 1))
        return found

    def decode(
        self, wanted: Sequence[int], read: Callable[[int, int], bytes]
    ) -> Iterator[tuple[int, Any]]:
        """Yields (number, PyAV's frame) of the frames `wanted` (sorted).

        A frame that does not come out is left out. `read` gives the bytes [first, end) of the clip.
        """
        import av

        context: Any = av.CodecContext.create("h264", "r")
        context.extradata = self.header
        context.thread_type = "NONE"
        context.thread_count = 1
        open_frames = set(wanted)

        def asked(frames: list[Any]) -> Iterator[tuple[int, Any]]:
            for frame in frames:
                if frame.pts in open_frames:
                    open_frames.discard(frame.pts)
                    yield frame.pts, frame

        for first, end in self.stretches(
            wanted
        ):  # a key frame makes the decoder forget what was before
            begins = int(self.starts[first])
            content = read(begins, int(self.starts[end - 1]) + int(self.sizes[end - 1]))
            for number in range(first, end):
                start = int(self.starts[number]) - begins
                packet = av.Packet(content[start : start + int(self.sizes[number])])
                packet.pts = packet.dts = number
                yield from asked(context.decode(packet))
        yield from asked(context.decode(None))


def stored_clip(content: bytes) -> StoredClip | None:
    """Returns the tables of a clip as `data shard` writes it; None for any other kind of file."""
    try:
        return _parsed(content)
    except (
        struct.error,
        IndexError,
        ValueError,
        KeyError,
    ):  # another kind of file: what was looked for is not where it should be
        return None


Boxes = dict[
    bytes, list[tuple[int, int]]
]  # kind -> [(first byte of what it holds, the one after its last)]


def _boxes(content: bytes, first: int, end: int) -> Boxes:
    found: Boxes = {}
    while first + 8 <= end:
        size, kind = struct.unpack_from(">I4s", content, first)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", content, first + 8), 16
        size = size or end - first
        if size < head or first + size > end:
            raise ValueError("a box reaches beyond the one that holds it")
        found.setdefault(kind, []).append((first + head, first + size))
        first += size
    return found


def _inside(content: bytes, boxes: Boxes, *kinds: bytes) -> Boxes:
    """Returns the boxes inside a path of boxes, of which there must be one of each kind.

    Raises:
        KeyError: there is none.
        ValueError: there are several.
    """
    for kind in kinds:
        (place,) = boxes[kind]
        boxes = _boxes(content, *place)
    return boxes


def _parsed(content: bytes) -> StoredClip | None:
    movie = _inside(content, _boxes(content, 0, len(content)), b"moov")
    track = _inside(content, movie, b"trak")
    ((head, _),) = track[b"tkhd"]
    matrix = head + (52 if content[head] == 1 else 40)
    if content[matrix : matrix + 36] != UPRIGHT or not _unedited(content, track):
        return None
    table = _inside(content, track, b"mdia", b"minf", b"stbl")
    ((described, end),) = table[b"stsd"]
    size, kind = struct.unpack_from(">I4s", content, described + 8)
    if (
        kind != b"avc1" or described + 8 + size != end or b"ctts" in table
    ):  # ctts: not shown in the order of decoding
        return None
    description = _boxes(content, described + 16 + SAMPLE_ENTRY, end)
    if not set(description) <= HARMLESS:
        return None
    ((first, last),) = description[b"avcC"]
    starts, sizes = _places(content, table)
    keys = (
        _numbers(content, table[b"stss"][0][0] + 4)[:, 0] - 1
        if b"stss" in table
        else np.arange(len(sizes))
    )
    rising = len(keys) and keys[0] == 0 and keys[-1] < len(sizes) and (np.diff(keys) > 0).all()
    if (
        not rising
        or (starts + sizes).max() > min(len(content), 2**32 - 1)
        or (starts[1:] < starts[:-1] + sizes[:-1]).any()
    ):
        return None
    return StoredClip(
        content[first:last],
        starts.astype(np.uint32),
        sizes.astype(np.uint32),
        keys.astype(np.int32),
    )


def _unedited(content: bytes, track: Boxes) -> bool:
    """Returns whether all of the track is shown, from its first frame on."""
    if b"edts" not in track:
        return True
    ((first, _),) = _inside(content, track, b"edts")[b"elst"]
    count, media_time = (
        struct.unpack_from(">I", content, first + 4)[0],
        struct.unpack_from(">i", content, first + 12)[0],
    )
    return content[first] == 0 and count == 1 and media_time == 0


def _numbers(content: bytes, first: int, columns: int = 1, kind: str = ">u4") -> np.ndarray:
    """Returns int64 [n, columns]: a table that begins with the number of its rows."""
    (count,) = struct.unpack_from(">I", content, first)
    return (
        np.frombuffer(content, kind, count * columns, first + 4)
        .astype(np.int64)
        .reshape(count, columns)
    )


def _places(content: bytes, table: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """Returns int64 [frames] each: the first bytes of frames, and their sizes."""
    ((first, _),) = table[b"stsz"]
    (fixed,) = struct.unpack_from(">I", content, first + 4)
    (count,) = struct.unpack_from(">I", content, first + 8)
    if fixed * count > len(content):
        raise ValueError("more frames than there are bytes")
    sizes = np.full(count, fixed, np.int64) if fixed else _numbers(content, first + 8)[:, 0]
    wide = b"co64" in table
    ((first, _),) = table[b"co64" if wide else b"stco"]
    chunks = _numbers(content, first + 4, kind=">u8" if wide else ">u4")[:, 0]
    ((first, _),) = table[b"stsc"]
    runs = _numbers(
        content, first + 4, 3
    )  # (first chunk from 1, frames in each chunk from there on, description)
    lengths = np.diff(np.append(runs[:, 0] - 1, len(chunks)))
    held = np.repeat(runs[:, 1], lengths)  # frames in each chunk
    if held.sum() != len(sizes) or len(held) != len(chunks):
        raise ValueError("the tables do not fit each other")
    before = np.cumsum(sizes) - sizes  # bytes of the frames before each
    firsts = np.cumsum(held) - held  # number of the first frame in each chunk
    return before + np.repeat(chunks - before[firsts], held), sizes
