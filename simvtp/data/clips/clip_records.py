"""Records of what a manifest, a folder of shards or a benchmark holds: videos with captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Clip:
    """One video with its captions.

    Attributes:
        id: unique in its data set.
        path: of the video; see `simvtp.data.video.readers` for what may be there.
        captions: at least one, unless a benchmark asks something else about its videos.
        split: train, val or test; empty until one is assigned.
        start_s: where the part that is meant begins, in seconds; None = at the beginning.
        end_s: where it ends; None = at the end.
        measured: frames, frames per second, height, width, where an index knows them.
    """

    id: str
    path: Path
    captions: tuple[str, ...]
    split: str = ""
    start_s: float | None = None
    end_s: float | None = None
    measured: tuple[int, float, int, int] | None = None


@dataclass(frozen=True)
class BenchmarkOrigin:
    """The benchmark that captions and splits come from.

    Attributes:
        protocol: empty where the benchmark has only one.
        notes: for readers of its metrics.
    """

    name: str
    protocol: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class TableRows:
    """Counts of the rows of a table that were read and used.

    Attributes:
        placeholders: captions that say nothing, with the number of rows.
    """

    read: int = 0
    used: int = 0
    placeholders: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest.

    Attributes:
        clips: captioned videos only, in the order in which their ids first appear; of a table a
            view of columns in a file (`ClipView`).
        has_splits: it says itself which clip is in which split.
        empty_captions: rows that were left out because their caption is empty.
        uncaptioned: ids of the videos that were left out because no caption was left.
        conflicts: ids that stand for several paths or splits, where they are collected.
        source: of shards that were made from a benchmark, and of a benchmark itself.
        rows: of the table that was read, if it is one.
        shared: notes on files that are in several splits, where they were looked for.
    """

    path: Path
    clips: Sequence[Clip]
    has_splits: bool
    empty_captions: int
    uncaptioned: tuple[str, ...]
    conflicts: tuple[str, ...] = ()
    source: BenchmarkOrigin | None = None
    rows: TableRows | None = None
    shared: tuple[str, ...] | None = None
