"""Trials of a search: their values, in the order in which they were proposed, and the Pareto front.

A trial ran once. Trials are never averaged: they differ in their settings, not in their seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.output.metric_formats import metric_of
from reports.study.report_plan import CellValues, PlannedObjective
from reports.study.sweep_results import MeasuredRun, SweepResults
from simvtp.runs.metric_names import result_direction
from simvtp.tracking import pareto


@dataclass(frozen=True)
class TrialResult:
    """One point of a search.

    Attributes:
        number: counts from 0.
        values: of the objectives; None for a trial that has not finished.
        test: the value on the test split, if it finished.
    """

    number: int
    cell: CellValues
    state: str
    run: MeasuredRun | None
    values: tuple[float | None, ...]
    test: float | None

    @property
    def complete(self) -> bool:
        """True if the trial has a value for each objective."""
        return None not in self.values

    @property
    def quality(self) -> float:
        """The value of the first objective; NaN without one."""
        return _number(self.values[0])

    @property
    def cost(self) -> float:
        """The value of the second objective; NaN without one."""
        return _number(self.values[1])


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def objectives_of(sweep: SweepResults) -> tuple[PlannedObjective, ...]:
    """Returns the objectives, quality before cost; by default the plan's metric."""
    plan = sweep.plan
    if not plan.objectives:
        better = metric_of(plan.column[1]).higher_is_better
        return (PlannedObjective(plan.metric, plan.metric_label, better),)
    return tuple(sorted(plan.objectives, key=is_cost))


def is_cost(objective: PlannedObjective) -> bool:
    """Returns True for an objective that is a cost."""
    return objective.metric.startswith("cost/")


def column_on_test(sweep: SweepResults) -> tuple[str, str] | None:
    """Returns the column of the test split that belongs to the first objective.

    `val/t2v/R1` belongs to a result `.../t2v`; `val/accuracy`, of a task without directions, to any
    result that has the metric. Fine-tuned results come before zero-shot ones.
    """
    key, name = objectives_of(sweep)[0].column
    direction = result_direction(key)
    found = [
        result
        for result in sweep.keys
        if name in sweep.example(result).metrics
        and (not direction or result_direction(result) == direction)
    ]
    return (found[-1], name) if found else None  # keys come with zero-shot first


def trials_of(sweep: SweepResults) -> tuple[TrialResult, ...]:
    """Returns all points of the search."""
    columns = [objective.column for objective in objectives_of(sweep)]
    test = column_on_test(sweep)
    made = []
    for number, point in enumerate(sweep.plan.points):
        run = next(iter(sweep.by_cell[point.cell]), None)
        values = tuple(sweep.values(point.cell, *column).get(point.seed) for column in columns)
        on_test = sweep.values(point.cell, *test).get(point.seed) if test else None
        state = sweep.state_of[point.fingerprint]
        made.append(TrialResult(number, point.cell, state, run, values, on_test))
    return tuple(made)


def best_first(trials: Sequence[TrialResult], objective: PlannedObjective) -> list[TrialResult]:
    """Returns the trials with a value of the first objective, the best first."""
    measured = [trial for trial in trials if trial.values[0] is not None]
    sign = -1 if objective.maximise else 1
    return sorted(measured, key=lambda trial: (sign * trial.quality, trial.number))


def pareto_front(
    trials: Sequence[TrialResult], objectives: Sequence[PlannedObjective]
) -> list[TrialResult]:
    """Returns the trials that no other dominates; equal trials are all on the front.

    A trial dominates another if it is at least as good in all objectives and better in one.
    """
    signs = [1 if objective.maximise else -1 for objective in objectives]
    complete = [trial for trial in trials if trial.complete]
    signed = []
    for trial in complete:
        values = zip(signs, trial.values, strict=True)
        signed.append([sign * _number(value) for sign, value in values])
    return [complete[number] for number in pareto(signed)]
