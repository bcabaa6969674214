"""Reads annotation files below a folder, with checks that every benchmark needs.

Every fault is a DataError of one sentence that names the file and what was found in it.
"""

from __future__ import annotations

import json
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
VAL_SHARE = (
    0.05  # of the training videos, by hash of their id, where a benchmark has no split to select on
)
FEW = 5

# ---- annotation files ----------------------------------------------------------------------------


def find(root: Path, names: Sequence[str], folders: Sequence[str] = ()) -> Path:
    """Returns the first of `names` that lies in the root or one of the usual folders.

    Raises:
        DataError: there is none; it says where it was looked for.
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
    """Returns the path of `find`, or None."""
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
    """Returns the lines that are not empty, stripped.

    Raises:
        DataError: there is none.
    """
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
    """Returns the rows of a table with a header, as stripped text.

    Raises:
        DataError: one of `columns` is missing or a row has another length.
    """
    found = list(iterate_table(path, columns, tab=tab))
    return found or refuse(path, "has a header but no rows")


def iterate_table(
    path: Path, columns: Sequence[str], *, tab: bool = False
) -> Iterator[dict[str, str]]:
    """Yields the rows of `read_table`, for tables of millions of rows."""
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
    """Returns the rows of a TAB table without a header; the last `optional` columns may be absent.

    Raises:
        DataError: a row has another length.
    """
    found = []
    for line, cells in _split_rows(path, tab=True):
        if not len(columns) - optional <= len(cells) <= len(columns):
            refuse(
                path,
                f"has {len(cells)} TAB-separated columns in line {line}; expected {len(columns)}: "
                f"{', '.join(columns)}",
            )
        found.append(cells)
    return found or refuse(path, "is empty")


def _split_rows(path: Path, tab: bool) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of the line, cells) of the rows that are not empty.

    Cells of TAB tables are never quoted.
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
    """Returns record[key].

    Raises:
        DataError: it is missing; the message names the file, the record and the keys that it has.
    """
    if not isinstance(record, Mapping):
        refuse(path, f"has {type(record).__name__} where {what} should be an object with '{key}'")
    if key not in record:
        refuse(
            path,
            f"has no '{key}' in {what} (found: "
            f"{', '.join(map(str, list(record)[:12])) or 'nothing'})",
        )
    return record[key]


def listed(value: Any, path: Path, what: str) -> list[Any]:
    """Returns `value`, which must be a list.

    Raises:
        DataError: it is none.
    """
    return (
        value
        if isinstance(value, list)
        else refuse(path, f"has {type(value).__name__} where {what} should be a list")
    )


def text(value: Any, path: Path, what: str) -> str:
    """Returns `value`, which must be text or a whole number, as stripped text.

    Raises:
        DataError: it is neither.
    """
    if isinstance(value, str):
        return value.strip()
    return (
        str(value)
        if isinstance(value, int) and not isinstance(value, bool)
        else refuse(path, f"has {value!r} where {what} should be text")
    )


def number(value: Any, path: Path, what: str) -> float:
    """Returns `value` as a finite number.

    Raises:
        DataError: it is none.
    """
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
    """Returns the first few names as text."""
    names = list(names)
    return ", ".join(map(str, names[:FEW])) + (", ..." if len(names) > FEW else "")


def require_unique(names: Iterable[Hashable], path: Path, what: str) -> None:
    """Checks that no name occurs twice.

    Raises:
        DataError: one does.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        refuse(path, f"names {len(twice)} {what} more than once: {few(twice)}")


def require_known(wanted: Iterable[str], known: Collection[str], split: str, path: Path) -> None:
    """Checks that the annotations have the videos of a split.

    Raises:
        DataError: they lack some.
    """
    wanted = list(wanted)
    lacking = [name for name in wanted if name not in known]
    if lacking:
        refuse(
            path,
            f"has no annotation of {len(lacking)} of the {len(wanted)} videos in the {split} "
            f"list: {few(lacking)}",
        )


def require_apart(
    splits: Mapping[str, Iterable[str]], name: str, pairs: Sequence[tuple[str, str]] = ()
) -> None:
    """Checks that no video is in two splits.

    Args:
        pairs: the splits to compare; default: all of them.

    Raises:
        DataError: one is.
    """
    sets = {split: set(ids) for split, ids in splits.items()}
    for first, second in pairs or [(a, b) for i, a in enumerate(sets) for b in list(sets)[i + 1 :]]:
        both = sorted(sets[first] & sets[second])
        if both:
            raise DataError(
                f"{name}: {len(both)} videos are in both the {first} and the {second} list (a "
                f"leak): {few(both)}; take them out of one."
            )


def hold_out(train: Iterable[str], share: float = VAL_SHARE) -> set[str]:
    """Returns the names that are taken from training for selection, by a hash.

    They are the same on every machine and in every protocol. It is one name at least, unless there
    are fewer than two.
    """
    hashes = {name: hash_unit("benchmark val", name) for name in train}
    held = {name for name, position in hashes.items() if position < share}
    return held or ({min(hashes, key=lambda name: hashes[name])} if len(hashes) > 1 else set())


def held_out_note(held: int, of: int, share: float = VAL_SHARE, what: str = "videos") -> str:
    return (
        f"no val split: {held} of {of} training {what} ({share:.1%} by hash of the id) are kept "
        "out of training to select on, "
        "so that the test split is never used for it"
    )


# ---- records -------------------------------------------------------------------------------------


def make_clips(
    splits: Mapping[str, Iterable[str]],
    captions: Mapping[str, Sequence[str]],
    videos: Mapping[str, Path],
    annotations: Path,
) -> tuple[Clip, ...]:
    """Returns the clips of the splits, in their order, without empty captions.

    Raises:
        DataError: a video has no other caption.
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
    """Returns the clips, some of train moved to val; and the note that says so."""
    train = [clip.id for clip in clips if clip.split == "train"]
    held = hold_out(train, share)
    moved = tuple(
        replace(clip, split="val") if clip.split == "train" and clip.id in held else clip
        for clip in clips
    )
    return moved, held_out_note(len(held), len(train), share)


def count_splits(records: Iterable[Any]) -> dict[str, int]:
    """Returns the number of records of each split."""
    counts = Counter(record.split for record in records)
    return {split: counts[split] for split in SPLITS if counts[split]}
