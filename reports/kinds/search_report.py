"""Report on a search: the best trials on the split it selected on and on the test split.

The search sees the selection split only; the test value is listed and never ranked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.figures.costs import hours, hours_unit
from reports.kinds.report_type import ReportType
from reports.kinds.search_figures import search_plots
from reports.kinds.search_trials import (
    TrialResult,
    best_first,
    column_on_test,
    is_cost,
    objectives_of,
    pareto_front,
    trials_of,
)
from reports.output.layout import DOUBLE_DAGGER, MISSING, Cell, Column, Table
from reports.output.metric_formats import Metric, metric_of, range_text
from reports.output.tables import seeds_text, states_text
from reports.study.protocols import protocol_text
from reports.study.report_plan import PlannedAxis, PlannedObjective, hashable
from reports.study.sweep_results import SweepResults

SHOWN = 10  # rows of the table of the best trials


@dataclass(frozen=True)
class ParameterAxis(PlannedAxis):
    """A setting that the search varies; `log`: it is proposed on a logarithmic scale."""

    log: bool = False

    @property
    def logarithmic(self) -> bool:
        """True if equal ratios are drawn equally far apart."""
        return self.log and self.numeric and min(self.values, default=0.0) > 0

    def text(self, value: Any) -> str:
        """Returns three significant digits: values of one parameter span powers of ten."""
        if value is None:
            return MISSING
        return f"{value:.3g}" if isinstance(value, float) else super().text(value)


def make_axis(axis: Mapping[str, Any], plan: Mapping[str, Any]) -> ParameterAxis:
    """Makes an axis of a search, with the scale of its parameter."""
    space = {parameter["key"]: parameter for parameter in plan.get("space", ())}
    log = bool(space.get(axis["key"], {}).get("log"))
    return ParameterAxis(axis["key"], axis["label"], hashable(axis["values"]), log)


# ---- tables --------------------------------------------------------------------------------------


def tables(sweep: SweepResults) -> tuple[Table, ...]:
    """Lays out the best trials by quality and, with two objectives, the Pareto front."""
    plan, trials, objectives = sweep.plan, trials_of(sweep), objectives_of(sweep)
    best = best_first(trials, objectives[0])[:SHOWN]
    front = pareto_front(trials, objectives) if len(objectives) > 1 else []
    count = f"the best {len(best)} of {len(trials)} trials" if best else f"{len(trials)} trials"
    caption = f"{plan.title}: {count} by {objectives[0].label}."
    made = [_table(sweep, plan.ablation, caption, best, front)]
    if front:
        against = " against ".join(objective.label for objective in objectives)
        caption = f"{plan.title}: the Pareto front, {against}."
        made.append(_table(sweep, f"{plan.ablation}_front", caption, _by_cost(front), front))
    return tuple(made)


def all_trials(sweep: SweepResults, by_direction: bool) -> tuple[Table, ...]:
    """Lays out every trial, in the order in which they were proposed."""
    plan, trials, objectives = sweep.plan, trials_of(sweep), objectives_of(sweep)
    front = pareto_front(trials, objectives) if len(objectives) > 1 else []
    caption = f"{plan.title}: all trials."
    return (_table(sweep, f"{plan.ablation}_all", caption, trials, front, with_state=True),)


def _by_cost(front: Sequence[TrialResult]) -> list[TrialResult]:
    return sorted(front, key=lambda trial: (trial.cost, trial.number))


def _table(
    sweep: SweepResults,
    name: str,
    caption: str,
    trials: Sequence[TrialResult],
    front: Sequence[TrialResult],
    *,
    with_state: bool = False,
) -> Table:
    objectives, test = objectives_of(sweep), column_on_test(sweep)
    winner = next(iter(best_first(trials_of(sweep), objectives[0])), None)
    with_hours = not any(map(is_cost, objectives))
    state = [Column("state", is_label=True)] if with_state else []
    columns = [Column("trial", is_label=True), *state]
    columns += [Column(axis.label, is_label=not axis.numeric) for axis in sweep.plan.axes]
    columns += [Column(objective.label) for objective in objectives]
    if test:
        columns.append(Column(f"{metric_of(test[1]).label} on test"))
    if with_hours:
        columns.append(Column(hours_unit(sweep)))
    rows = []
    for trial in trials:
        row = [Cell(str(trial.number)), *([Cell(trial.state)] if with_state else [])]
        for axis, setting in zip(sweep.plan.axes, trial.cell, strict=True):
            row.append(Cell(axis.text(setting)))
        values = [_value(o, value) for o, value in zip(objectives, trial.values, strict=True)]
        marks = (DOUBLE_DAGGER,) if trial in front else ()
        row += [Cell(values[0].text, rank=int(trial == winner), marks=marks), *values[1:]]
        if test:
            row.append(_text(metric_of(test[1]), trial.test))
        if with_hours:
            row.append(Cell(f"{hours(trial.run):.3g}" if trial.run else MISSING))
        rows.append(tuple(row))
    return Table(name, caption, tuple(columns), tuple(rows), tuple(_notes(sweep, front)))


def _notes(sweep: SweepResults, front: Sequence[TrialResult]) -> list[str]:
    test = column_on_test(sweep)
    methods = {"sampler": sweep.plan.sampler, "pruner": sweep.plan.pruner}
    proposed = ", ".join(f"{name} {text}" for name, text in methods.items() if text)
    notes = [
        f"Each trial ran once (n = 1, {seeds_text(sweep)}); trials are not averaged, "
        "and differences between them hold noise.",
        f"Bold: best by {objectives_of(sweep)[0].metric}, which the search selected on; "
        "the test figures are not ranked.",
    ]
    if front:
        notes.append(f"{DOUBLE_DAGGER}: on the Pareto front.")
    if not all(trial.complete for trial in trials_of(sweep)):
        notes.append(f"{MISSING}: no figure from a finished run.")
    notes.append(f"{states_text(sweep)}{'; ' * bool(proposed)}{proposed}.")
    notes.append(
        f"Test: {protocol_text(sweep.example(test[0]))}." if test else "No trial has a test figure."
    )
    return notes


def _value(objective: PlannedObjective, value: float | None) -> Cell:
    if is_cost(objective):
        return Cell(MISSING if value is None else f"{value:.3g}")
    return _text(metric_of(objective.column[1]), value)


def _text(metric: Metric, value: float | None) -> Cell:
    return Cell(MISSING if value is None else metric.text(value))


# ---- sentences -----------------------------------------------------------------------------------


def verdict(sweep: SweepResults) -> tuple[str, ...]:
    """Returns the selected trial, which of its values to quote, and the limits of a search."""
    trials, objectives = trials_of(sweep), objectives_of(sweep)
    ranked = best_first(trials, objectives[0])
    if not ranked:
        nothing = "No trial of this search has a figure yet, so there is nothing to say."
        return (nothing, *_progress(sweep))
    said = _selected(sweep, ranked)
    if len(objectives) > 1:
        front = pareto_front(trials, objectives)
        against = " against ".join(objective.label for objective in objectives)
        said.append(f"{len(front)} of {len(ranked)} trials are on the Pareto front ({against}).")
    said.append(
        "Each trial ran once: neighbouring trials may differ by noise alone. "
        "Run the selected settings with more seeds before comparing."
    )
    return (*said, *_progress(sweep))


def _selected(sweep: SweepResults, ranked: Sequence[TrialResult]) -> list[str]:
    objective, best = objectives_of(sweep)[0], ranked[0]
    metric = metric_of(objective.column[1])
    split = objective.metric.partition("/")[0]
    selected = (
        f"Selected on {split}: trial {best.number} ({sweep.plan.describe(best.cell)}), the best "
        f"of {len(ranked)} with {_with_unit(metric, best.quality)} on {split}."
    )
    if best.test is None:
        unquotable = (
            f"It has no test figure, and the one on {split} is too favourable to be quoted: "
            f"it was selected as the best of {len(ranked)}."
        )
        return [selected, unquotable]
    quote = (
        f"On the test split it has {_with_unit(metric, best.test)}{_chance(sweep, metric)}: "
        f"that is the figure to quote. The one on {split} is the best of {len(ranked)} noisy "
        "ones, so it is too favourable."
    )
    return [selected, quote]


def _with_unit(metric: Metric, value: float) -> str:
    return f"{metric.label} {metric.text(value)}{' %' if metric.unit == '%' else ''}"


def _chance(sweep: SweepResults, metric: Metric) -> str:
    test = column_on_test(sweep)
    if test is None:
        return ""
    levels = []
    chance = sweep.example(test[0]).chance.get(test[1])
    if chance is not None:
        levels.append(f"guessing: {chance:.2f}{' %' if metric.unit == '%' else ''}")
    for name, values in sweep.baselines(*test).items():
        levels.append(f"{name}: {range_text(metric, values.values())}")
    return f" ({', '.join(levels)})" if levels else ""


def _progress(sweep: SweepResults) -> list[str]:
    """Returns a sentence on trials that are missing or ended early; nothing if all finished."""
    plan = sweep.plan
    more = f"; {plan.trials} were asked for" if plan.trials > len(plan.points) else ""
    return [f"{states_text(sweep)}{more}."] if more or set(sweep.states) != {"finished"} else []


# ---- long form -----------------------------------------------------------------------------------


def trials_frame(sweep: SweepResults) -> pd.DataFrame:
    """Returns a row for each trial: state, settings, objectives, test value, hours, run.

    Values are empty where there is no finished run.
    """
    test, objectives = column_on_test(sweep), objectives_of(sweep)
    rows = []
    for trial, point in zip(trials_of(sweep), sweep.plan.points, strict=True):
        row: dict[str, Any] = {"trial": trial.number, "state": trial.state}
        row |= sweep.plan.settings(trial.cell)
        for objective, value in zip(objectives, trial.values, strict=True):
            row[objective.metric] = value
        if test:
            row["/".join(test)] = trial.test
        run = trial.run
        row |= {
            "cpu_hours": run.cpu_hours if run else None,
            "gpu_hours": run.gpu_hours if run else None,
            "run_id": run.run_id if run else "",
            "fingerprint": point.fingerprint,
        }
        rows.append(row)
    return pd.DataFrame(rows)


REPORT_TYPE = ReportType(
    make_axis=make_axis,
    tables=tables,
    more=all_trials,
    plots=search_plots,
    verdict=verdict,
    points=trials_frame,
)
