"""Finding and reading annotation files and videos below a folder, and the checks that every
benchmark needs.

Every fault is a DataError of one sentence that names the file and what was found in it.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from simvtp.data.clips import Clip
from simvtp.data.manifest import SPLITS, hash_unit
from simvtp.data.manifest.csv_table import strict_rows
from simvtp.errors import DataError

FOLDERS = (
    "",
    "annotations",
    "annotation",
    "annos",
    "metadata",
    "lists",
    "splits",
    "csv",
    "data",
)  # tried in this order, below the root
VIDEOS = (
    ".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".3gp", ".3g2", ".3gpp", ".wmv", ".flv", ".mts", ".m2ts",
    ".qt", ".asf", ".divx", ".ogv", ".gif",
)  # fmt: skip
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# levels that are searched below the root where none of a benchmark's usual video folders is there
ROOT_DEPTH = 3
VAL_SHARE = (
    0.05  # of the training videos, by hash of their id, where a benchmark has no split to select on
)
FEW = 5

# ---- annotation files ----------------------------------------------------------------------------


def find(root: Path, names: Sequence[str], folders: Sequence[str] = ()) -> Path:
    """The first of `names` that lies in the root or one of the usual folders; DataError says where
    it was looked for.
    """
    path = find_if_there(root, names, folders)
    if path is None:
        if not root.is_dir():
            raise DataError(
                f"{root}: there is no such folder; give the one that holds the annotation files."
            )
        places = ", ".join(folder or "." for folder in dict.fromkeys((*FOLDERS, *folders)))
        raise DataError(f"no {' or '.join(names)} below {root}; looked in {places}.")
    return path


def find_if_there(root: Path, names: Sequence[str], folders: Sequence[str] = ()) -> Path | None:
    """The same, or None."""
    for name in names:
        for folder in dict.fromkeys((*FOLDERS, *folders)):
            if (root / folder / name).is_file():
                return root / folder / name
    return None


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text ({error}).") from error


def read_lines(path: Path) -> list[str]:
    """The lines that are not empty, stripped; DataError if there is none."""
    found = [
        line.strip() for line in read_text(path).split("\n") if line.strip()
    ]  # not splitlines: captions may hold U+2028
    return found or refuse(path, "is empty")


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no valid JSON ({error}).") from error


def read_json_lines(path: Path) -> list[Any]:
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}, is no valid JSON ({error}).") from error
    return found


def read_table(path: Path, columns: Sequence[str], *, tab: bool = False) -> list[dict[str, str]]:
    """Rows of a table with a header, as stripped text; DataError if one of `columns` is missing or
    a row has another length.
    """
    found = list(iterate_table(path, columns, tab=tab))
    return found or refuse(path, "has a header but no rows")


def iterate_table(
    path: Path, columns: Sequence[str], *, tab: bool = False
) -> Iterator[dict[str, str]]:
    """The same row by row, for tables of millions of rows."""
    rows = iter(_split_rows(path, tab))
    _, names = next(rows, (0, []))
    missing = [name for name in columns if name not in names]
    if missing:
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        refuse(path, f"has no column {' and '.join(missing)} (found: {shown or 'nothing'})")
    for line, cells in rows:
        if len(cells) != len(names):
            refuse(path, f"has {len(cells)} columns in line {line}; its header has {len(names)}")
        yield dict(zip(names, cells, strict=True))


def read_bare_table(path: Path, columns: Sequence[str], *, optional: int = 0) -> list[list[str]]:
    """Rows of a TAB table without a header; the last `optional` columns may be absent. DataError if
    a row has another length.
    """
    found = []
    for line, cells in _split_rows(path, tab=True):
        if not len(columns) - optional <= len(cells) <= len(columns):
            refuse(
                path,
                f"has {len(cells)} TAB-separated columns in line {line}; expected {len(columns)}: {', '.join(columns)}",
            )
        found.append(cells)
    return found or refuse(path, "is empty")


def _split_rows(path: Path, tab: bool) -> Iterator[tuple[int, list[str]]]:
    """(number of the line, cells) of the rows that are not empty. Cells of TAB tables are never
    quoted.
    """
    if tab:
        text = read_text(path)
        split = (line.split("\t") for line in text.split("\n"))
        yield from (
            (n, [cell.strip() for cell in cells])
            for n, cells in enumerate(split, start=1)
            if any(map(str.strip, cells))
        )
        return
    yield from strict_rows(path, str(path), equal=False)


def get(record: Any, key: str, path: Path, what: str) -> Any:
    """record[key]; DataError names the file, the record and the keys that it has."""
    if not isinstance(record, Mapping):
        refuse(path, f"has {type(record).__name__} where {what} should be an object with '{key}'")
    if key not in record:
        refuse(
            path,
            f"has no '{key}' in {what} (found: {', '.join(map(str, list(record)[:12])) or 'nothing'})",
        )
    return record[key]


def listed(value: Any, path: Path, what: str) -> list[Any]:
    """`value` if it is a list; DataError names the file."""
    return (
        value
        if isinstance(value, list)
        else refuse(path, f"has {type(value).__name__} where {what} should be a list")
    )


def text(value: Any, path: Path, what: str) -> str:
    """`value` stripped if it is text or a whole number; DataError names the file."""
    if isinstance(value, str):
        return value.strip()
    return (
        str(value)
        if isinstance(value, int) and not isinstance(value, bool)
        else refuse(path, f"has {value!r} where {what} should be text")
    )


def number(value: Any, path: Path, what: str) -> float:
    """`value` as a finite number; DataError names the file."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        refuse(path, f"has {value!r} where {what} should be a number")
    return (
        found
        if abs(found) < float("inf")
        else refuse(path, f"has {value!r} where {what} should be a finite number")
    )


