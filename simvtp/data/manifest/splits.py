"""Splits and fractions of a data set, by hash: the same on every machine and in every order."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from simvtp.data.clips import Clip

SPLITS = ("train", "val", "test")


def hash_unit(purpose: str, name: str) -> float:
    """Returns a number in [0, 1) that depends on nothing but the two texts.

    It is the same on every machine, and independent between purposes.
    """
    digest = hashlib.sha256(f"{purpose}\0{name}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) * 2.0**-53


def assign_splits(clips: Iterable[Clip], ratios: tuple[float, float, float]) -> tuple[Clip, ...]:
    """Gives each clip train, val or test by hash: of its id, or of its file if others share that.

    Parts of one film, and one film under several ids, are in one split. Each file is decided on its
    own, so that adding files moves no other clip to another split.

    Args:
        clips: without splits.
        ratios: of train, val and test, with sum 1; expected, not exact.
    """
    train, val, _ = ratios
    listed = list(clips)
    files = [file_key(clip) for clip in listed]
    users = Counter(files)

    def split_of(name: str) -> str:
        position = hash_unit("split", name)
        return "train" if position < train else "val" if position < train + val else "test"

    return tuple(
        replace(clip, split=split_of(clip.id if users[file] == 1 else clip.path.name))
        for clip, file in zip(listed, files, strict=True)
    )


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
) -> tuple[Clip, ...]:
    """Returns the round(fraction * n) clips (at least one) whose ids hash lowest, in their order.

    10 % lies inside 25 % inside 100 %. A seed gives a choice of its own, nested in itself.
    """
    purpose = "fraction" if seed is None else f"fraction {seed}"
    if fraction >= 1 or not clips:
        return tuple(clips)
    count = max(1, round(fraction * len(clips)))
    chosen = sorted(
        range(len(clips)), key=lambda i: (hash_unit(purpose, clips[i].id), clips[i].id)
    )[:count]
    return tuple(clips[i] for i in sorted(chosen))
