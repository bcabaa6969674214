"""Finished runs of one sweep at their planned points: the data behind every table and figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any

from reports.analysis.seed_statistics import SeedSummary, is_number, summarise
from reports.study.report_plan import CellValues, PlannedPoint, StudyPlan
from simvtp.runs.results import Result


@dataclass(frozen=True)
class MeasuredRun:
    """A finished run at its planned point.

    Attributes:
        results: by `Result.key`.
        scores: tracked values that are no results and that a search selects on.
        run_dir: the run directory, or "" if it is not known; it may have been deleted.
        test_set: settings that decide the test items (see `protocols.identify_test_set`).
        samples: {training stage: samples seen, repeats counted}.
        parameters: of the pre-training model; None if the run did not record it.
        steps: {training stage: updates made}.
        curves: losses and validation values while training, {`<stage>/<metric>`: curve}.
        forward_flops: of one forward pass of pre-training per sample; None if not recorded.
    """

    point: PlannedPoint
    run_id: str
    results: Mapping[str, Result]
    commit: str
    dirty: bool
    hardware: str
    cpu_hours: float
    gpu_hours: float
    scores: Mapping[str, float] = field(default_factory=dict)
    run_dir: str = ""
    test_set: tuple[tuple[str, str], ...] = ()
    samples: Mapping[str, int] = field(default_factory=dict)
    parameters: int | None = None
    forward_flops: int | None = None
    steps: Mapping[str, int] = field(default_factory=dict)
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class ExcludedRun:
    """A run that is not in the tables, or a planned point without one.

    Runs that are in the tables with a reservation (uncommitted changes) are listed as well, with
    the state "finished".
    """

    point: PlannedPoint
    run_id: str
    state: str
    remark: str


@dataclass(frozen=True)
class SweepResults:
    """Results of one sweep.

    Attributes:
        plan: the planned cells and seeds.
        runs: finished runs.
        excluded: planned points without a usable run, and runs with a reservation.
        notices: warnings for the reader, one sentence each.
    """

    plan: StudyPlan
    runs: tuple[MeasuredRun, ...]
    excluded: tuple[ExcludedRun, ...]
    notices: tuple[str, ...]

    @cached_property
    def cache(self) -> dict[str, Any]:
        """Values that are derived from these results once and used in several tables."""
        return {}

    @cached_property
    def by_cell(self) -> dict[CellValues, tuple[MeasuredRun, ...]]:
        """Finished runs of each planned cell, by seed."""
        found: dict[CellValues, list[MeasuredRun]] = {cell: [] for cell in self.plan.cells}
        for run in sorted(self.runs, key=lambda run: run.point.seed):
            found[run.point.cell].append(run)
        return {cell: tuple(runs) for cell, runs in found.items()}

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Keys of all measured results: zero-shot before fine-tuned, text to video first."""
        keys = {key for run in self.runs for key in run.results}
        return tuple(sorted(keys, key=lambda k: ("zero-shot" not in k, not k.endswith("t2v"), k)))

    def values(self, cell: CellValues, key: str, metric: str) -> dict[int, float]:
        """Returns {seed: value} of one cell, without values that are not finite (see `notices`)."""
        found = {}
        for run in self.by_cell.get(cell, ()):
            if key in run.results:
                value = run.results[key].metrics.get(metric)
            else:
                value = run.scores.get(f"{key}/{metric}")
            if value is not None and is_number(value):
                found[run.point.seed] = value
        return found

    def summary(self, cell: CellValues, key: str, metric: str) -> SeedSummary | None:
        """Returns mean and spread over the seeds of a cell; None if it has no value."""
        return summarise(self.values(cell, key, metric).values())

    def planned(self, cell: CellValues) -> int:
        """Returns the number of seeds that the plan has for this cell."""
        return len({point.seed for point in self.plan.points if point.cell == cell})

    @cached_property
    def state_of(self) -> dict[str, str]:
        """{fingerprint: finished, pruned, cancelled, failed, running, not tracked ...} by point."""
        states = {
            excluded.point.fingerprint: excluded.state
            for excluded in self.excluded
            if excluded.state not in ("finished", "no figure")
        }
        return states | {run.point.fingerprint: "finished" for run in self.runs}

    @cached_property
    def states(self) -> dict[str, int]:
        """{state: number of planned points}, finished first."""
        counted = Counter(self.state_of[point.fingerprint] for point in self.plan.points)
        ordered = sorted(counted, key=lambda state: (state != "finished", state))
        return {state: counted[state] for state in ordered}

    def baselines(self, key: str, metric: str) -> dict[str, dict[CellValues, float]]:
        """Returns {baseline: {cell: its mean over the seeds}} for one metric.

        Baselines reach their value without looking at the video (`Result.baselines`).
        """
        found: dict[str, dict[CellValues, list[float]]] = {}
        for cell, runs in self.by_cell.items():
            for result in (run.results[key] for run in runs if key in run.results):
                for name, metrics in result.baselines.items():
                    if metric in metrics and is_number(metrics[metric]):
                        found.setdefault(name, {}).setdefault(cell, []).append(metrics[metric])
        return {
            name: {cell: fmean(values) for cell, values in cells.items()}
            for name, cells in found.items()
        }

    def levels(self, key: str, metric: str) -> dict[str, dict[CellValues, float]]:
        """Returns the baselines, and each row outside the grid as a level of its own mean."""
        found = self.baselines(key, metric)
        for cell in self.plan.control_cells:
            values = self.values(cell, key, metric).values()
            if values:
                found[self.plan.describe(cell)] = {cell: fmean(values)}
        return found

    def example(self, key: str) -> Result:
        """Returns any result of this column; within a column the protocol is the same.

        Raises:
            KeyError: `key` was not measured.
        """
        for run in self.runs:
            if key in run.results:
                return run.results[key]
        raise KeyError(key)

    @property
    def headline(self) -> Result | None:
        """A result of the column of the plan's metric; None if it has not been measured."""
        key, _ = self.plan.column
        return self.example(key) if key in self.keys else None


def varied_fields(sweep: SweepResults, key: str) -> dict[str, tuple[Any, ...]]:
    """Returns {field of the protocol: its values} for the fields that an axis of the sweep sets.

    Such an axis is named after the field (frames), or is one of bundles of settings, which is named
    after the ablation (methods that see other numbers of frames). No cell may have two values.
    """
    found = {}
    for name in ("frames", "segments", "crops"):
        axes = [
            number
            for number, axis in enumerate(sweep.plan.axes)
            if name in axis.key or axis.key == sweep.plan.ablation
        ]
        by_label: dict[CellValues, set[Any]] = {}
        for run in (run for run in sweep.runs if key in run.results):
            label = tuple(run.point.cell[number] for number in axes)
            by_label.setdefault(label, set()).add(getattr(run.results[key].protocol, name))
        values = sorted(set().union(*by_label.values()))
        if axes and len(values) > 1 and all(len(held) == 1 for held in by_label.values()):
            found[name] = tuple(values)
    return found
