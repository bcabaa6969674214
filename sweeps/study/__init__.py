"""The Optuna study of a sweep: trials that one controller plans, asks for and tells.

The study is a cache. The results of a point are read from its run directory, and a study that is
lost or damaged is rebuilt from there. A grid keeps one for people to look at (optuna-dashboard
reads the file); a search needs one to choose its next point.

The file is an Optuna journal. Two faults are known and handled when it is opened: a last line that
was torn by a crash makes the whole file unreadable from the second append on, and a lock that a
killed writer left behind blocks the next one. Lines are appended in batches, one lock and one flush
to disk per call, so that thousands of points are no burden on a network file system. Cells of a
paper table are never pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeps.study.comparison import (
    Definition,
    Study,
    SweepComparison,
    comparison_of,
    sweep_folder,
)
from sweeps.study.grid import GridStudy
from sweeps.study.journal_file import repair_journal
from sweeps.study.search_study import SearchStudy

__all__ = [
    "Definition",
    "GridStudy",
    "SearchStudy",
    "Study",
    "SweepComparison",
    "comparison_of",
    "open_study",
    "repair_journal",
    "sweep_folder",
]


def open_study(
    path: Path, definition: Definition, recorded: Sequence[Mapping[str, Any]] = ()
) -> Study:
    """Opens or creates the study of a sweep.

    Args:
        path: its journal.
        definition: the grid or search.
        recorded: the `points` of plan.json, so that a search knows its points if the study is lost.
    """
    return comparison_of(definition).open_study(path, recorded)
