"""Finds the order of a film's frames: from believable time stamps, else by decoding.

Frames are what FFmpeg's decoder puts out, in its order. Where the container knows when each frame
is shown (mp4, Matroska, MPEG-TS, FLV), the order is read off its time stamps without decoding.
Containers without true presentation times (AVI, ASF, raw streams) make stamps up: if the codec may
reorder its pictures, such a film is decoded once to see the order. So is one whose stamps
contradict themselves or the pictures: repeated or falling stamps (two recordings in one file), no
reordering although there are B-pictures, a beginning between key frames.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from simvtp.data.video.container.frame_table import FrameTable, PacketId
from simvtp.data.video.container.packets import Packets, counts, rising
from simvtp.errors import DataError

# Containers whose presentation times are those of the film.
TIMED = {"mov", "mp4", "matroska", "webm", "mpegts", "flv", "nut"}
# Containers in which a packet is found by its decoding time.
SOUGHT_BY_DTS = {*TIMED, "asf", "avi"}
# FFmpeg splits these streams by itself and may be wrong about what one picture is.
PARSED = {"mpegts"}
PREFIX = 48  # packets that are decoded to compare their order with the stamps
LEADING = 16  # pictures behind the first key frame that may lean on what was cut off before it
LONGEST_GAP_S = 600  # between two frames; more is taken for a broken time stamp
PALETTE = "pal8"  # pixels whose colours come with the first packet only
OTHER_RATE = 0.1  # difference of two rates, as a ratio, that rounding does not explain
TINY = 16  # bytes of a packet that repeats a picture (packed MPEG-4)


def table_of_stamps(container: Any, stream: Any, packets: Packets) -> FrameTable | None:
    """Returns the table that the container's time stamps give; None if they cannot be believed."""
    formats = set(container.format.name.split(","))
    context = stream.codec_context
    count = len(packets.pts)
    if not count:
        return None
    if formats & TIMED and _believable(packets):
        stamps = np.sort(np.array(packets.pts, np.int64))
        shown = [n for n, key in enumerate(packets.keys) if key]
        keys: list[Any] = sorted([*packets.unseen_keys, *(packets.pts[n] for n in shown)])
        # MPEG-TS is searched by decoding time, which is earlier.
        seeks = [packets.dts[n] for n in shown] if formats & PARSED else [*keys]
        positions = np.searchsorted(stamps, np.array(keys, np.int64))
        if context.pix_fmt == PALETTE:
            nothing = np.empty(0, np.int64)
            by = PacketId.PTS
            return _table(stream, nothing, by, nothing, nothing, nothing, stamps, count)
        table = _table(stream, stamps, PacketId.PTS, positions, keys, seeks, stamps)
        return replace(table, open_groups=_leans_back(packets), parsed=bool(formats & PARSED))
    if context.codec.reorder and not _has_no_b_pictures(packets, context.codec.name):
        return None
    order = np.arange(count)
    return _table_in_order(stream, packets, order, formats)


def is_doubtful(container: Any, stream: Any, packets: Packets) -> bool:
    """Returns whether the first pictures must be decoded before the stamps are believed."""
    context = stream.codec_context
    if not context.codec.reorder:
        return False
    if PARSED & set(container.format.name.split(",")):
        return True
    stamps = [stamp for stamp in packets.pts if stamp is not None]
    if any(a > b for a, b in itertools.pairwise(stamps)):
        return False
    known = context.codec.name in ("h264", "mpeg4", "mpeg2video", "mpeg1video")
    return packets.reordered if known else bool(context.has_b_frames)


def _leans_back(packets: Packets) -> bool:
    """Returns whether a picture is decoded behind a key frame and shown before it."""
    latest = None
    for pts, key in zip(packets.pts, packets.keys, strict=True):
        if key:
            latest = pts
        elif latest is not None and pts is not None and pts < latest:
            return True
    return False


def _has_no_b_pictures(packets: Packets, codec: str) -> bool:
    """Returns whether MPEG-4 pictures come out in the order in which they are decoded."""
    return codec == "mpeg4" and not packets.reordered and min(packets.bytes) > TINY


def _believable(packets: Packets) -> bool:
    """Returns whether stamps do not contradict themselves, and the film begins with a key frame."""
    pts, dts = packets.pts, packets.dts
    if None in pts or len(set(pts)) < len(pts):
        return False
    known_pts = [stamp for stamp in pts if stamp is not None]
    if not packets.unseen_keys and (not packets.keys[0] or min(known_pts) != pts[0]):
        return False
    known = [stamp for stamp in dts if stamp is not None]
    pairs = zip(pts, dts, strict=True)
    shown_late = all(d is None or p is None or d <= p for p, d in pairs)
    return rising(list(known)) and shown_late


def _table(
    stream: Any,
    ids: np.ndarray,
    by: PacketId,
    keys: np.ndarray,
    key_ids: Sequence[int] | np.ndarray,
    seeks: Sequence[int | None] | np.ndarray,
    stamps: np.ndarray,
    count: int | None = None,
) -> FrameTable:
    unit = float(stream.time_base or 0)
    fps = float(stream.average_rate or stream.guessed_rate or 0)
    gaps = np.diff(stamps) * unit
    if len(gaps) and gaps.max() > LONGEST_GAP_S:
        stamps, fps = np.empty(0, np.int64), 1 / max(float(np.median(gaps)), 1e-3)
    return FrameTable(
        stream=stream.index,
        count=len(ids) if count is None else count,
        ids=ids,
        by=by,
        keys=np.asarray(keys, np.int32),
        key_ids=np.asarray(key_ids, np.int64),
        seeks=np.asarray(seeks, np.int64),
        stamps=stamps,
        unit=unit,
        fps=fps,
    )


