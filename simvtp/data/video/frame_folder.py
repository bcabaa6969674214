"""Folders of pictures as videos: `frames/`, or a pattern as in `frames/img_%05d.jpg`.

Many public data sets come as frames, on disk or inside tar files. The pictures of a folder are in
the order of the numbers in their names; they have no clock, so parts in seconds are refused.
"""

from __future__ import annotations

import io
import itertools
import re
from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simvtp.data.video.container.frame_table import FrameTable, PacketId
from simvtp.data.video.container.open_container import open_container
from simvtp.data.video.container.orientation import orientation_of
from simvtp.data.video.decord_compatible import FastReader
from simvtp.data.video.tar_member import TarFrames, file_of, is_tar_frames
from simvtp.errors import DataError

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
NUMBER = re.compile(r"%0?(\d*)d")
DIGITS = re.compile(r"(\d+)")


def is_frame_folder(path: Path) -> bool:
    """Returns whether a path names pictures: a folder, a pattern of names, or those of a tar."""
    pattern = NUMBER.search(path.name) is not None
    return path.is_dir() or (pattern and not path.exists()) or is_tar_frames(path)


def video_exists(path: Path) -> bool:
    """Returns whether there is anything at the path of a video: a file, a member, pictures."""
    return file_of(path).is_file() or (is_frame_folder(path) and bool(_listed(path)))


def frame_files(path: Path) -> Sequence[Path]:
    """Returns the pictures of a folder, a pattern or a tar file in their order.

    Raises:
        DataError: there are none, or their order is not clear.
    """
    if is_tar_frames(path):
        return TarFrames(path)
    files = _listed(path)
    if not files:
        raise DataError(f"{path} does not decode: the folder holds no pictures.")
    try:
        return [files[number] for number in frame_order([file.name for file in files])]
    except ValueError as error:
        raise DataError(
            f"{path} does not decode: it holds {error}; name those that are meant by a pattern, "
            "as in img_%05d.jpg."
        ) from None


def _listed(path: Path) -> list[Path]:
    """Returns the pictures of a folder, or those that a pattern names, in any order."""
    if path.is_dir():
        return [
            file
            for file in path.iterdir()
            if file.suffix.lower() in PICTURES and not file.name.startswith(".")
        ]
    if not path.parent.is_dir():
        return []
    before, _, after = NUMBER.split(path.name, maxsplit=1)
    pattern = re.compile(re.escape(before) + r"\d+" + re.escape(after))
    return [file for file in path.parent.iterdir() if pattern.fullmatch(file.name)]


def frame_order(names: Sequence[str]) -> list[int]:
    """Returns the positions of pictures in the order of the numbers in their names.

    Args:
        names: of the pictures, with their endings, which do not count.

    Raises:
        ValueError: the names are of several kinds (a cover or optical flow among frames), or two
            have the same number.
    """
    stems = [name.rpartition(".")[0] for name in names]
    kinds = Counter(DIGITS.sub("%d", stem) for stem in stems)
    if len(kinds) > 1 and max(kinds.values()) > 1:
        raise ValueError(f"pictures of several kinds ({', '.join(sorted(kinds)[:3])})")
    keys = [_natural(stem) for stem in stems]
    order = sorted(range(len(names)), key=keys.__getitem__)
    for one, other in itertools.pairwise(order):
        if keys[one] == keys[other]:
            raise ValueError(f"two pictures with one number ({names[one]}, {names[other]})")
    return order


def _natural(stem: str) -> list[tuple[int, str]]:
    """Returns a key by which 10 comes behind 9."""
    parts = DIGITS.split(stem)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


class FrameFolderReader(FastReader):
    """Reads folders of pictures; used in place of every other reader."""

    name = "pictures"

    def frame_table(self, path: Path, content: io.BytesIO | None = None) -> FrameTable:
        """Returns a table without times.

        Raises:
            DataError: the folder holds no pictures, or their order is not clear.
        """
        count = len(frame_files(path))
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
