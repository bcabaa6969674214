"""The frames of a video, in the order in which they are shown, and where each is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from simvtp.data.video.container.orientation import UPRIGHT, Orientation

WITHOUT_CLOCK = "has no clock (a folder of pictures has none): leave start_s and end_s empty"
UNKNOWN_RATE = 25  # frames per second of a film that does not say


class PacketId(StrEnum):
    """The property of a packet by which it is known again."""

    PTS = "pts"
    POSITION = "pos"
    DTS = "dts"


class FramesContradictTable(Exception):
    """The decoder gave other frames, or in another order, than the table says."""


@dataclass(frozen=True)
class FrameTable:
    """The frames of one video.

    Attributes:
        stream: index of the stream in its container.
        count: number of frames.
        ids: int64 [count], what identifies the packet of each frame; empty = frames can only be
            counted from the beginning.
        by: which property of a packet the ids are.
        keys: int32, positions of frames at which decoding can begin, rising.
        key_ids: int64 [keys], what identifies the packets at which decoding begins.
        seeks: int64 [keys], the time stamps that lead there.
        stamps: int64 [count], when each frame is shown, in units of `unit` seconds; empty = at a
            constant rate.
        unit: seconds.
        fps: frames per second, on average; 0 = unknown.
        size: (height, width) of the first decoded frame, before it is turned upright.
        counted: the order was found by decoding.
        orientation: of the first frame.
        one_stream: the file has no other video stream, not even a cover.
        open_groups: pictures behind a key frame may lean on those before it.
        parsed: FFmpeg splits the stream into pictures by itself (MPEG-TS).
    """

    stream: int
    count: int
    ids: np.ndarray
    by: PacketId
    keys: np.ndarray
    key_ids: np.ndarray
    seeks: np.ndarray
    stamps: np.ndarray
    unit: float
    fps: float
    size: tuple[int, int] = (0, 0)
    counted: bool = False
    orientation: Orientation = UPRIGHT
    one_stream: bool = True
    open_groups: bool = False
    parsed: bool = False

    @property
    def entries(self) -> int:
        """Returns the approximate size of the table, in numbers of 8 bytes."""
        own = 0 if self.stamps is self.ids else len(self.stamps)
        return len(self.ids) + own + len(self.keys)

    @property
    def seekable(self) -> bool:
        return len(self.ids) > 0 and len(self.keys) > 0

    @property
    def has_clock(self) -> bool:
        """Returns whether it is known when frames are shown."""
        return len(self.stamps) > 0 or self.fps > 0

    @property
    def is_plain(self) -> bool:
        """Returns whether decoders that know only time stamps and rotations read it rightly."""
        timed = self.by is PacketId.PTS and self.seekable and not self.counted
        whole = timed and int(self.key_ids[0]) == int(self.ids[0])  # not trimmed by an edit list
        apart = self.one_stream and not self.open_groups and not self.parsed
        return whole and apart and not self.orientation.mirrored

    @property
    def times(self) -> np.ndarray:
        """Returns float64 [count]: seconds from the first frame to each."""
        if len(self.stamps):
            return np.asarray((self.stamps - self.stamps[0]) * self.unit)
        return np.arange(self.count) / (self.fps or UNKNOWN_RATE)

    def with_first_frame(self, size: tuple[int, int], orientation: Orientation) -> FrameTable:
        """Returns the table with what the first decoded frame says of the film."""
        return replace(self, size=size, orientation=orientation)

    def segments(self, wanted: Sequence[int]) -> list[tuple[int, list[int]]]:
        """Returns (index of the key frame, positions) for the sorted positions `wanted`.

        Decoding on through the next group costs less than a seek, so two groups in a row are one
        segment.
        """
        found: list[tuple[int, list[int]]] = []
        last = -2
        groups = np.maximum(np.searchsorted(self.keys, wanted, "right") - 1, 0).tolist()
        for position, group in zip(wanted, groups, strict=True):
            if not found or group > last + 1:
                found.append((group, []))
            found[-1][1].append(position)
            last = group
        return found


def part_of(table: FrameTable, start_s: float | None, end_s: float | None) -> tuple[int, int]:
    """Returns (first, last + 1): the frames that are shown between two times of a film.

    The first is the one that is shown at `start_s`; the last begins before `end_s`. Times are read
    as if rounded to half the shortest distance of two frames, as containers round them.

    Args:
        table: of the film.
        start_s: seconds from its first frame; None = from there.
        end_s: None = to its end.

    Returns:
        At least one frame; (count, count) if the film ends before `start_s`.
    """
    times = table.times
    rounding = shortest_distance(times, table.fps) / 2 * (1 + 1e-6)
    first = 0
    if start_s is not None:
        if start_s >= end_of(times, table.fps) - rounding * (len(times) > 1):
            return table.count, table.count
        first = max(0, int(np.searchsorted(times, start_s + rounding, "left")) - 1)
    last = table.count
    if end_s is not None:
        last = int(np.searchsorted(times, end_s - rounding, "left"))
    return first, max(first + 1, last)


def shortest_distance(times: np.ndarray, fps: float) -> float:
    """Returns the seconds between the two frames that follow each other soonest."""
    if len(times) < 2:
        return 1 / fps if fps else 0.0
    return float(np.diff(times).min())


def end_of(times: np.ndarray, fps: float) -> float:
    """Returns the seconds at which a film ends: its last frame stays for an average one."""
    return float(times[-1]) + (1 / fps if fps else 0.0)