def refuse(path: Path, what: str) -> NoReturn:
    raise DataError(f"{path} {what}.")


# ---- checks --------------------------------------------------------------------------------------


def few(names: Iterable[Any]) -> str:
    """The first few names as text."""
    names = list(names)
    return ", ".join(map(str, names[:FEW])) + (", ..." if len(names) > FEW else "")


def require_unique(names: Iterable[Hashable], path: Path, what: str) -> None:
    """DataError if a name occurs twice."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        refuse(path, f"names {len(twice)} {what} more than once: {few(twice)}")


def require_known(wanted: Iterable[str], known: Collection[str], split: str, path: Path) -> None:
    """DataError if a split names videos that the annotations lack."""
    wanted = list(wanted)
    lacking = [name for name in wanted if name not in known]
    if lacking:
        refuse(
            path,
            f"has no annotation of {len(lacking)} of the {len(wanted)} videos in the {split} list: {few(lacking)}",
        )


def require_apart(
    splits: Mapping[str, Iterable[str]], name: str, pairs: Sequence[tuple[str, str]] = ()
) -> None:
    """DataError if a video is in two splits. `pairs`: the splits to compare; default: all of them."""
    sets = {split: set(ids) for split, ids in splits.items()}
    for first, second in pairs or [(a, b) for i, a in enumerate(sets) for b in list(sets)[i + 1 :]]:
        both = sorted(sets[first] & sets[second])
        if both:
            raise DataError(
                f"{name}: {len(both)} videos are in both the {first} and the {second} list (a leak): {few(both)}; take them out of one."
            )


def hold_out(train: Iterable[str], share: float = VAL_SHARE) -> set[str]:
    """The names whose hash says that they are taken from training to select on: the same on every
    machine and in every protocol.

    One at least, unless there are fewer than two.
    """
    hashes = {name: hash_unit("benchmark val", name) for name in train}
    held = {name for name, position in hashes.items() if position < share}
    return held or ({min(hashes, key=lambda name: hashes[name])} if len(hashes) > 1 else set())


def held_out_note(held: int, of: int, share: float = VAL_SHARE, what: str = "videos") -> str:
    return (
        f"no val split: {held} of {of} training {what} ({share:.1%} by hash of the id) are kept out of training to select on, "
        "so that the test split is never used for it"
    )


# ---- records -------------------------------------------------------------------------------------


def make_clips(
    splits: Mapping[str, Iterable[str]],
    captions: Mapping[str, Sequence[str]],
    videos: Mapping[str, Path],
    annotations: Path,
) -> tuple[Clip, ...]:
    """Clips of the splits, in their order. Empty captions are left out; DataError names videos that
    have no other.
    """
    clips, bare = [], []
    for split, ids in splits.items():
        for name in ids:
            kept = tuple(caption.strip() for caption in captions[name] if caption.strip())
            if not kept:
                bare.append(name)
            clips.append(Clip(name, videos[name], kept, split))
    if bare:
        refuse(annotations, f"has no caption for {len(bare)} videos: {few(bare)}")
    return tuple(clips)


def select_from_train(
    clips: Sequence[Clip], share: float = VAL_SHARE
) -> tuple[tuple[Clip, ...], str]:
    """The clips, some of train moved to val; and the note that says so."""
    train = [clip.id for clip in clips if clip.split == "train"]
    held = hold_out(train, share)
    moved = tuple(
        replace(clip, split="val") if clip.split == "train" and clip.id in held else clip
        for clip in clips
    )
    return moved, held_out_note(len(held), len(train), share)


def count_splits(records: Iterable[Any]) -> dict[str, int]:
    """How many records each split has."""
    counts = Counter(record.split for record in records)
    return {split: counts[split] for split in SPLITS if counts[split]}


# ---- videos --------------------------------------------------------------------------------------


class VideoFinder:
    """Where the videos (or images) of a benchmark lie.

    Args:
        folders: below the root, searched with all their subfolders, in this order; if none is
            there, the root to a depth of ROOT_DEPTH.
        endings: the first is that of the expected place of a file that is not found.
    """

    def __init__(self, root: Path, folders: Sequence[str], endings: Sequence[str] = VIDEOS) -> None:
        self._root, self._folders, self._endings = root, folders, tuple(endings)
        self._index: dict[str, tuple[int, Path]] | None = None
        self._expected = next((root / f for f in folders if (root / f).is_dir()), root / folders[0])

    def path(self, name: str, place: str = "", others: Sequence[str] = ()) -> Path:
        """The file named `name` with or without an ending, or one of `others`; else where it should
        lie: `place` below the first folder.

        `name` may itself end like a video. Files are told apart by their names alone: subfolders do
        not matter.
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
    """`name` without its ending, if it is one of `endings`."""
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
