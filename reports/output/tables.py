"""What stands in which cell. A `Table` knows nothing of Markdown or LaTeX (`render` does), so each
kind is laid out once.

Which tables a report has is said by its kind (`kinds`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from reports.output.layout import DAGGER, MISSING, Cell, Column, Table
from reports.output.metric_formats import (
    OF_CATEGORY,
    Metric,
    baseline_name,
    capital,
    ends,
    metric_of,
    range_text,
)
from reports.statistics.seed_statistics import Summary, places
from reports.study.collect import Study, protocol_text, task_name, varied_fields
from reports.study.report_plan import SEARCH, Axis, Values
from simvtp.runs.results import Result

SHOWN = (
    "R1",
    "R5",
    "R10",
    "MdR",
    "MnR",
    "accuracy",
    "top1",
    "top5",
    "MSE",
    "MSE-raw",
)  # first columns of the table of all metrics
HIDDEN = ("R50",)
MOST_CATEGORIES = (
    6  # of questions with a column of their own; with more the table would be too wide
)
DIRECTIONS = {
    "t2v": "text to video",
    "v2t": "video to text",
    "t2i": "text to image",
    "i2t": "image to text",
}


def headline(study: Study) -> tuple[Table, ...]:
    """The table of the plan's metric: a grid for two axes, else a row for each cell."""
    return (grid if len(study.plan.axes) == 2 else long_table)(study)


def grid(study: Study) -> tuple[Table, ...]:
    """First axis down, second axis across. Cells of the frame that were not planned stay empty."""
    plan = study.plan
    down, across = plan.axes
    # planned cells outside the product of the axes get a row or column of their own
    outer = [
        _in_order([*axis.values, *(cell[i] for cell in plan.cells)], axis)
        for i, axis in enumerate(plan.axes)
    ]
    frame = [(row, column) for row in outer[0] for column in outer[1]]
    made = dict(zip(frame, figures(study, frame, *plan.column), strict=True))
    columns = [
        Column(down.label, is_label=True),
        *(Column(across.text(value), across.label) for value in outer[1]),
    ]
    rows = [(Cell(down.text(row)), *(made[row, column] for column in outer[1])) for row in outer[0]]
    return (headline_table(study, columns, rows),)


def _in_order(values: Sequence[Any], axis: Axis) -> list[Any]:
    """Each value once; numbers by size, others as they come."""
    once = list(dict.fromkeys(values))
    return sorted(once) if axis.numeric else once


def long_table(study: Study) -> tuple[Table, ...]:
    """A row for each planned cell: for one axis, and for more than two."""
    plan = study.plan
    made = figures(study, plan.cells, *plan.column, mark_optimum=False)  # its label is marked
    columns = [
        *(Column(axis.label, is_label=True) for axis in plan.axes),
        Column(plan.metric_label),
        Column("n"),
    ]
    counts = [seed_count(study, cell, len(study.values(cell, *plan.column))) for cell in plan.cells]
    rows = [
        (*cell_labels(study, cell), figure, n)
        for cell, figure, n in zip(plan.cells, made, counts, strict=True)
    ]
    return (headline_table(study, columns, rows),)


