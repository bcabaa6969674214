"""The trials of a search: what each had, in the order in which they were asked for, and which of
them nothing else beats.

A trial ran once. Trials are never averaged: they differ in their settings, not in their seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.output.metric_formats import metric_of
from reports.study.collect import Run, Study
from reports.study.report_plan import Objective, Values
from simvtp.runs.metric_names import result_direction
from simvtp.tracking import pareto


@dataclass(frozen=True)
class Trial:
    """One point of a search; `number` counts from 0. Only a finished trial has `values` (of the
    objectives) and a `test` figure.
    """

    number: int
    cell: Values
    state: str
    run: Run | None
    values: tuple[float | None, ...]
    test: float | None

    @property
    def complete(self) -> bool:
        return None not in self.values


def objectives_of(study: Study) -> tuple[Objective, ...]:
    """What the search improves, a figure of quality before a cost; without objectives in the plan
    that is its metric.
    """
    plan = study.plan
    if not plan.objectives:
        return (
            Objective(plan.metric, plan.metric_label, metric_of(plan.column[1]).higher_is_better),
        )
    return tuple(
        sorted(plan.objectives, key=lambda objective: objective.metric.startswith("cost/"))
    )


def test_column(study: Study) -> tuple[str, str] | None:
    """The result on the test split that belongs to the first objective: same direction, fine-tuned
    rather than zero-shot.

    `val/t2v/R1` belongs to a result `.../t2v`, and `val/accuracy`, of a task without directions, to
    any that has the metric."""
    key, name = objectives_of(study)[0].column
    direction = result_direction(key)
    having = [k for k in study.keys if name in study.example(k).metrics]  # type: ignore[union-attr]
    found = [k for k in having if not direction or result_direction(k) == direction]
    return (found[-1], name) if found else None  # keys come with zero-shot first


def trials_of(study: Study) -> tuple[Trial, ...]:
    """All points of the search."""
    columns, test = [objective.column for objective in objectives_of(study)], test_column(study)
    made = []
    for number, point in enumerate(study.plan.points):
        run = next(iter(study.by_cell[point.cell]), None)
        values = tuple(study.values(point.cell, *column).get(point.seed) for column in columns)
        figure = study.values(point.cell, *test).get(point.seed) if test else None
        made.append(
            Trial(number, point.cell, study.state_of[point.fingerprint], run, values, figure)
        )
    return tuple(made)


def best_first(trials: Sequence[Trial], objective: Objective) -> list[Trial]:
    """Trials with a figure of quality, the best first; of equal ones the earlier."""
    measured = [(trial.values[0], trial) for trial in trials if trial.values[0] is not None]
    return [
        trial
        for _, trial in sorted(
            measured, key=lambda pair: (-pair[0] if objective.maximise else pair[0], pair[1].number)
        )
    ]


def pareto_front(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """Trials that no other beats: none is at least as good in all objectives and better in one.
    Equal trials are all in it.
    """
    signs = [1 if objective.maximise else -1 for objective in objectives]
    whole = [trial for trial in trials if trial.complete]
    return [
        whole[number]
        for number in pareto(
            [[sign * (v or 0.0) for sign, v in zip(signs, t.values, strict=True)] for t in whole]
        )
    ]
