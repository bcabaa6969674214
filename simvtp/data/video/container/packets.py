"""Lists the packets of the stream that is the film, without decoding."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from simvtp.data.video.container.open_container import film_stream, film_streams
from simvtp.data.video.container.picture_types import has_reordered_picture, is_hidden

SCANNED = 64  # packets whose picture types are looked at


@dataclass
class Packets:
    """Properties of the pictures of a stream, in the order of decoding, as demuxed."""

    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    pos: list[int | None] = field(default_factory=list)
    keys: list[bool] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    # Time stamps of key frames that are decoded but not shown (the film was trimmed behind them).
    unseen_keys: list[int] = field(default_factory=list)
    reordered: bool = False  # a picture is of a kind that is shown before one decoded earlier

    def add(self, packet: Any) -> None:
        self.pts.append(packet.pts)
        self.dts.append(packet.dts)
        self.pos.append(packet.pos)
        self.keys.append(packet.is_keyframe)
        self.bytes.append(packet.size)


def counts(packet: Any, codec: str) -> bool:
    """Returns whether a packet holds a picture that is shown."""
    if not packet.size or packet.is_discard:
        return False
    return codec != "vp8" or not is_hidden(packet)


def list_packets(container: Any) -> tuple[Any, Packets]:
    """Reads through a container; returns the stream that is the film, and its packets."""
    streams = film_streams(container)
    if len(streams) == 1:
        return streams[0], _listed(container, streams)[streams[0].index]
    found = _listed(container, streams)
    stream = film_stream(streams, {index: len(p.pts) for index, p in found.items()})
    return stream, found[stream.index]


def _listed(container: Any, streams: list[Any]) -> dict[int, Packets]:
    found = {stream.index: Packets() for stream in streams}
    codecs = {stream.index: stream.codec_context.codec.name for stream in streams}
    latest = {stream.index: -(2**63) for stream in streams}
    for packet in container.demux(streams):
        index = packet.stream.index  # a packet that ends a stream has no number of its own
        packets = found[index]
        if not counts(packet, codecs[index]):
            if packet.is_discard and packet.is_keyframe and packet.pts is not None:
                packets.unseen_keys.append(packet.pts)
            continue
        if not packets.reordered and codecs[index] == "mpeg4":
            packets.reordered = has_reordered_picture(packet, codecs[index])
        elif len(packets.pts) < SCANNED and not packets.reordered and packet.pts is not None:
            if packet.pts < latest[index]:
                latest[index] = 2**63  # the stamps themselves say so: nothing is left to ask
            elif latest[index] < 2**63:
                latest[index] = packet.pts
                packets.reordered = has_reordered_picture(packet, codecs[index])
        packets.add(packet)
    return found


def rising(values: list[int | None]) -> bool:
    """Returns whether all values are known and each is above the one before."""
    if None in values:
        return False
    return all(a < b for a, b in itertools.pairwise(values))  # type: ignore[operator]
