"""Grids and searches behind one protocol: all that the engine and the commands need of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any, Protocol

from ablations.design import Ablation, Point
from ablations.evidence.until_decided import UntilDecided
from ablations.search import Search
from simvtp.config.experiment_config import Experiment
from simvtp.runs.atomic_files import read_json
from sweeps.monitor.comparison_state import comparison_lines, read_comparisons, read_outcome
from sweeps.study.grid import GridStudy
from sweeps.study.search_study import SearchStudy
from sweeps.study.sequential_study import SequentialStudy
from sweeps.study.trials import Trials

PLAN = "plan.json"
CONCURRENT_PROPOSALS = 8  # points of a search on a cluster, if --parallel is not given

Study = Trials[Point]
Definition = Ablation | UntilDecided | Search


class SweepComparison(Protocol):
    """A comparison of experiments whose points are given (grid) or become known one by one.

    They become known in a search, and in a grid whose seeds are added until it is decided.

    Attributes:
        name: of the ablation.
        title: for people.
        base: the experiment that every point starts from.
        sweep_id: identity of the sweep.
        metric: tracked name of the main value.
        metric_label: its name for people.
        metrics: tracked names of all values that the study needs of a finished point.
        proposes: points become known while it runs.
        prunes: running points may be pruned.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def base(self) -> Experiment: ...
    @property
    def sweep_id(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def metric_label(self) -> str: ...
    @property
    def metrics(self) -> tuple[str, ...]: ...
    @property
    def proposes(self) -> bool: ...
    @property
    def prunes(self) -> bool: ...

    @property
    def size(self) -> int:
        """Number of points in the end, or at most."""

    @property
    def varied_keys(self) -> frozenset[str]:
        """Settings that a user cannot give, because the sweep varies them."""

    @property
    def axis_keys(self) -> dict[str, str]:
        """Key of each axis in a cell, by all names of the axis."""

    def open_study(self, path: Path, recorded: Sequence[Mapping[str, Any]] = ()) -> Study:
        """Opens or creates the study; `recorded` are the points of an existing plan.json."""

    def plan(self, points: Sequence[Point]) -> dict[str, Any]:
        """Returns the content of plan.json, given the points that are known."""

    def known_points(self) -> tuple[Point, ...]:
        """Returns the points that are known without opening the study."""

    def recorded_plan(self) -> dict[str, Any]:
        """Returns the plan for the tracker."""

    def parallel_jobs(self, slots: int, parallel: int) -> int:
        """Returns how many jobs to run at once, given the executor's slots and --parallel."""

    def heading(self, known: int) -> str:
        """Returns the first line of a dry run, given how many points are known."""

    def unknown_points(self, known: int) -> int:
        """Returns how many points more will certainly be run, given how many are known."""

    def notes(self) -> tuple[str, ...]:
        """Returns what else people should know of its state, a line each."""


def sweep_folder(comparison: SweepComparison | Definition) -> Path:
    """Returns `<runtime.root>/sweeps/<sweep id>`."""
    return Path(comparison.base.runtime.root) / "sweeps" / comparison.sweep_id


class _Named:
    """Base class of the comparisons: delegates to the definition in `ablations`."""

    def __init__(self, definition: Ablation | Search) -> None:
        self._definition = definition

    @property
    def name(self) -> str:
        return self._definition.name

    @property
    def title(self) -> str:
        return self._definition.title

    @property
    def base(self) -> Experiment:
        return self._definition.base

    @property
    def sweep_id(self) -> str:
        return self._definition.sweep_id

    @property
    def metric(self) -> str:
        return self._definition.metric

    @property
    def metric_label(self) -> str:
        return self._definition.metric_label


class GridComparison(_Named):
    """A grid: all points are given."""

    proposes = False
    prunes = False

    def __init__(self, grid: Ablation) -> None:
        super().__init__(grid)
        self._grid = grid

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self._grid.metric,)

    @property
    def size(self) -> int:
        return len(self._grid.points())

    @property
    def varied_keys(self) -> frozenset[str]:
        return self._grid.varied_keys

    @property
    def axis_keys(self) -> dict[str, str]:
        return {name: axis.key for axis in self._grid.axes for name in (axis.key, axis.name)}

    def open_study(self, path: Path, recorded: Sequence[Mapping[str, Any]] = ()) -> Study:
        grid = self._grid
        return GridStudy(path, grid.sweep_id, grid.points(), grid.metric_label)

    def plan(self, points: Sequence[Point]) -> dict[str, Any]:
        return self._grid.plan()

    def known_points(self) -> tuple[Point, ...]:
        return self._grid.points()

    def recorded_plan(self) -> dict[str, Any]:
        return self._grid.plan()

    def parallel_jobs(self, slots: int, parallel: int) -> int:
        return slots

    def heading(self, known: int) -> str:
        sizes = " x ".join(str(len(axis.values)) for axis in self._grid.axes)
        seeds = ", ".join(map(str, self._grid.seeds))
        return f"{self.sweep_id}: {self.title}, {sizes} cells, seeds {seeds}"

    def unknown_points(self, known: int) -> int:
        return 0

    def notes(self) -> tuple[str, ...]:
        return ()