def all_metrics(study: Study, by_direction: bool = False) -> tuple[Table, ...]:
    """Every metric, a row for each cell; a table for each task and setting (zero-shot, fine-tuned),
    since they share no column.

    Both directions stand side by side, or, for narrow pages, in tables of their own.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for key in study.keys:
        result = study.example(key)
        protocol = result.protocol
        direction = protocol.direction if by_direction else ""
        groups.setdefault(
            (protocol.split, protocol.setting, direction, protocol.task, protocol.variant), []
        ).append(key)
    return tuple(
        _setting_table(study, setting, direction, keys)
        for (_, setting, direction, *_), keys in groups.items()
    )


def _setting_table(study: Study, setting: str, only: str, keys: Sequence[str]) -> Table:
    plan = study.plan
    columns = [Column(axis.label, is_label=True) for axis in plan.axes] + [Column("n")]
    filled: list[list[Cell]] = []
    chances: list[str] = []
    baselines: dict[str, list[str]] = {}
    shown: list[str] = []
    for key in keys:
        result = study.example(key)
        direction = DIRECTIONS.get(result.protocol.direction, result.protocol.direction)
        names = _shown(result)
        shown += names
        columns += [Column(metric_of(name).label, direction) for name in names]
        filled += [figures(study, plan.cells, key, name, mark_optimum=False) for name in names]
        found = [
            f"{metric_of(name).label} {result.chance[name]:.1f}"
            for name in names
            if name in result.chance
        ]
        chances += [f"{direction} {', '.join(found)}".strip()] if found else []
        for name in names:
            for baseline, values in study.baselines(key, name).items():
                words = " ".join(
                    filter(
                        None,
                        (
                            direction,
                            metric_of(name).label,
                            ends(values.values(), metric_of(name).decimals),
                        ),
                    )
                )
                baselines.setdefault(baseline, []).append(words)
    counts = [
        seed_count(
            study, cell, sum(any(key in run.results for key in keys) for run in study.by_cell[cell])
        )
        for cell in plan.cells
    ]
    rows = [
        (*cell_labels(study, cell), counts[i], *(column[i] for column in filled))
        for i, cell in enumerate(plan.cells)
    ]
    notes = [
        _metrics_note(shown),
        *_categories_note(study, keys),
        *reading_notes(study, [cell for column in filled for cell in column]),
        *([f"Chance: {'; '.join(chances)}."] if chances else []),
        *(f"{baseline_name(name)}: {', '.join(figures)}." for name, figures in baselines.items()),
        *protocol_notes(study, keys),
    ]
    which = f"{setting}, {DIRECTIONS.get(only, only)}" if only else setting
    first = study.example(keys[0])
    variant = f" ({first.protocol.variant})" if first.protocol.variant else ""
    caption = f"{plan.title}: all {task_name(first)} metrics{variant}, {which}, on {first.protocol.dataset}."
    task = "" if first.protocol.direction else f"{first.protocol.task} {first.protocol.variant}"
    words = [plan.ablation, "all", *re.findall(r"[a-z0-9]+", f"{setting} {only} {task}".lower())]
    return Table("_".join(words), caption, tuple(columns), tuple(rows), tuple(notes))


def protocol_notes(study: Study, keys: Sequence[str]) -> list[str]:
    """How these columns were measured."""
    return [f"Protocol: {_protocols_text(study, keys)}; {seeds_text(study)}."]


def _protocols_text(study: Study, keys: Sequence[str]) -> str:
    """The protocols of several columns; directions that differ in nothing else are told together."""
    told: dict[str, list[Result]] = {}
    for result in map(study.example, keys):
        told.setdefault(
            protocol_text(replace(result, protocol=replace(result.protocol, direction=""))), []
        ).append(result)
    return "; ".join(protocol_text(*results) for results in told.values())


def _shown(result: Result) -> list[str]:
    """The metrics that get a column; the categories of questions only if they are few."""
    first = [name for name in SHOWN if name in result.metrics]
    others = [name for name in result.metrics if name not in (*SHOWN, *HIDDEN)]
    categories = [name for name in others if name.startswith(OF_CATEGORY)]
    return first + [
        name for name in others if name not in categories or len(categories) <= MOST_CATEGORIES
    ]


def _metrics_note(names: Sequence[str]) -> str:
    """`R@K in %, higher is better; MdR and MnR are ranks from 1, lower is better.`: what these
    columns are.
    """
    families = {
        "R@K in %": any(re.fullmatch(r"R\d+", name) for name in names),
        "accuracy in %": any(name.startswith("accuracy") for name in names),
        "top-1 and top-5 in %": any(name.startswith("top") for name in names),
        "R@n at an overlap (IoU) of at least so much and mean overlap (mIoU) in %": any(
            "IoU" in name for name in names
        ),
    }
    told = [f"{family}, higher is better" for family, there in families.items() if there]
    told += ["MdR and MnR are ranks from 1, lower is better"] if {"MdR", "MnR"} & set(names) else []
    told += (
        ["MSE is the mean squared error, lower is better"]
        if {"MSE", "MSE-raw"} & set(names)
        else []
    )
    return "; ".join(
        capital(text) if not number else text for number, text in enumerate(told)
    ) + "." * bool(told)


def _categories_note(study: Study, keys: Sequence[str]) -> list[str]:
    left_out = {
        name
        for key in keys
        for name in set(study.example(key).metrics) - set(_shown(study.example(key))) - set(HIDDEN)
    }
    return (
        [f"The accuracies of {len(left_out)} kinds of questions are in all.csv."]
        if left_out
        else []
    )


def figures(
    study: Study, cells: Sequence[Values], key: str, name: str, *, mark_optimum: bool = True
) -> list[Cell]:
    """The figures of one metric for these cells, ranked among themselves on the rounded means."""
    metric = metric_of(name)
    summaries = [study.summary(cell, key, name) for cell in cells]
    order = places(
        [summary.mean if summary else None for summary in summaries],
        metric.decimals,
        metric.higher_is_better,
    )
    made = []
    for cell, summary, place in zip(cells, summaries, order, strict=True):
        planned = study.planned(cell)
        marks = (
            (DAGGER,) if mark_optimum and planned and cell == study.plan.published_optimum else ()
        )
        if summary is None:
            made.append(Cell(MISSING if planned else "", marks=marks))
            continue
        marks += (f"({summary.n})",) if summary.n < planned else ()
        made.append(Cell(metric.text(summary.mean), spread_text(summary, metric), place, marks))
    return made


def spread_text(summary: Summary, metric: Metric) -> str:
    return "" if summary.std is None else metric.text(summary.std)


def chance_text(study: Study) -> str:
    """What guessing gives for the plan's metric, with its unit; empty while nothing was measured."""
    key, name = study.plan.column
    result = study.example(key)
    if result is None or name not in result.chance:
        return ""
    metric = metric_of(name)
    return f"{metric.label} {metric.guess(result.chance[name])}"


