"""Facts about a manifest that was read, and what is an error among them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simvtp.data.clips import Clip, ClipView, TableRows
from simvtp.data.video.frame_folder import video_exists
from simvtp.errors import DataError

log = logging.getLogger(__name__)

SEARCHED = 1000  # videos of which one must exist


@dataclass(frozen=True)
class ManifestFacts:
    """Counts and faults of a table; stored next to its columns.

    Attributes:
        unit: what a row is called: line or row.
        has_splits: it has a column of splits.
        rows: rows with any content.
        empty: rows without a caption.
        placeholders: captions that say nothing, with their numbers of rows.
        first_placeholder: line of the first of these.
        conflicts: ids that stand for several paths, splits or parts.
        first_conflict: in which way the first of them does.
        uncaptioned: ids without any caption.
        bad_part: the first part that is none, as a sentence without the table's name.
        first_line: line of the first clip.
        shared_files: number of files that are in several splits.
        first_shared: the first of these, with its splits.
    """

    unit: str
    has_splits: bool
    rows: int
    empty: int = 0
    placeholders: dict[str, int] = field(default_factory=dict)
    first_placeholder: int = 0
    conflicts: tuple[str, ...] = ()
    first_conflict: str = ""
    uncaptioned: tuple[str, ...] = ()
    bad_part: str = ""
    first_line: int = 0
    shared_files: int = 0
    first_shared: str = ""

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> ManifestFacts:
        """Returns the facts that were stored as JSON."""
        lists = {name: tuple(values[name]) for name in ("conflicts", "uncaptioned")}
        return cls(**{**values, **lists})

    @property
    def silent(self) -> int:
        """Number of rows whose caption says nothing."""
        return sum(self.placeholders.values())

    @property
    def table_rows(self) -> TableRows:
        """Counts of the rows, for reports."""
        used = self.rows - self.empty - self.silent
        return TableRows(self.rows, used, dict(self.placeholders))

    @property
    def shared(self) -> tuple[str, ...]:
        """Note on files that are in several splits; empty without a column of splits."""
        return (shared_note(self.shared_files, self.first_shared),) if self.shared_files else ()

    def judge(
        self, name: str, clips: ClipView, collect_conflicts: bool, max_placeholder_ratio: float
    ) -> None:
        """Raises DataError if the table cannot be used; warns of rows that are left out."""
        if not self.rows:
            raise DataError(f"{name} has column names but no rows; add one row per caption.")
        if self.conflicts and not collect_conflicts:
            raise DataError(
                f"{name}: videoid '{self.conflicts[0]}' has {self.first_conflict} "
                f"({len(self.conflicts)} such ids); give each video its own id."
            )
        self._refuse_placeholders(name, max_placeholder_ratio)
        if self.bad_part:
            raise DataError(f"{name}: {self.bad_part}")
        if not len(clips):
            raise DataError(f"{name} has no row with a caption; add captions, one row each.")
        self._refuse_without_files(name, clips)
        if self.empty or self.silent:
            log.warning(
                "%s: %d rows without a caption and %d whose caption says nothing were left out "
                "(%d videos had no other caption)",
                name.removeprefix("manifest "),
                self.empty,
                self.silent,
                len(self.uncaptioned),
            )

    def _refuse_placeholders(self, name: str, max_ratio: float) -> None:
        if self.silent > max_ratio * self.rows:
            most = Counter(self.placeholders).most_common(3)
            common = ", ".join(f"'{text}' {n}" for text, n in most)
            raise DataError(
                f"{name}: {self.silent} of {self.rows} captions say nothing ({common}; the first "
                f"in {self.unit} {self.first_placeholder}); correct them, or raise "
                f"data.max_placeholder_ratio ({max_ratio:g})."
            )

    def _refuse_without_files(self, name: str, clips: ClipView) -> None:
        searched = range(min(len(clips), SEARCHED))
        if not any(video_exists(clips.path(number)) for number in searched):
            first: Clip = clips[0]
            raise DataError(
                f"{name}: no video of its column `path` exists; the first is {first.path} "
                f"({self.unit} {self.first_line}). Paths are relative to its folder."
            )


def shared_note(count: int, first: str) -> str:
    """Returns a note on files that are in several splits.

    Args:
        count: number of them.
        first: one, with its splits.
    """
    return f"{count} files are in several splits, the first is {first}"


def table_name(path: Path) -> str:
    """Returns what messages call a manifest."""
    return f"manifest {path}"