class SequentialComparison(GridComparison):
    """A grid whose seeds are added until each comparison is decided."""

    proposes = True

    def __init__(self, definition: UntilDecided) -> None:
        super().__init__(definition.grid)
        self._sequential = definition

    @property
    def sweep_id(self) -> str:
        return self._sequential.sweep_id

    def open_study(self, path: Path, recorded: Sequence[Mapping[str, Any]] = ()) -> Study:
        return SequentialStudy(path, self._sequential, recorded)

    def plan(self, points: Sequence[Point]) -> dict[str, Any]:
        return self._sequential.plan(points)

    def known_points(self) -> tuple[Point, ...]:
        """Returns the points that the finished runs ask for now."""
        made = self._sequential
        return made.wanted(made.decisions(lambda point: read_outcome(point, self.metric)))

    def recorded_plan(self) -> dict[str, Any]:
        """Returns plan.json with the points planned so far, else a plan with those of now."""
        path = sweep_folder(self) / PLAN
        return dict(read_json(path)) if path.exists() else self.plan(self.known_points())

    def heading(self, known: int) -> str:
        cells = len(self._sequential.cells)
        return f"{self.sweep_id}: {self.title}, {cells} cells, {known} of at most {self.size} runs"

    def notes(self) -> tuple[str, ...]:
        rule = self._sequential.rule
        return tuple(
            comparison_lines(rule, read_comparisons(rule, self._grid.points(), self.metric))
        )


class SearchComparison(_Named):
    """A search: points are proposed until there are `trials` of them."""

    proposes = True

    def __init__(self, search: Search) -> None:
        super().__init__(search)
        self._search = search

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(objective.metric for objective in self._search.objectives)

    @property
    def prunes(self) -> bool:
        return self._search.pruner != "none"

    @property
    def size(self) -> int:
        return self._search.trials

    @property
    def varied_keys(self) -> frozenset[str]:
        return frozenset(parameter.key for parameter in self._search.space)

    @property
    def axis_keys(self) -> dict[str, str]:
        return {name: p.key for p in self._search.space for name in (p.key, p.name)}

    def open_study(self, path: Path, recorded: Sequence[Mapping[str, Any]] = ()) -> Study:
        return SearchStudy(path, self._search, recorded)

    def plan(self, points: Sequence[Point]) -> dict[str, Any]:
        return self._search.plan(points)

    def known_points(self) -> tuple[Point, ...]:
        cells = self.recorded_plan()["points"]
        return tuple(self._search.point(entry["cell"]) for entry in cells)

    def recorded_plan(self) -> dict[str, Any]:
        """Returns plan.json with the points proposed so far, else a plan without points."""
        path = sweep_folder(self._search) / PLAN
        return dict(read_json(path)) if path.exists() else self._search.plan()

    def parallel_jobs(self, slots: int, parallel: int) -> int:
        # a search must not propose all its points before it has learnt from the first ones
        return min(slots, parallel or CONCURRENT_PROPOSALS)

    def heading(self, known: int) -> str:
        return f"{self.sweep_id}: {self.title}, {self.size} points, {known} proposed so far"

    def unknown_points(self, known: int) -> int:
        return max(0, self.size - known)

    def notes(self) -> tuple[str, ...]:
        return ()


@singledispatch
def comparison_of(definition: Definition) -> SweepComparison:
    """Returns the comparison of a grid, a grid with a stopping rule, or a search."""
    raise TypeError(f"neither a grid nor a search: {definition!r}")


@comparison_of.register
def _(definition: Ablation) -> SweepComparison:
    return GridComparison(definition)


@comparison_of.register
def _(definition: UntilDecided) -> SweepComparison:
    return SequentialComparison(definition)


@comparison_of.register
def _(definition: Search) -> SweepComparison:
    return SearchComparison(definition)
