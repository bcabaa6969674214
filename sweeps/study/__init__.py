"""The Optuna study of a sweep: trials that one controller plans, asks for and tells.

The study is a cache. What happened to a point is read from its run directory, and a study that is
lost or damaged is made anew from there. A grid keeps one because people look at it
(optuna-dashboard reads the file); a search needs one to choose its next point.

The file is an Optuna journal. Two things are known to go wrong with one and are dealt with when it
is opened: a last line that was torn by a crash makes the whole file unreadable from the second
append on, and a lock that a killed writer left behind holds up the next one. Lines are appended in
batches, one lock and one flush to disk for each call, so that thousands of points are no burden on
a network file system. Cells of a paper table are never pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ablations.design import Ablation, Point
from ablations.search import Search
from sweeps.study.grid import GridStudy
from sweeps.study.journal_file import repair_journal
from sweeps.study.search_study import SearchStudy
from sweeps.study.trials import Wanted

__all__ = ["GridStudy", "SearchStudy", "Study", "open_study", "repair_journal"]


class Study(Protocol):
    """What the engine needs of a study, whether its points are given (grid) or proposed (search)."""

    path: Path
    repairs: list[str]
    notes: list[str]

    def points(self) -> tuple[Point, ...]: ...
    def plan(self, wanted: Wanted) -> None: ...
    def running(self) -> set[str]: ...
    def ask(self) -> Point | None: ...
    def note(self, fingerprint: str, **attributes: Any) -> None: ...
    def report(self, fingerprint: str, step: int, value: float) -> bool: ...
    def tell(
        self,
        fingerprint: str,
        values: Sequence[float] | None,
        reason: str = "",
        pruned: bool = False,
    ) -> None: ...
    def counts(self) -> dict[str, int]: ...


def open_study(
    path: Path, comparison: Ablation | Search, recorded: Sequence[Mapping[str, Any]] = ()
) -> GridStudy | SearchStudy:
    """The study of a grid or of a search at `path`, opened or created.

    Args: recorded: the `points` of the plan.json that lies beside the study, so that a search knows
        its points again if the study is lost.
    """
    if isinstance(comparison, Search):
        return SearchStudy(path, comparison, recorded)
    return GridStudy(path, comparison.sweep_id, comparison.points(), comparison.metric_label)