def baselines_text(study: Study) -> tuple[str, ...]:
    """`prior: accuracy 31.00 %` for each baseline of the plan's metric: what else gives a figure
    without looking at the video.
    """
    metric = metric_of(study.plan.column[1])
    found = study.baselines(*study.plan.column)
    return tuple(
        f"{name}: {metric.label} {range_text(metric, values.values())}"
        for name, values in found.items()
    )


def states_text(study: Study) -> str:
    """`17 of 20 trials finished, 3 of 20 trials pruned`: where the planned points stand."""
    total, what = len(study.plan.points), "trials" if study.plan.kind == SEARCH else "planned runs"
    states = {"finished": 0} | study.states
    return ", ".join(f"{count} of {total} {what} {state}" for state, count in states.items())


def seeds_text(study: Study) -> str:
    seeds = study.plan.seeds
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def seed_count(study: Study, cell: Values, number: int) -> Cell:
    """`3`, or `2 of 3` where seeds are missing."""
    planned = study.planned(cell)
    return Cell(str(number) if number == planned else f"{number} of {planned}")


def cell_labels(study: Study, cell: Values) -> tuple[Cell, ...]:
    made = [Cell(axis.text(value)) for axis, value in zip(study.plan.axes, cell, strict=True)]
    if cell == study.plan.published_optimum:
        made[-1] = replace(made[-1], marks=(DAGGER,))
    return tuple(made)


def headline_table(
    study: Study, columns: Sequence[Column], rows: Sequence[tuple[Cell, ...]]
) -> Table:
    plan = study.plan
    result = study.example(plan.column[0])
    chance = "; ".join(
        filter(
            None, (chance_text(study) and f"chance: {chance_text(study)}", *baselines_text(study))
        )
    )
    data = (
        f" on {result.protocol.dataset}"
        if result
        else f" on {plan.dataset}"
        if plan.dataset
        else ""
    )
    notes = [
        *reading_notes(study, [cell for row in rows for cell in row]),
        f"Protocol: {protocol_text(result)}; {seeds_text(study)}."
        if result
        else "No run has finished yet.",
    ]
    caption = f"{plan.title}: {plan.metric_label}{data}{f' ({chance})' if chance else ''}."
    return Table(plan.ablation, caption, tuple(columns), tuple(rows), tuple(notes))


def reading_notes(study: Study, cells: Sequence[Cell]) -> list[str]:
    """How to read the marks: only those that occur."""
    most = max((study.planned(cell) for cell in study.plan.cells), default=1)
    if most > 1:
        notes = [f"Mean ± standard deviation over n = {most} seeds."]
    else:
        notes = [
            "One seed for each cell (n = 1): the figures say nothing about noise between seeds."
        ]
    if any(cell.place for cell in cells):
        notes.append(
            "Bold: best, underlined: second best, ranked on the rounded means; ties share a place."
        )
    marks = {mark for cell in cells for mark in cell.marks}
    if any(mark.startswith("(") for mark in marks):
        notes.append("A raised number in brackets: so many seeds only, of those planned.")
    if any(cell.text == MISSING for cell in cells):
        notes.append(f"{MISSING}: planned, no figure from a finished run.")
    optimum = study.plan.published_optimum
    if optimum and optimum in study.plan.cells:
        notes.append(f"{DAGGER}: the published optimum ({study.plan.describe(optimum)}).")
    elif optimum:
        notes.append(f"The published optimum ({study.plan.describe(optimum)}) is not in this grid.")
    for name, values in varied_fields(study, study.plan.column[0]).items():
        notes.append(
            f"The rows differ in the {name} of their test ({', '.join(map(str, values))}), which this sweep varies; all else is equal."
        )
    dirty = sum(run.dirty for run in study.runs)
    if dirty:
        notes.append(
            f"{dirty} of {len(study.runs)} runs came from a tree with uncommitted changes."
        )
    commits = {run.commit for run in study.runs if run.commit}
    if len(commits) > 1:
        notes.append(f"The runs came from {len(commits)} different commits of the code.")
    return notes
