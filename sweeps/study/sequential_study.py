"""Study of a grid whose seeds are added until each comparison is decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ablations.design import Point
from ablations.evidence.stopping_rule import Decision, SeedOutcome
from ablations.evidence.until_decided import UntilDecided
from sweeps.monitor.comparison_state import cell_name, read_outcome
from sweeps.study.grid import GridStudy


class SequentialStudy(GridStudy[Point]):
    """Study that plans further seeds of the comparisons that are still undecided.

    What is planned is a function of the run directories, so a controller that is started again
    plans what the first would have. A comparison does not wait for the others: it gets its next
    seeds as soon as its own runs and those of the baseline have finished.
    """

    def __init__(
        self, path: Path, definition: UntilDecided, recorded: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Opens or creates the study.

        Args:
            path: its journal.
            definition: the grid and its rule.
            recorded: the points of plan.json, whose jobs may be running.
        """
        self._definition = definition
        self._finished: dict[str, SeedOutcome] = {}
        self._changed = True
        wanted = definition.wanted(definition.decisions(self._outcome))
        known = {point.fingerprint for point in wanted}
        known |= {str(entry["fingerprint"]) for entry in recorded}
        grid = definition.grid
        super().__init__(path, definition.sweep_id, grid.points(), grid.metric_label, known)

    def ask(self) -> Point | None:
        """Returns a waiting point, else one of the seeds that are needed now, else None."""
        waiting = super().ask()
        if waiting is not None or not self._changed:
            return waiting
        self._changed = False
        decisions = self._definition.decisions(self._outcome)
        self._note_decisions(decisions)
        fresh = [
            point
            for point in self._definition.wanted(decisions)
            if point.fingerprint not in self._points
        ]
        if not fresh:
            return None
        with self._file.batch():
            for point in fresh:
                self._points[point.fingerprint] = point
                self._enqueue(point, {})
        return super().ask()

    def tell(
        self,
        fingerprint: str,
        values: Sequence[float] | None,
        reason: str = "",
        pruned: bool = False,
    ) -> None:
        self._changed = True
        super().tell(fingerprint, values, reason, pruned)

    def _outcome(self, point: Point) -> SeedOutcome:
        found = self._finished.get(point.fingerprint)
        if found is None:
            found = read_outcome(point, self._definition.grid.metric)
            if found.value is not None:  # a finished run does not change any more
                self._finished[point.fingerprint] = found
        return found

    def _note_decisions(self, decisions: Mapping[str, Decision]) -> None:
        for key, decision in decisions.items():
            if not decision.is_open:
                name = cell_name(self._definition.cells[key][0])
                note = f"no more seeds for {name}: {decision.text}"
                if note not in self.notes:
                    self.notes.append(note)
