"""What a manifest, a folder of shards or a benchmark holds: videos with their captions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Clip:
    """One video with its captions."""

    id: str
    path: Path
    captions: tuple[str, ...]
    split: str = ""  # train | val | test; empty until one is assigned
    start_s: float | None = (
        None  # the part of the video that is meant, in seconds; None = from its beginning
    )
    end_s: float | None = None  # None = to its end
    measured: tuple[int, float, int, int] | None = (
        None  # frames, frames per second, height, width, where an index knows them
    )


@dataclass(frozen=True)
class BenchmarkOrigin:
    """The benchmark whose captions and splits these are."""

    name: str
    protocol: str  # empty where the benchmark has but one
    notes: tuple[str, ...]  # what a reader of its figures should know


@dataclass(frozen=True)
class Manifest:
    """What a manifest holds. `clips` are in the order in which their ids first appear, captioned
    videos only.
    """

    path: Path
    clips: tuple[Clip, ...]
    has_splits: bool
    empty_captions: int  # rows that were dropped because their caption is empty
    uncaptioned: tuple[str, ...]  # ids of the videos that were dropped because no caption was left
    conflicts: tuple[
        str, ...
    ] = ()  # ids that stand for several paths or splits; `read_manifest` raises unless told to collect them
    source: BenchmarkOrigin | None = (
        None  # of shards that were made of a benchmark, and of a benchmark itself
    )
