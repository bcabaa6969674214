"""Edit lists: the box of an mp4 that says which part of a track is shown."""

from __future__ import annotations

import struct
from pathlib import Path


def trimmed(path: Path, frames: int, fps: int = 25) -> Path:
    """Hides the first frames of a film by its edit list (written by FFmpeg for B-frames)."""
    raw = bytearray(path.read_bytes())
    at = raw.index(b"elst") + 4
    assert raw[at] == 0 and struct.unpack_from(">I", raw, at + 4) == (1,)
    scale = struct.unpack_from(">I", raw, raw.index(b"mdhd") + 16)[0]
    movie_scale = struct.unpack_from(">I", raw, raw.index(b"mvhd") + 16)[0]
    duration, begins = struct.unpack_from(">Ii", raw, at + 8)
    hidden = frames * scale // fps
    struct.pack_into(">Ii", raw, at + 8, duration - frames * movie_scale // fps, begins + hidden)
    path.write_bytes(raw)
    return path