def _table_in_order(
    stream: Any, packets: Packets, order: np.ndarray, formats: set[str]
) -> FrameTable:
    """Returns the table of frames that come from the packets `order`, numbered as decoded."""
    by, values = PacketId.POSITION, packets.pos
    timed = rising(packets.dts)
    if not rising(values) and formats & SOUGHT_BY_DTS:
        by, values = PacketId.DTS, packets.dts
    palette = stream.codec_context.pix_fmt == PALETTE
    nothing = np.empty(0, np.int64)
    # AVI counts its chunks; where pictures are reordered, some hold two of them, and some none.
    clocked = timed and not ("avi" in formats and stream.codec_context.codec.reorder)
    stamps = np.sort(np.array(packets.dts, np.int64)[order]) if clocked else nothing
    rate = 0.0 if clocked or not timed else _rate_of_chunks(stream, packets)
    if not rising(values) or not timed or palette or not formats & SOUGHT_BY_DTS:
        table = _table(stream, nothing, by, nothing, nothing, nothing, stamps, len(order))
        return replace(table, fps=rate or table.fps)
    ids = np.array(values, np.int64)[order]
    shown = np.full(len(values), -1)
    shown[order] = np.arange(len(order))
    keys = [(int(shown[n]), n) for n, key in enumerate(packets.keys) if key and shown[n] >= 0]
    keys.sort()
    seeks = [packets.dts[number] for _, number in keys]
    positions = np.array([position for position, _ in keys], np.int32)
    table = _table(stream, ids, by, positions, ids[positions], seeks, stamps)
    return replace(table, fps=rate or table.fps)


def _rate_of_chunks(stream: Any, packets: Packets) -> float:
    """Returns frames per second of an AVI whose header names another rate; 0 where it does not.

    Films that were copied into AVI have hundreds of chunks a second, most of them empty.
    """
    named = float(stream.average_rate or stream.guessed_rate or 0)
    first, last = packets.dts[0], packets.dts[-1]
    if len(packets.dts) < 2 or first is None or last is None or not named:
        return 0.0
    found = (len(packets.dts) - 1) / ((last - first) * float(stream.time_base))
    return found if abs(found / named - 1) > OTHER_RATE else 0.0


def decode_in_order(container: Any, stream: Any) -> Iterator[Any]:
    """Yields all frames from the beginning of a film.

    Errors before the first frame are passed over: a recording may begin between two key frames.
    """
    from av.error import InvalidDataError

    begun = False
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except InvalidDataError:
            if begun:
                raise
            continue
        for frame in frames:
            begun = True
            yield frame


def agrees_with_decoder(container: Any, stream: Any, table: FrameTable) -> bool:
    """Returns whether the first packets decode to the frames of the table, in its order."""
    from av.error import FFmpegError

    context, fed, frames = stream.codec_context, 0, []
    codec = context.codec.name
    try:
        for packet in container.demux(stream):
            fed += counts(packet, codec)
            frames += packet.decode()
            if fed >= PREFIX and packet.size:
                frames += context.decode(None)
                break
    except FFmpegError:
        return False
    found = [frame.pts for frame in frames]
    return len(found) == fed and found == sorted(found) and set(found) <= set(table.ids.tolist())


def table_by_decoding(container: Any, stream: Any) -> FrameTable:
    """Returns the table that decoding a whole film gives.

    Pictures are decoded without their last steps (filters, transforms), which do not change their
    order.

    Raises:
        DataError: frames are missing that the film should have: it is damaged or cut off. PyAV's
            own errors pass through.
    """
    from av.error import InvalidDataError

    context = stream.codec_context
    context.options = {"skip_loop_filter": "all", "skip_idct": "all"}
    codec, packets = context.codec.name, Packets()
    order: list[int | None] = []
    interlaced = False
    for packet in container.demux(stream):
        shown = counts(packet, codec)
        if shown:
            packets.add(packet)
        packet.pts = len(packets.pts) - 1 if shown else None
        try:
            frames = packet.decode()
        except InvalidDataError:
            if order:
                raise
            continue
        for frame in frames:
            interlaced |= frame.interlaced_frame
            order.append(frame.pts)
    _refuse_lost(packets, order, interlaced, codec)
    formats = set(container.format.name.split(","))
    if None in order or len(set(order)) < len(order):
        nothing = np.empty(0, np.int64)
        by = PacketId.POSITION
        return _table(stream, nothing, by, nothing, nothing, nothing, nothing, len(order))
    return _table_in_order(stream, packets, np.array(order, np.int64), formats)


def _refuse_lost(packets: Packets, order: list[int | None], interlaced: bool, codec: str) -> None:
    """Raises DataError if packets gave no frame for no good reason."""
    lost = sorted(set(range(len(packets.pts))) - set(order))
    if not order or not lost:
        return
    if interlaced and len(packets.pts) <= 2 * len(order):
        return  # a packet for each field
    known = [number for number in order if number is not None]
    begun = known[0] + LEADING if known else LEADING
    tiny = codec == "mpeg4"
    for number in lost:
        if number > begun and not (tiny and packets.bytes[number] <= TINY):
            raise DataError(
                f"frame {number} of {len(packets.pts)} is missing: the file is damaged or cut off"
            )
