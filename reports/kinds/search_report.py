"""A search: the best trials with their figures on the split it selected on and on the test split,
and the front of two objectives.

The search looks at the selection split only; the test figure is set beside it and is never ranked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.kinds.report_kind import Kind
from reports.kinds.search_figures import search_plots
from reports.kinds.search_trials import (
    Trial,
    best_first,
    objectives_of,
    pareto_front,
    test_column,
    trials_of,
)
from reports.output.layout import DOUBLE_DAGGER, MISSING, Cell, Column, Table
from reports.output.metric_formats import Metric, metric_of, range_text
from reports.output.tables import seeds_text, states_text
from reports.study.collect import Study, protocol_text
from reports.study.report_plan import Axis, Objective, hashable

SHOWN = 10  # rows of the table of the best trials


@dataclass(frozen=True)
class Parameter(Axis):
    """A setting that the search varies, with the range it may take."""

    log: bool = False

    @property
    def logarithmic(self) -> bool:
        return self.log and self.numeric and min(self.values, default=0.0) > 0

    def text(self, value: Any) -> str:
        """Three significant digits: the values of one parameter span powers of ten."""
        return (
            f"{value:.3g}"
            if isinstance(value, float)
            else MISSING
            if value is None
            else super().text(value)
        )


def make_axis(axis: Mapping[str, Any], plan: Mapping[str, Any]) -> Parameter:
    space = {parameter["key"]: parameter for parameter in plan.get("space", ())}
    return Parameter(
        axis["key"],
        axis["label"],
        hashable(axis["values"]),
        bool(space.get(axis["key"], {}).get("log")),
    )


# ---- tables --------------------------------------------------------------------------------------


def tables(study: Study) -> tuple[Table, ...]:
    """The best trials by quality and, with two objectives or more, the trials on their front."""
    trials, objectives = trials_of(study), objectives_of(study)
    best = best_first(trials, objectives[0])[:SHOWN]
    front = pareto_front(trials, objectives) if len(objectives) > 1 else []
    count = f"the best {len(best)} of {len(trials)} trials" if best else f"{len(trials)} trials"
    made = [
        _table(
            study,
            study.plan.ablation,
            f"{study.plan.title}: {count} by {objectives[0].label}.",
            best,
            front,
        )
    ]
    if front:
        against = " against ".join(objective.label for objective in objectives)
        made.append(
            _table(
                study,
                f"{study.plan.ablation}_front",
                f"{study.plan.title}: the Pareto front, {against}.",
                _by_cost(front),
                front,
            )
        )
    return tuple(made)


def all_trials(study: Study, by_direction: bool) -> tuple[Table, ...]:
    """Every trial, in the order in which they were asked for."""
    trials, objectives = trials_of(study), objectives_of(study)
    front = pareto_front(trials, objectives) if len(objectives) > 1 else []
    return (
        _table(
            study,
            f"{study.plan.ablation}_all",
            f"{study.plan.title}: all trials.",
            trials,
            front,
            with_state=True,
        ),
    )


def _by_cost(front: Sequence[Trial]) -> list[Trial]:
    return sorted(front, key=lambda trial: (trial.values[1] or 0.0, trial.number))


def _table(
    study: Study,
    name: str,
    caption: str,
    trials: Sequence[Trial],
    front: Sequence[Trial],
    *,
    with_state: bool = False,
) -> Table:
    objectives, test = objectives_of(study), test_column(study)
    winner = next(iter(best_first(trials_of(study), objectives[0])), None)
    hours = (
        hours_name(study)
        if not any(objective.metric.startswith("cost/") for objective in objectives)
        else ""
    )
    columns = [
        Column("trial", is_label=True),
        *([Column("state", is_label=True)] if with_state else []),
    ]
    columns += [Column(axis.label, is_label=not axis.numeric) for axis in study.plan.axes]
    columns += [Column(objective.label) for objective in objectives]
    columns += [Column(f"{metric_of(test[1]).label} on test")] if test else []
    columns += [Column(hours)] if hours else []
    rows = []
    for trial in trials:
        marks = (DOUBLE_DAGGER,) if trial in front else ()
        figures = [
            _value(objective, value)
            for objective, value in zip(objectives, trial.values, strict=True)
        ]
        figures[0] = Cell(figures[0].text, place=int(trial == winner), marks=marks)
        row = [Cell(str(trial.number)), *([Cell(trial.state)] if with_state else [])]
        row += [
            Cell(axis.text(value)) for axis, value in zip(study.plan.axes, trial.cell, strict=True)
        ]
        row += [
            *figures,
            *([_text(metric_of(test[1]), trial.test)] if test else []),
            *([_hours(trial, hours)] if hours else []),
        ]
        rows.append(tuple(row))
    return Table(name, caption, tuple(columns), tuple(rows), tuple(_notes(study, front)))


def _notes(study: Study, front: Sequence[Trial]) -> list[str]:
    test = test_column(study)
    result = study.example(test[0]) if test else None
    chosen = [
        f"{what} {how}"
        for what, how in (("sampler", study.plan.sampler), ("pruner", study.plan.pruner))
        if how
    ]
    notes = [
        f"Each trial ran once (n = 1, {seeds_text(study)}); trials are not averaged, and differences between them hold noise.",
        f"Bold: best by {objectives_of(study)[0].metric}, which the search selected on; the test figures are not ranked.",
        f"{DOUBLE_DAGGER}: on the Pareto front." if front else "",
        f"{MISSING}: no figure from a finished run."
        if not all(trial.complete for trial in trials_of(study))
        else "",
        f"{states_text(study)}{'; ' * bool(chosen)}{', '.join(chosen)}.",
        f"Test: {protocol_text(result)}." if result else "No trial has a test figure.",
    ]
    return [note for note in notes if note]


def _value(objective: Objective, value: float | None) -> Cell:
    name = objective.column[1]
    return (
        Cell(MISSING if value is None else f"{value:.3g}")
        if objective.metric.startswith("cost/")
        else _text(metric_of(name), value)
    )


def _text(metric: Metric, value: float | None) -> Cell:
    return Cell(MISSING if value is None else metric.text(value))


def _hours(trial: Trial, name: str) -> Cell:
    if trial.run is None:
        return Cell(MISSING)
    return Cell(f"{trial.run.gpu_hours if name.startswith('GPU') else trial.run.cpu_hours:.3g}")


def hours_name(study: Study) -> str:
    """Which hours are told: of GPUs, if any run had one."""
    return "GPU-hours" if any(run.gpu_hours for run in study.runs) else "CPU-hours"


# ---- sentences -----------------------------------------------------------------------------------


def verdict(study: Study) -> tuple[str, ...]:
    """The selected trial, which of its figures to quote, and what the search does not say."""
    trials, objectives = trials_of(study), objectives_of(study)
    ranked = best_first(trials, objectives[0])
    if not ranked:
        return (
            "No trial of this search has a figure yet, so there is nothing to say.",
            *_standing(study),
        )
    best, metric = ranked[0], metric_of(objectives[0].column[1])
    split = objectives[0].metric.partition("/")[0]
    told = [
        f"Selected on {split}: trial {best.number} ({study.plan.describe(best.cell)}), the best of {len(ranked)} with "
        f"{_figure(metric, best.values[0])} on {split}."
    ]
    if best.test is not None:
        told.append(
            f"On the test split it has {_figure(metric, best.test)}{_chance(study, metric)}: that is the figure to quote. "
            f"The one on {split} is the best of {len(ranked)} noisy ones, so it is too favourable."
        )
    else:
        told.append(
            f"It has no test figure, and the one on {split} is too favourable to be quoted: it was selected as the best of {len(ranked)}."
        )
    if len(objectives) > 1:
        front = pareto_front(trials, objectives)
        against = " against ".join(objective.label for objective in objectives)
        told.append(f"{len(front)} of {len(ranked)} trials are on the Pareto front ({against}).")
    told.append(
        "Each trial ran once: neighbouring trials may differ by noise alone. Run the selected settings with more seeds before comparing."
    )
    return (*told, *_standing(study))


def _figure(metric: Metric, value: float | None) -> str:
    assert value is not None, "asked for a trial that has the figure"
    return f"{metric.label} {metric.text(value)}{' %' if metric.unit == '%' else ''}"


def _chance(study: Study, metric: Metric) -> str:
    test = test_column(study)
    result = study.example(test[0]) if test else None
    chance = result.chance.get(test[1]) if result and test else None
    told = [] if chance is None else [f"guessing: {chance:.2f}{' %' if metric.unit == '%' else ''}"]
    others = study.baselines(*test) if test else {}
    told += [f"{name}: {range_text(metric, values.values())}" for name, values in others.items()]
    return f" ({', '.join(told)})" if told else ""


def _standing(study: Study) -> list[str]:
    """What is missing, and what was ended early."""
    plan = study.plan
    more = f"; {plan.trials} were asked for" if plan.trials > len(plan.points) else ""
    return [f"{states_text(study)}{more}."] if more or set(study.states) != {"finished"} else []


# ---- long form -----------------------------------------------------------------------------------


def trials_frame(study: Study) -> pd.DataFrame:
    """One row a trial: number, state, settings, objectives, test figure, hours, run. Empty values
    where there is no finished run.
    """
    test, objectives = test_column(study), objectives_of(study)
    rows = []
    for trial, point in zip(trials_of(study), study.plan.points, strict=True):
        row: dict[str, Any] = {"trial": trial.number, "state": trial.state}
        row |= {axis.key: value for axis, value in zip(study.plan.axes, trial.cell, strict=True)}
        row |= {
            objective.metric: value
            for objective, value in zip(objectives, trial.values, strict=True)
        }
        row |= {"/".join(test): trial.test} if test else {}
        row |= (
            {"cpu_hours": trial.run.cpu_hours, "gpu_hours": trial.run.gpu_hours}
            if trial.run
            else {"cpu_hours": None, "gpu_hours": None}
        )
        rows.append(
            row
            | {"run_id": trial.run.run_id if trial.run else "", "fingerprint": point.fingerprint}
        )
    return pd.DataFrame(rows)


KIND = Kind(
    make_axis=make_axis,
    tables=tables,
    more=all_trials,
    plots=search_plots,
    verdict=verdict,
    points=trials_frame,
)
