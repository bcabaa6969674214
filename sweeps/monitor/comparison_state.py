"""Reads from the run directories which comparisons of a sweep with a stopping rule are decided."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ablations.evidence.stopping_rule import Decision, SeedOutcome, StoppingRule, judge
from ablations.evidence.until_decided import cell_key
from simvtp.runs.metric_names import MetricName
from simvtp.runs.run_records import RunState
from simvtp.runs.scores import read_results_or_none
from sweeps.monitor.overview import SweepFolder, reason_of
from sweeps.monitor.point_state import GIVEN_UP, read_state, read_value


class SeededPoint(Protocol):
    """Fields that are read of a point."""

    @property
    def name(self) -> str: ...
    @property
    def cell(self) -> Mapping[str, Any]: ...
    @property
    def seed(self) -> int: ...
    @property
    def run_dir(self) -> Path: ...


@dataclass(frozen=True)
class ComparisonState:
    """One cell against the baseline of its sweep; `name` is that of the cell."""

    name: str
    cell: Mapping[str, Any]
    decision: Decision


def read_outcome(point: SeededPoint, metric: str) -> SeedOutcome:
    """Returns the outcome of a point as its run directory has it now.

    Whether a job is alive is not asked: what has not finished and was not given up may still get
    its value.
    """
    state = read_state(point.run_dir, alive=False)
    if state.state in GIVEN_UP:
        reason = reason_of(state, point.run_dir)
        return SeedOutcome(failure=f"{point.name} {state.state}: {reason}")
    if state.state != RunState.FINISHED:
        return SeedOutcome()
    measured = read_value(point.run_dir, metric)
    if measured is None or not math.isfinite(measured[0]):
        return SeedOutcome(failure=f"{point.name}: its results have no {metric}")
    results = tuple(
        (result.key, result.protocol.checkpoint, tuple(result.metrics.values()))
        for result in read_results_or_none(point.run_dir) or ()
    )
    return SeedOutcome(measured[0], results=results or None)


def read_comparisons(
    rule: StoppingRule, points: Iterable[SeededPoint], metric: str
) -> list[ComparisonState]:
    """Returns the state of each comparison, in the order of the points.

    Args:
        rule: of the sweep.
        points: those that were planned so far.
        metric: tracked name of the sweep's metric.
    """
    cells: dict[str, dict[int, SeededPoint]] = {}
    for point in points:
        cells.setdefault(cell_key(point.cell), {})[point.seed] = point
    own = cell_key(rule.baseline)
    higher = not MetricName.parse(metric).lower_is_better

    def outcomes(planned: Mapping[int, SeededPoint]) -> list[SeedOutcome]:
        return [
            read_outcome(planned[seed], metric) if seed in planned else SeedOutcome()
            for seed in rule.seeds
        ]

    baseline = outcomes(cells.get(own, {}))
    found = []
    for key, planned in cells.items():
        if key != own:
            first = next(iter(planned.values()))
            decision = judge(rule, outcomes(planned), baseline, higher)
            found.append(ComparisonState(cell_name(first), first.cell, decision))
    return found


@dataclass(frozen=True)
class RecordedComparisons:
    """The comparisons of a recorded sweep and their rule."""

    rule: StoppingRule
    states: tuple[ComparisonState, ...]

    @property
    def is_open(self) -> bool:
        """True if further runs may decide one."""
        return any(state.decision.is_open for state in self.states)

    @property
    def lines(self) -> list[str]:
        """The rule and a line for each comparison, for people."""
        return comparison_lines(self.rule, self.states)

    def to_dict(self) -> dict[str, Any]:
        """Returns the rule and the comparisons for programs."""
        states = [
            {
                "name": state.name,
                "cell": dict(state.cell),
                **asdict(state.decision),
                "verdict": str(state.decision.verdict),
            }
            for state in self.states
        ]
        return self.rule.to_dict() | {"states": states}


def recorded_comparisons(sweep: SweepFolder) -> RecordedComparisons:
    """Reads the comparisons of a sweep whose plan has a stopping rule."""
    rule = StoppingRule.from_dict(sweep.plan.values["until_decided"])
    states = read_comparisons(rule, sweep.points, sweep.plan.metric)
    return RecordedComparisons(rule, tuple(states))


def cell_name(point: SeededPoint) -> str:
    """Returns the name of a point without its seed."""
    return point.name.removesuffix(f" seed {point.seed}")


def comparison_lines(rule: StoppingRule, states: Iterable[ComparisonState]) -> list[str]:
    """Returns the rule and a line for each comparison, for people."""
    return [
        f"Seeds until decided: {rule.sentence}.",
        *(f"  {state.name}: {state.decision.text}" for state in states),
    ]
