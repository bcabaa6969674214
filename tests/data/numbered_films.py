"""Films whose frames carry their number as a bar code, in all kinds of containers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

HEIGHT, WIDTH = 64, 96
FRAMES = 60
X264 = {"crf": "10", "x264-params": "keyint=12:min-keyint=12:scenecut=0:bframes=2:b-adapt=0"}


def numbered(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Returns uint8 [H, W, 3]: a moving spot, and the number in eight blocks below it."""
    rows, columns = np.mgrid[0:height, 0:width]
    ground = (columns * 255 // width, rows * 255 // height, np.full_like(rows, 90))
    picture = np.stack(ground, -1).astype(np.uint8)
    x, bar = number * 3 % (width - 12), width // 8
    picture[height // 8 : height // 4, x : x + 12] = 255, 60, 0
    for bit in range(8):
        level = 235 if number >> (7 - bit) & 1 else 16
        rows_of_bar = slice(height * 5 // 8, height * 7 // 8)
        picture[rows_of_bar, bit * bar + 1 : (bit + 1) * bar - 1] = level
    return picture


def numbers(frames: np.ndarray) -> list[int]:
    """Returns the numbers of frames, uint8 [T, H, W, 3]."""
    height, width = frames.shape[1:3]
    bar, found = width // 8, []
    for frame in frames:
        blocks = [
            frame[
                height * 11 // 16 : height * 13 // 16, b * bar + bar // 4 : (b + 1) * bar - bar // 4
            ]
            for b in range(8)
        ]
        found.append(int("".join("01"[int(block.mean() > 125)] for block in blocks), 2))
    return found


def film(
    path: Path,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    count: int = FRAMES,
    times_ms: Sequence[int] = (),
    size: tuple[int, int] = (HEIGHT, WIDTH),
    options: dict[str, str] | None = None,
    title: str = "",
    muxer: dict[str, str] | None = None,
    first: int = 0,
) -> Path:
    """Writes a film of numbered frames at 25 a second, or at the given times."""
    options = X264 if options is None and codec == "libx264" else options or {}
    with av.open(str(path), "w", options=muxer or {}) as container:
        if title:
            container.metadata["title"] = title
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        if codec in ("mpeg4", "mpeg2video", "flv1", "flv", "mpeg1video"):
            stream.codec_context.gop_size = 12
            stream.bit_rate = 4_000_000
        if times_ms:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(number + first, *size), format="rgb24")
            frame = frame.reformat(format=pixels)
            if times_ms:
                frame.pts, frame.time_base = times_ms[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def with_sound_first(film_of: Path, target: Path) -> Path:
    """Copies a film behind a second of silence, which is the first track."""
    with av.open(str(film_of)) as source, av.open(str(target), "w") as out:
        sound: Any = out.add_stream("aac", rate=48_000, layout="mono")
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for number in range(47):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 48_000, number * 1024
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
        for packet in source.demux(stream):
            if packet.size:
                packet.stream = copy
                out.mux(packet)
    return target


def with_empty_chunks(film_of: Path, target: Path) -> Path:
    """Copies a film of 25 frames a second into an AVI that names 600, as FFmpeg copies them."""
    with av.open(str(film_of)) as source, av.open(str(target), "w") as out:
        stream = source.streams.video[0]
        copy: Any = out.add_stream_from_template(stream)
        copy.time_base = Fraction(1, 600)
        for number, packet in enumerate(p for p in source.demux(stream) if p.size):
            packet.stream, packet.time_base = copy, Fraction(1, 600)
            packet.pts = packet.dts = number * 24
            out.mux(packet)
    return target


def palette_film(path: Path) -> Path:
    """Writes uncompressed frames of 256 grey levels with a palette."""
    levels = np.stack([np.arange(256, dtype=np.uint8)] * 3, -1)
    palette = np.concatenate([np.full((256, 1), 255, np.uint8), levels], -1)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("rawvideo", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "pal8"
        for number in range(FRAMES):
            grey = numbered(number).mean(-1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray((grey, palette), format="pal8")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def joined(path: Path, *parts: Path) -> Path:
    """Writes one file behind the other, as people join recordings."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def copied(source: Path, target: Path, skip: int = 0, made_up: bool = False) -> Path:
    """Copies the packets of a film, without the first `skip`; `made_up`: shown as decoded."""
    with av.open(str(source)) as film_in, av.open(str(target), "w") as film_out:
        stream = film_in.streams.video[0]
        copy = film_out.add_stream_from_template(stream)
        packets = [packet for packet in film_in.demux(stream) if packet.size]
        begins = packets[0].dts
        for packet in packets[skip:]:
            if made_up:
                packet.dts = packet.pts = packet.dts - begins
            packet.stream = copy
            film_out.mux(packet)
    return target


def with_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Writes a display matrix into the first track of an mp4."""
    raw = bytearray(path.read_bytes())
    at = raw.index(b"tkhd") + 44
    values = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    raw[at : at + 36] = struct.pack(">9i", *values)
    path.write_bytes(raw)
    return path


def with_still_first(film_of: Path, target: Path, attached: bool = False) -> Path:
    """Copies a film behind a larger still picture: a track of its own, or a cover."""
    from av.stream import Disposition

    still = target.with_suffix(".still.mkv")
    film(still, "mjpeg", "yuvj420p", count=1, size=(200, 200), first=200)
    with av.open(str(still)) as one, av.open(str(film_of)) as two, av.open(str(target), "w") as out:
        sources = (one, one.streams.video[0]), (two, two.streams.video[0])
        copies = [out.add_stream_from_template(stream) for _, stream in sources]
        if attached:
            copies[0].disposition = Disposition.attached_pic
        for (container, stream), copy in zip(sources, copies, strict=True):
            for packet in container.demux(stream):
                if packet.size:
                    packet.stream = copy
                    out.mux(packet)
    return target
