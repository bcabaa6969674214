"""How points stand at the end of a call, and the words for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ablations.design import Ablation, Point
from ablations.search import Search
from simvtp.runs.scores import read_metric
from sweeps.monitor.overview import reason as why
from sweeps.monitor.run_state import (
    CANCELLED,
    FINISHED,
    PRUNED,
    STOPPED,
    PointState,
    failure_log,
    read_value,
)

Comparison = Ablation | Search  # what the engine brings to its desired state


@dataclass(frozen=True)
class Outcome:
    """How a point stands at the end of a call. `value` and `chance` are of the comparison's metric."""

    point: Point
    state: PointState
    value: float | None = None
    chance: float | None = None
    reason: str = ""
    log: Path | None = None
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """How all selected points stand at the end of a call. `detached`: the jobs go on without a
    controller.
    """

    outcomes: tuple[Outcome, ...]
    interrupted: bool
    sweep_dir: Path
    detached: bool = False

    @property
    def unfinished(self) -> tuple[Outcome, ...]:
        """Points that should have finished: a pruned one is done."""
        return tuple(
            outcome for outcome in self.outcomes if outcome.state.state not in (FINISHED, PRUNED)
        )


def outcome_of(point: Point, state: PointState, comparison: Comparison) -> Outcome:
    """What a point has come to, with the reason and the last lines of its log where it did not
    finish.
    """
    if state.state == FINISHED:
        value, chance = read_value(point.run_dir, comparison.metric) or (None, None)
        reason = "" if value is not None else f"its results hold no {comparison.metric}"
        return Outcome(point, state, value, chance, reason)
    log, lines = failure_log(state, point.run_dir)
    return Outcome(
        point, state, reason=why(state, point.run_dir) or state.state, log=log, lines=tuple(lines)
    )


def objective_values(point: Point, comparison: Comparison) -> list[float] | None:
    """The figures that the study is told of a finished point; None if one was not measured."""
    metrics = (
        [objective.metric for objective in comparison.objectives]
        if isinstance(comparison, Search)
        else [comparison.metric]
    )
    found = [read_metric(point.run_dir, metric) for metric in metrics]
    return [value for value, _ in filter(None, found)] if all(found) else None


def describe_failure(outcome: Outcome, short: bool = False) -> str:
    """What went wrong with a point, the last lines of its log (unless `short`), and where the whole
    log lies.
    """
    head = f"{outcome.state.state} {outcome.point.name}: {outcome.reason}"
    if outcome.state.state in (STOPPED, CANCELLED, PRUNED):
        return head
    lines = [
        f"    | {line}"
        for line in outcome.lines
        if not short and line != f"failed: {outcome.reason}"
    ]
    return "\n".join([head, *lines, f"    log: {outcome.log}"])
