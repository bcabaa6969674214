"""The readers that are held to be alike.

Not among the helpers: worker processes import those, and need not try a decoder each time.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from simvtp.data.prepare.encode import encode_h264
from simvtp.data.video.readers import get_reader, read_frames
from simvtp.errors import DataError, UserError
from tests.data.helpers import moving_square


def _torchcodec() -> tuple[str, ...]:
    """torchcodec, too, where it is installed and finds FFmpeg; it is no requirement."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        encode_h264(moving_square(0), path, 8)
        try:
            read_frames(path, [0], get_reader("torchcodec"))
        except UserError as error:
            if isinstance(error, DataError):
                raise
            return ()
    return ("torchcodec",)


READERS = ("decord", "pyav", "fast", *_torchcodec())
