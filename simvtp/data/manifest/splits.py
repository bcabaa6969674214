"""Splits and fractions of a data set, by hash: the same on every machine and in every order."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from simvtp.data.clips import Clip, ClipView
from simvtp.data.clips.clip_columns import SPLIT_NAMES

SPLITS = ("train", "val", "test")


def hash_unit(purpose: str, name: str) -> float:
    """Returns a number in [0, 1) that depends on nothing but the two texts.

    It is the same on every machine, and independent between purposes.
    """
    digest = hashlib.sha256(f"{purpose}\0{name}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) * 2.0**-53


def assign_splits(clips: Sequence[Clip], ratios: tuple[float, float, float]) -> Sequence[Clip]:
    """Gives each clip train, val or test by hash: of its id, or of its file if others share that.

    Parts of one film, and one film under several ids, are in one split. Each file is decided on its
    own, so that adding files moves no other clip to another split.

    Args:
        clips: without splits.
        ratios: of train, val and test, with sum 1; expected, not exact.
    """
    if isinstance(clips, ClipView) and clips.whole and clips.columns.has_positions:
        return clips.with_ratios(ratios)  # hashed when the columns were built
    train, val, _ = ratios
    files = [file_key(clip) for clip in clips]
    users = Counter(files)

    def split_of(name: str) -> str:
        position = hash_unit("split", name)
        return "train" if position < train else "val" if position < train + val else "test"

    return tuple(
        replace(clip, split=split_of(clip.id if users[file] == 1 else clip.path.name))
        for clip, file in zip(clips, files, strict=True)
    )


def by_split(clips: Sequence[Clip]) -> dict[str, Sequence[Clip]]:
    """Returns the clips of train, val and test, each in the order of `clips`."""
    if isinstance(clips, ClipView):
        codes = clips.split_codes()
        return {
            split: clips.taken(np.flatnonzero(codes == number))
            for number, split in enumerate(SPLIT_NAMES)
            if split
        }
    return {split: tuple(clip for clip in clips if clip.split == split) for split in SPLITS}


def file_key(clip: Clip) -> str:
    """Returns the name of a clip's file, one for all ways to write its path."""
    return os.path.normpath(clip.path)


def files_in_several_splits(
    clips: Iterable[Clip], contents: Mapping[str, str] | None = None
) -> dict[str, tuple[str, ...]]:
    """Returns the files that are in more than one split, with these splits.

    Args:
        clips: with splits.
        contents: by `file_key`, what identifies the bytes of a file; files that are not in it are
            known by their path.
    """
    known = contents or {}
    found: dict[str, dict[str, str]] = {}
    for clip in clips:
        if clip.split:
            file = file_key(clip)
            found.setdefault(known.get(file, file), {}).setdefault(clip.split, file)
    return {
        " = ".join(dict.fromkeys(files.values())): tuple(files)
        for files in found.values()
        if len(files) > 1
    }


def take_fraction(
    clips: Sequence[Clip], fraction: float, seed: int | None = None
) -> Sequence[Clip]:
    """Returns the round(fraction * n) clips (at least one) whose ids hash lowest, in their order.

    10 % lies inside 25 % inside 100 %. A seed gives a choice of its own, nested in itself.
    """
    purpose = "fraction" if seed is None else f"fraction {seed}"
    if fraction >= 1 or not clips:
        return clips
    count = max(1, round(fraction * len(clips)))
    names = clips.ids() if isinstance(clips, ClipView) else (clip.id for clip in clips)
    drawn = np.fromiter((hash_unit(purpose, name) for name in names), np.float64, len(clips))
    chosen = _lowest(drawn, count, lambda number: clips[number].id)
    if isinstance(clips, ClipView):
        return clips.taken(chosen)
    return tuple(clips[number] for number in chosen.tolist())


def _lowest(values: np.ndarray, count: int, name_of: Callable[[int], str]) -> np.ndarray:
    """Returns the positions of the `count` lowest values, rising; equal ones by name."""
    limit = np.partition(values, count - 1)[count - 1]
    below = np.flatnonzero(values < limit)
    equal = sorted(np.flatnonzero(values == limit).tolist(), key=name_of)
    return np.sort(np.concatenate((below, equal[: count - len(below)]))).astype(np.int64)
