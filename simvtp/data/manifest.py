"""Manifests: which videos, with which captions, in which split.

A manifest is a CSV or Parquet file with the columns `videoid`, `path`, `caption` and, if wished,
`split` (train, val or test). Several rows of one video are several captions of it. Paths are
relative to the manifest's folder. The columns `start_s` and `end_s`, if there, say which part of
the video is meant, in seconds (empty = from its beginning, to its end). Other columns are ignored.
A folder of shards (`simvtp.data.shards`) is read like a manifest.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from simvtp.data.clips import Clip, Manifest
from simvtp.data.shards import is_shards, read_shards
from simvtp.errors import DataError

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
REQUIRED = ("videoid", "path", "caption")
OPTIONAL = ("split", "start_s", "end_s")


def read_manifest(path: Path | str, collect_conflicts: bool = False) -> Manifest:
    """Read a manifest.

    Args:
        path: CSV or Parquet (by the ending `.parquet` or `.pq`), or a folder of shards.
        collect_conflicts: list ids with several paths or splits in `conflicts` (their first row
            counts) rather than raise.

    Raises:
        DataError: the file is missing, unreadable or empty, lacks a column, or contradicts itself;
            says what to do.
    """

    path = Path(path).expanduser()
    if is_shards(path):
        return read_shards(path)
    columns = _read_columns(path)
    has_splits = "split" in columns
    none = [""] * len(columns["videoid"])
    rows = zip(
        *(columns[name] for name in REQUIRED),
        *(columns.get(name, none) for name in OPTIONAL),
        strict=True,
    )
    places: dict[str, tuple[str, str, str, str]] = {}
    captions: dict[str, list[str]] = {}
    conflicts: dict[str, str] = {}
    empty = 0
    for number, (name, place, caption, split, start, end) in enumerate(rows, start=2):
        if not name or not place:
            raise DataError(
                f"manifest {path}: row {number} has no {'videoid' if not name else 'path'}; fill it in or remove the row."
            )
        if has_splits and split not in SPLITS:
            raise DataError(
                f"manifest {path}: row {number} has split '{split}'; it must be one of {', '.join(SPLITS)} (or drop the column)."
            )
        here = place, split, start, end
        first = places.setdefault(name, here)
        if first != here:
            what, one, other = next(
                found
                for found in zip(("path", *OPTIONAL), first, here, strict=True)
                if found[1] != found[2]
            )
            conflicts.setdefault(
                name,
                f"two {what}{'' if what.endswith('_s') else 's'}, {' and '.join(sorted((one, other)) if what == 'path' else (one, other))}",
            )
        listed = captions.setdefault(name, [])
        if caption:
            listed.append(caption)
        else:
            empty += 1
    if conflicts and not collect_conflicts:
        name, reason = next(iter(conflicts.items()))
        raise DataError(
            f"manifest {path}: videoid '{name}' has {reason} ({len(conflicts)} such ids); give each video its own id."
        )
    uncaptioned = tuple(name for name in places if not captions[name])
    folder = path.resolve().parent
    clips = tuple(
        Clip(name, folder / place, tuple(captions[name]), split, *_part(path, name, start, end))
        for name, (place, split, start, end) in places.items()
        if captions[name]
    )
    if not clips:
        raise DataError(f"manifest {path} has no row with a caption; add captions, one row each.")
    if empty:
        log.warning(
            "%s: %d rows without a caption were left out (%d videos had no other caption)",
            path,
            empty,
            len(uncaptioned),
        )
    return Manifest(path, clips, has_splits, empty, uncaptioned, tuple(conflicts))


def _part(path: Path, name: str, *columns: str) -> tuple[float | None, float | None]:
    """start_s and end_s as numbers; None where they are empty."""
    try:
        start, end = (float(text) if text else None for text in columns)
    except ValueError:
        start = end = float("nan")
    if not (start or 0) >= 0 or (end is not None and not (start or 0) < end < float("inf")):
        raise DataError(
            f"manifest {path}: videoid '{name}' has start_s '{columns[0]}' and end_s '{columns[1]}'; they must be seconds, 0 <= start_s < end_s."
        )
    return start, end


def _read_columns(path: Path) -> dict[str, list[str]]:
    """The wanted columns as stripped text; DataError if the file or a column is not there."""
    import pandas as pd

    if not path.is_file():
        raise DataError(
            f"manifest {path}: there is no such file; give a CSV or Parquet file with the columns {', '.join(REQUIRED)}."
        )
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(
                path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True
            )
    except (
        ValueError,
        OSError,
        ImportError,
        pd.errors.EmptyDataError,
        pd.errors.ParserError,
    ) as error:
        raise DataError(
            f"manifest {path} cannot be read as a table ({str(error).strip() or type(error).__name__})."
        ) from error
    table.columns = [str(name).strip() for name in table.columns]
    missing = [name for name in REQUIRED if name not in table.columns]
    if missing:
        raise DataError(
            f"manifest {path} has no column {' and '.join(missing)} (found: {', '.join(table.columns) or 'none'}); "
            f"name its columns {', '.join(REQUIRED)}."
        )
    if table.empty:
        raise DataError(f"manifest {path} has column names but no rows; add one row per caption.")
    wanted = [*REQUIRED, *(name for name in OPTIONAL if name in table.columns)]
    return {
        name: ["" if pd.isna(value) else str(value).strip() for value in table[name]]
        for name in wanted
    }


def hash_unit(purpose: str, name: str) -> float:
    """A number in [0, 1) that depends on nothing but the two texts: the same on every machine,
    independent between purposes.
    """
    digest = hashlib.sha256(f"{purpose}\0{name}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) * 2.0**-53


def assign_splits(clips: Iterable[Clip], shares: tuple[float, float, float]) -> tuple[Clip, ...]:
    """Give each clip train, val or test by the hash of its id.

    Args:
        shares: of train, val and test, with sum 1. They are expected shares: each clip is decided
            on its own, so that adding clips moves no other clip to another split.
    """
    train, val, _ = shares

    def split_of(name: str) -> str:
        position = hash_unit("split", name)
        return "train" if position < train else "val" if position < train + val else "test"

    return tuple(replace(clip, split=split_of(clip.id)) for clip in clips)


def take_fraction(clips: Sequence[Clip], fraction: float) -> tuple[Clip, ...]:
    """The round(fraction * n) clips (at least one) whose ids hash lowest, in their given order: 10
    % lies inside 25 % inside 100 %.
    """
    if fraction >= 1 or not clips:
        return tuple(clips)
    count = max(1, round(fraction * len(clips)))
    chosen = sorted(
        range(len(clips)), key=lambda i: (hash_unit("fraction", clips[i].id), clips[i].id)
    )[:count]
    return tuple(clips[i] for i in sorted(chosen))
