"""Study of a grid, whose points are given."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from sweeps.study.trials import P, Trials


class GridStudy(Trials[P]):
    """Study of a grid: each given point is run once."""

    def __init__(
        self,
        path: Path,
        sweep_id: str,
        points: Sequence[P],
        label: str = "figure",
        known: Collection[str] | None = None,
    ) -> None:
        """Opens or creates the study; enqueues nothing yet.

        Args:
            path: its journal.
            sweep_id: its name.
            points: all that the grid may have.
            label: name of the metric.
            known: fingerprints of the points that are to be run as far as is known; None = all.
        """
        super().__init__(path, sweep_id, ["maximize"], [label], optuna.pruners.NopPruner())
        self._points = {
            point.fingerprint: point
            for point in points
            if known is None or point.fingerprint in known
        }
        self._distributions = _grid_distributions([self._params(point) for point in points])
        self._load_trials()

    def _params(self, point: P) -> dict[str, Any]:
        return {**point.cell, "seed": point.seed}


def _grid_distributions(cells: Sequence[Mapping[str, Any]]) -> dict[str, BaseDistribution]:
    """Returns a distribution for each axis, as the dashboard shows it.

    Numbers become a range (short in the file, an axis with a scale in a plot), anything else sorted
    choices. The order in which a grid was written does not matter.
    """
    values: dict[str, set[Any]] = {}
    for cell in cells:
        for key, value in cell.items():
            values.setdefault(key, set()).add(value)
    return {key: _range(found) for key, found in values.items()}


def _range(values: set[Any]) -> BaseDistribution:
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return IntDistribution(min(values), max(values))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return FloatDistribution(float(min(values)), float(max(values)))
    return CategoricalDistribution(sorted(values, key=lambda value: (str(type(value)), value)))
