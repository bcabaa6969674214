"""A plain reader of manifests: dictionaries of all rows in memory, as before columns were built."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from simvtp.data.clips import Clip, Manifest, TableRows
from simvtp.data.manifest.splits import SPLITS
from simvtp.data.manifest.table_cells import Cells, open_table
from simvtp.data.text.placeholder_captions import says_nothing
from simvtp.data.video.frame_folder import video_exists
from simvtp.errors import DataError

NAMES = ("path", "split", "start_s", "end_s")


@dataclass
class Plain:
    """All rows of a table in dictionaries, by id."""

    name: str
    unit: str
    has_splits: bool
    places: dict[str, tuple[str, str, str, str]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    captions: dict[str, list[str]] = field(default_factory=dict)
    conflicts: dict[str, str] = field(default_factory=dict)
    silent: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    empty: int = 0
    first_silent: int = 0

    def add(self, cells: Cells) -> None:
        line, video, place, caption, split, start, end = cells
        where = f"{self.name}: {self.unit} {line} has"
        self.rows += 1
        if not video or not place:
            lacks = "videoid" if not video else "path"
            raise DataError(f"{where} no {lacks}; fill it in or remove the row.")
        if self.has_splits and split not in SPLITS:
            raise DataError(
                f"{where} split '{split}' must be one of train, val, test (or drop the column)."
            )
        video = unicodedata.normalize("NFC", video)
        here = (place, split, start, end)
        first = self.places.setdefault(video, here)
        if first != here and video not in self.conflicts:
            self.conflicts[video] = _difference(first, here)
        self.lines.setdefault(video, line)
        said = self.captions.setdefault(video, [])
        if not caption:
            self.empty += 1
        elif says_nothing(caption):
            self.silent[caption] += 1
            self.first_silent = self.first_silent or line
        else:
            said.append(caption)

    def refuse_counts(self, collect_conflicts: bool, max_ratio: float) -> None:
        if not self.rows:
            raise DataError(f"{self.name} has column names but no rows; add one row per caption.")
        if self.conflicts and not collect_conflicts:
            video, why = next(iter(self.conflicts.items()))
            raise DataError(
                f"{self.name}: videoid '{video}' has {why} ({len(self.conflicts)} such ids); "
                "give each video its own id."
            )
        if self.silent.total() > max_ratio * self.rows:
            common = ", ".join(f"'{text}' {n}" for text, n in self.silent.most_common(3))
            raise DataError(
                f"{self.name}: {self.silent.total()} of {self.rows} captions say nothing "
                f"({common}; the first in {self.unit} {self.first_silent}); correct them, or "
                f"raise data.max_placeholder_ratio ({max_ratio:g})."
            )

    def clips(self, folder: Path) -> tuple[Clip, ...]:
        clips = []
        for video, (place, split, start, end) in self.places.items():
            if self.captions[video]:
                home = place.startswith("~")
                path = folder / Path(place).expanduser() if home else folder / place
                part = _part(self.name, video, start, end)
                clips.append(Clip(video, path, tuple(self.captions[video]), split, *part))
        if not clips:
            raise DataError(f"{self.name} has no row with a caption; add captions, one row each.")
        if not any(video_exists(clip.path) for clip in clips[:1000]):
            raise DataError(
                f"{self.name}: no video of its column `path` exists; the first is "
                f"{clips[0].path} ({self.unit} {self.lines[clips[0].id]}). "
                "Paths are relative to its folder."
            )
        return tuple(clips)


def read_plainly(path: Path, collect_conflicts: bool = False, max_ratio: float = 0.1) -> Manifest:
    """Returns what `read_manifest` must return, or raises what it must raise."""
    table = open_table(path, f"manifest {path}")
    plain = Plain(table.name, table.unit, table.has_splits)
    for cells in table.cells:
        plain.add(cells)
    plain.refuse_counts(collect_conflicts, max_ratio)
    clips = plain.clips(path.resolve().parent)
    uncaptioned = tuple(video for video in plain.places if not plain.captions[video])
    used = TableRows(
        plain.rows, plain.rows - plain.empty - plain.silent.total(), dict(plain.silent)
    )
    conflicts = tuple(plain.conflicts)
    return Manifest(path, clips, table.has_splits, plain.empty, uncaptioned, conflicts, rows=used)


def _difference(first: tuple[str, ...], other: tuple[str, ...]) -> str:
    what, one, two = next(
        found for found in zip(NAMES, first, other, strict=True) if found[1] != found[2]
    )
    pair = sorted((one, two)) if what == "path" else (one, two)
    return f"two {what}{'' if what.endswith('_s') else 's'}, {' and '.join(pair)}"


def _part(name: str, video: str, start: str, end: str) -> tuple[float | None, float | None]:
    try:
        first, last = (float(text) if text else None for text in (start, end))
    except ValueError:
        first = last = float("nan")
    if not (first or 0) >= 0 or (last is not None and not (first or 0) < last < float("inf")):
        raise DataError(
            f"{name}: videoid '{video}' has start_s '{start}' and end_s '{end}'; "
            "they must be seconds, 0 <= start_s < end_s."
        )
    return first, last
