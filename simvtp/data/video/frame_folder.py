"""Folders of pictures as videos: `frames/`, or a pattern as in `frames/img_%05d.jpg`.

Many public data sets come as frames. The pictures of a folder are in the order of the numbers in
their names; they have no clock, so parts in seconds are refused.
"""

from __future__ import annotations

import io
import re
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simvtp.data.video.container.frame_table import FrameTable, PacketId
from simvtp.data.video.container.open_container import open_container
from simvtp.data.video.container.orientation import orientation_of
from simvtp.data.video.decord_compatible import FastReader
from simvtp.data.video.tar_member import file_of
from simvtp.errors import DataError

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
NUMBER = re.compile(r"%0?(\d*)d")
DIGITS = re.compile(r"(\d+)")


def is_frame_folder(path: Path) -> bool:
    """Returns whether a path names a folder of pictures, or a pattern of their names."""
    return path.is_dir() or (NUMBER.search(path.name) is not None and not path.exists())


def video_exists(path: Path) -> bool:
    """Returns whether there is anything at the path of a video: a file, a member, pictures."""
    return file_of(path).is_file() or (is_frame_folder(path) and bool(frame_files(path)))


def frame_files(path: Path) -> list[Path]:
    """Returns the pictures of a folder or pattern in their order; empty if there are none."""
    if path.is_dir():
        found = (file for file in path.iterdir() if file.suffix.lower() in PICTURES)
        return sorted((f for f in found if not f.name.startswith(".")), key=_natural)
    if not path.parent.is_dir():
        return []
    before, _, after = NUMBER.split(path.name, maxsplit=1)
    pattern = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
    numbered = [(pattern.fullmatch(file.name), file) for file in path.parent.iterdir()]
    return [file for _, file in sorted((int(m[1]), file) for m, file in numbered if m)]


def _natural(file: Path) -> list[tuple[int, str]]:
    """Returns a key by which 10.jpg comes behind 9.jpg."""
    parts = DIGITS.split(file.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


class FrameFolderReader(FastReader):
    """Reads folders of pictures; used in place of every other reader."""

    name = "pictures"

    def frame_table(self, path: Path, content: io.BytesIO | None = None) -> FrameTable:
        """Returns a table without times.

        Raises:
            DataError: the folder holds no pictures.
        """
        count = len(frame_files(path))
        if not count:
            raise DataError(f"{path} does not decode: the folder holds no pictures.")
        nothing = np.empty(0, np.int64)
        keys = np.empty(0, np.int32)
        table = FrameTable(
            0, count, nothing, PacketId.POSITION, keys, nothing, nothing, nothing, 0.0, 0.0
        )
        _, first = next(self._decoded(path, table, [0]))
        size, orientation = (first.height, first.width), orientation_of(first)
        return table.with_first_frame(size, orientation)

    def read(self, path: Path, indices: Sequence[int], size: tuple[int, int] | None) -> np.ndarray:
        """Returns uint8 [n, H, W, 3]; pictures of another size are scaled to that of the first."""
        return self.read_film(path, indices, size)

    def _decoded(
        self,
        path: Path,
        table: FrameTable,
        wanted: Sequence[int],
        content: io.BytesIO | None = None,
    ) -> Generator[tuple[int, Any]]:
        files = frame_files(path)
        for position in wanted:
            try:
                with open_container(files[position], reader=self.name) as container:
                    frame = next(container.decode(video=0))
            except Exception as error:  # FFmpeg's errors are of many classes
                text = " ".join(str(error).replace(str(files[position]), "the file").split())
                raise DataError(f"{files[position]} does not decode ({text[:200]}).") from None
            yield position, frame
