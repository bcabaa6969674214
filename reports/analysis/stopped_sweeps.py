"""Comparisons of a sweep whose seeds were added until each was decided.

Such a sweep is judged by the stopping rule that its plan recorded (`ablations.evidence`): an
interval for a fixed number of seeds is too narrow if its own value decided when to stop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ablations.evidence.stopping_rule import (
    Decision,
    SeedOutcome,
    StoppingRule,
    adjusted_p_value,
    judge,
)
from reports.analysis.seed_statistics import Difference
from reports.output.layout import MISSING, Cell, Column, Table
from reports.output.metric_formats import metric_of
from reports.study.report_plan import CellValues
from reports.study.sweep_results import MeasuredRun, SweepResults

ENDED = ("failed", "cancelled", "no figure")  # states of runs that will have no value


@dataclass(frozen=True)
class StoppedComparison:
    """One cell against the baseline by the rule; `difference` is that of the last look."""

    decision: Decision
    difference: Difference


def stopped(sweep: SweepResults) -> Mapping[CellValues, StoppedComparison]:
    """Returns the comparison of each cell that has a value; empty for a sweep without a rule."""
    if "stopped" not in sweep.cache:
        rule = sweep.plan.until_decided
        sweep.cache["stopped"] = {} if rule is None else _stopped(sweep, rule)
    found: Mapping[CellValues, StoppedComparison] = sweep.cache["stopped"]
    return found


def _stopped(sweep: SweepResults, rule: StoppingRule) -> dict[CellValues, StoppedComparison]:
    plan, own = sweep.plan, sweep.plan.rule_baseline
    if own is None or not sweep.values(own, *plan.column):
        return {}
    higher = metric_of(plan.column[1]).higher_is_better
    baseline = _outcomes(sweep, own, rule)
    found = {}
    for cell in plan.cells:
        if cell != own and sweep.values(cell, *plan.column):
            outcomes = _outcomes(sweep, cell, rule)
            decision = judge(rule, outcomes, baseline, higher)
            gap = _difference(sweep, rule, cell, own, decision)
            found[cell] = StoppedComparison(decision, gap)
    return found


def _difference(
    sweep: SweepResults, rule: StoppingRule, cell: CellValues, own: CellValues, decision: Decision
) -> Difference:
    values, others = (sweep.values(one, *sweep.plan.column) for one in (cell, own))
    if decision.difference is None or decision.interval is None:
        return Difference(fmean(values.values()) - fmean(others.values()), None, None)
    seeds = rule.seeds[: decision.seeds]
    p_value = adjusted_p_value(
        rule, [values[seed] for seed in seeds], [others[seed] for seed in seeds]
    )
    return Difference(decision.difference, decision.interval, p_value)


def _outcomes(sweep: SweepResults, cell: CellValues, rule: StoppingRule) -> list[SeedOutcome]:
    """Returns the outcome of a cell for each seed of the rule."""
    values = sweep.values(cell, *sweep.plan.column)
    runs = {run.point.seed: run for run in sweep.by_cell[cell]}
    ended = {
        excluded.point.seed: f"seed {excluded.point.seed} {excluded.state}: {excluded.remark}"
        for excluded in sweep.excluded
        if excluded.point.cell == cell and excluded.state in ENDED
    }
    return [
        SeedOutcome(values[seed], results=run_results(runs[seed]))
        if seed in values
        else SeedOutcome(failure=ended.get(seed, ""))
        for seed in rule.seeds
    ]


def run_results(run: MeasuredRun) -> tuple[tuple[str, str, tuple[float, ...]], ...] | None:
    """Returns what identical runs have in common: weights and values of every result."""
    found = tuple(
        (key, result.protocol.checkpoint, tuple(result.metrics.values()))
        for key, result in sorted(run.results.items())
    )
    return found or None


def fixed_runs(sweep: SweepResults, cell: CellValues) -> tuple[MeasuredRun, ...]:
    """Returns the runs of a cell that an analysis with a fixed number of seeds may use.

    Of a sweep with a stopping rule these are the seeds of the first look: the number of the
    others depends on their values.
    """
    rule, runs = sweep.plan.until_decided, sweep.by_cell.get(cell, ())
    if rule is None:
        return runs
    return tuple(run for run in runs if run.point.seed in rule.first_seeds)


def fixed_values(sweep: SweepResults, cell: CellValues, key: str, metric: str) -> dict[int, float]:
    """Returns {seed: value} of the runs of `fixed_runs`."""
    seeds = {run.point.seed for run in fixed_runs(sweep, cell)}
    found = sweep.values(cell, key, metric).items()
    return {seed: value for seed, value in found if seed in seeds}


def margin_of(sweep: SweepResults) -> float | None:
    """Returns the margin of equivalence: that of the rule, else that of the metric."""
    rule = sweep.plan.until_decided
    return metric_of(sweep.plan.column[1]).margin if rule is None else rule.margin


# ---- table ---------------------------------------------------------------------------------------


def stop_tables(sweep: SweepResults) -> tuple[Table, ...]:
    """Lays out when and why each comparison stopped; nothing for a sweep without a rule."""
    rule, found = sweep.plan.until_decided, stopped(sweep)
    if rule is None or not found:
        return ()
    columns = (
        *(Column(axis.label, is_label=True) for axis in sweep.plan.axes),
        Column("seeds at the last look"),
        Column("verdict", is_label=True),
        Column("end", is_label=True),
    )
    rows = tuple(_stop_row(sweep, cell, one.decision) for cell, one in found.items())
    caption = f"{sweep.plan.title}: seeds until decided."
    name = f"{sweep.plan.ablation}_stops"
    return (Table(name, caption, columns, rows, stop_notes(rule)),)


def _stop_row(sweep: SweepResults, cell: CellValues, decision: Decision) -> tuple[Cell, ...]:
    labels = [Cell(text) for text in sweep.plan.labels(cell)]
    seeds = Cell(str(decision.seeds) if decision.seeds else MISSING)
    return (*labels, seeds, Cell(str(decision.verdict)), Cell(_end(decision)))


def _end(decision: Decision) -> str:
    if decision.is_open:
        return f"open: waits for {decision.wanted} seeds"
    return decision.reason or "decided"


def stop_notes(rule: StoppingRule) -> tuple[str, ...]:
    """Returns the rule in words."""
    return (
        f"Rule, recorded before the sweep: {rule.sentence}.",
        "The rate of 5 % holds whenever a comparison stops. A difference at which one stopped "
        "early is a little too large on average.",
    )


def stop_numbers(one: StoppedComparison | None) -> dict[str, Any]:
    """Returns the end of a comparison as plain values; empty without a rule."""
    if one is None:
        return {}
    decision = one.decision
    return {"stopped_at": decision.seeds, "open": decision.is_open, "end": _end(decision)}
