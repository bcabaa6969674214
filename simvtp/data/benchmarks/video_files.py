"""Finds the videos (or images) of a benchmark below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

VIDEOS = (
    *(".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".3gp", ".3g2", ".3gpp"),
    *(".wmv", ".flv", ".mts", ".m2ts", ".qt", ".asf", ".divx", ".ogv", ".gif"),
)
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# Levels that are searched below the root where none of a benchmark's usual video folders exists.
ROOT_DEPTH = 3


class VideoFinder:
    """Finds the videos (or images) of a benchmark.

    Args:
        folders: below the root, searched with all their subfolders, in this order; if none exists,
            the root to a depth of ROOT_DEPTH.
        endings: the first is that of the expected path of a file that is not found.
    """

    def __init__(self, root: Path, folders: Sequence[str], endings: Sequence[str] = VIDEOS) -> None:
        self._root, self._folders, self._endings = root, folders, tuple(endings)
        self._index: dict[str, tuple[int, Path]] | None = None
        self._expected = next((root / f for f in folders if (root / f).is_dir()), root / folders[0])

    def path(self, name: str, place: str = "", others: Sequence[str] = ()) -> Path:
        """Returns the file named `name` with or without an ending, or one of `others`.

        If there is none, it is the expected path: `place` below the first folder. `name` may itself
        end like a video. Files are distinguished by their names alone: subfolders do not matter.
        """
        if self._index is None:
            self._index = self._build()
        for wanted in (name, *others):
            found = self._index.get(wanted) or self._index.get(bare_name(wanted, self._endings))
            if found:
                return found[1]
        place = place or name
        return self._expected / (
            place if place != bare_name(place, self._endings) else place + self._endings[0]
        )

    def _build(self) -> dict[str, tuple[int, Path]]:
        index: dict[str, tuple[int, Path]] = {}
        folders = [
            self._root / folder for folder in self._folders if (self._root / folder).is_dir()
        ]
        for order, folder in enumerate(folders or [self._root]):
            for place, file in _files_below(folder, depth=None if folders else ROOT_DEPTH):
                stem = bare_name(file, self._endings)
                if stem != file:
                    rank = order * 100 + self._endings.index(file[len(stem) :].lower())
                    for key in (file, stem):
                        if key not in index or rank < index[key][0]:
                            index[key] = rank, Path(place, file)
        return index


def bare_name(name: str, endings: Sequence[str]) -> str:
    """Returns `name` without its ending, if it is one of `endings`."""
    stem, dot, ending = name.rpartition(".")
    return stem if dot and f".{ending.lower()}" in endings else name


def _files_below(folder: Path, depth: int | None) -> Iterator[tuple[str, str]]:
    level = len(folder.parts)
    seen: set[str] = set()  # links may lead back
    for place, inner, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner.sort()
        if depth is not None and len(Path(place).parts) - level >= depth - 1:
            inner.clear()
        yield from ((place, file) for file in sorted(files))
