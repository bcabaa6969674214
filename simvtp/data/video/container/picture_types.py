"""Looks into packets for the kind of picture that they hold, without decoding."""

from __future__ import annotations

from typing import Any

SEARCHED = 4096  # bytes in which a picture's header must begin
B_PICTURE = 1  # slice_type of H.264, modulo 5
EXTRADATA_AVCC = 1  # first byte of the description of H.264 with lengths in place of start codes


def is_hidden(packet: Any) -> bool:
    """Returns whether a packet of VP8 holds a picture that is never shown (a reference only)."""
    return not memoryview(packet)[0] & 0x10


def has_reordered_picture(packet: Any, codec: str) -> bool:
    """Returns whether a packet holds a B-picture; False for codecs that are not looked into."""
    if codec == "h264":
        return _h264(packet)
    if codec == "mpeg4":
        return _after(packet, b"\x00\x00\x01\xb6", lambda tail: tail[0] >> 6 == 2)
    if codec in ("mpeg2video", "mpeg1video"):
        return _after(packet, b"\x00\x00\x01\x00", lambda tail: tail[1] >> 3 & 7 == 3)
    return False


def _after(packet: Any, code: bytes, test: Any) -> bool:
    content = bytes(memoryview(packet)[:SEARCHED])
    first = content.find(code)
    while first >= 0:
        tail = content[first + 4 : first + 8]
        if len(tail) > 1 and test(tail):
            return True
        first = content.find(code, first + 4)
    return False


def _h264(packet: Any) -> bool:
    extradata = packet.stream.codec_context.extradata
    content = memoryview(packet)
    if extradata and extradata[0] == EXTRADATA_AVCC:
        return _with_lengths(content, (extradata[4] & 3) + 1)
    head = bytes(content[:SEARCHED])
    first = head.find(b"\x00\x00\x01")
    while first >= 0:
        if _is_b_slice(head[first + 3 : first + 12]):
            return True
        first = head.find(b"\x00\x00\x01", first + 3)
    return False


def _with_lengths(content: memoryview, width: int) -> bool:
    first = 0
    while first + width < len(content):
        size = int.from_bytes(content[first : first + width], "big")
        first += width
        if _is_b_slice(bytes(content[first : first + 9])):
            return True
        first += size
    return False


def _is_b_slice(unit: bytes) -> bool:
    """Returns whether a unit of H.264 is a slice of a B-picture."""
    if len(unit) < 2 or unit[0] & 31 not in (1, 5):
        return False
    bits = int.from_bytes(unit[1:], "big")
    left = 8 * (len(unit) - 1)
    values = []
    for _ in range(2):  # first macroblock, slice type: Exp-Golomb codes
        zeros = 0
        while left > 0 and not bits >> (left - 1) & 1:
            zeros, left = zeros + 1, left - 1
        if left < zeros + 1:
            return False
        values.append((bits >> (left - zeros - 1) & ((1 << zeros + 1) - 1)) - 1)
        left -= zeros + 1
    return values[1] % 5 == B_PICTURE
