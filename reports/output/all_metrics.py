"""Lays out every metric of a sweep, in one table for each task and setting."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from reports.output.layout import Cell, Column, Table
from reports.output.metric_formats import OF_CATEGORY, baseline_name, capital, ends, metric_of
from reports.output.tables import cell_labels, reading_notes, seed_count, seeds_text, value_cells
from reports.study.protocols import is_check, protocol_text, task_words
from reports.study.sweep_results import SweepResults
from simvtp.runs.results import Result, direction_name

# First columns, in this order; further metrics follow.
FIRST = ("R1", "R5", "R10", "MdR", "MnR", "accuracy", "top1", "top5", "MSE", "MSE-raw")
HIDDEN = ("R50",)
MAX_CATEGORIES = 6  # of questions with a column of their own; with more the table is too wide


def all_metrics(sweep: SweepResults, by_direction: bool = False) -> tuple[Table, ...]:
    """Lays out a row for each cell; a table for each task and setting, which share no column.

    Manipulation checks are left out: see `use_tables`.

    Args:
        sweep: the results.
        by_direction: a table for each direction, for narrow pages; otherwise both directions are
            in one table.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for key in sweep.keys:
        if is_check(sweep.example(key)):
            continue
        protocol = sweep.example(key).protocol
        direction = protocol.direction if by_direction else ""
        group = (protocol.split, protocol.setting, direction, protocol.task, protocol.variant)
        groups.setdefault(group, []).append(key)
    return tuple(
        _setting_table(sweep, setting, direction, keys)
        for (_, setting, direction, *_), keys in groups.items()
    )


@dataclass
class MetricColumns:
    """Columns of a table with their cells, and the levels that its notes name."""

    columns: list[Column] = field(default_factory=list)
    cells: list[list[Cell]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    chances: list[str] = field(default_factory=list)
    baselines: dict[str, list[str]] = field(default_factory=dict)

    def add(self, sweep: SweepResults, key: str) -> None:
        """Adds the metrics of one result."""
        result = sweep.example(key)
        direction = direction_name(result.protocol.direction)
        names = shown_metrics(result)
        self.names += names
        chances = []
        for name in names:
            metric = metric_of(name)
            self.columns.append(Column(metric.label, direction))
            self.cells.append(value_cells(sweep, sweep.plan.cells, key, name, mark_optimum=False))
            if name in result.chance:
                chances.append(f"{metric.label} {result.chance[name]:.1f}")
            for baseline, values in sweep.baselines(key, name).items():
                level = f"{metric.label} {ends(values.values(), metric.decimals)}"
                self.baselines.setdefault(baseline, []).append(f"{direction} {level}".strip())
        if chances:
            self.chances.append(f"{direction} {', '.join(chances)}".strip())


def _setting_table(sweep: SweepResults, setting: str, only: str, keys: Sequence[str]) -> Table:
    plan = sweep.plan
    made = MetricColumns()
    for key in keys:
        made.add(sweep, key)
    rows = []
    for number, cell in enumerate(plan.cells):
        measured = sum(not run.results.keys().isdisjoint(keys) for run in sweep.by_cell[cell])
        values = (column[number] for column in made.cells)
        rows.append((*cell_labels(sweep, cell), seed_count(sweep, cell, measured), *values))
    labels = [*(Column(axis.label, is_label=True) for axis in plan.axes), Column("n")]
    return Table(
        _label(sweep, setting, only, keys),
        _caption(sweep, setting, only, keys),
        (*labels, *made.columns),
        tuple(rows),
        tuple(_notes(sweep, keys, made)),
    )


def _label(sweep: SweepResults, setting: str, only: str, keys: Sequence[str]) -> str:
    protocol = sweep.example(keys[0]).protocol
    task = "" if protocol.direction else f"{protocol.task} {protocol.variant}"
    words = re.findall(r"[a-z0-9]+", f"{setting} {only} {task}".lower())
    return "_".join([sweep.plan.ablation, "all", *words])


def _caption(sweep: SweepResults, setting: str, only: str, keys: Sequence[str]) -> str:
    protocol = sweep.example(keys[0]).protocol
    which = f"{setting}, {direction_name(only)}" if only else setting
    variant = f" ({protocol.variant})" if protocol.variant else ""
    task = task_words(protocol.task).name
    return f"{sweep.plan.title}: all {task} metrics{variant}, {which}, on {protocol.dataset}."


def _notes(sweep: SweepResults, keys: Sequence[str], made: MetricColumns) -> list[str]:
    notes = [
        _metrics_note(made.names),
        *_categories_note(sweep, keys),
        *reading_notes(sweep, [cell for column in made.cells for cell in column]),
    ]
    if made.chances:
        notes.append(f"Chance: {'; '.join(made.chances)}.")
    for name, levels in made.baselines.items():
        notes.append(f"{baseline_name(name)}: {', '.join(levels)}.")
    return [*notes, *protocol_notes(sweep, keys)]


def protocol_notes(sweep: SweepResults, keys: Sequence[str]) -> list[str]:
    """Returns the protocols of these columns; those that differ in direction alone are joined."""
    groups: dict[str, list[Result]] = {}
    for result in map(sweep.example, keys):
        undirected = replace(result, protocol=replace(result.protocol, direction=""))
        groups.setdefault(protocol_text(undirected), []).append(result)
    texts = "; ".join(protocol_text(*results) for results in groups.values())
    return [f"Protocol: {texts}; {seeds_text(sweep)}."]


def shown_metrics(result: Result) -> list[str]:
    """Returns the metrics with a column; the categories of questions only if they are few."""
    first = [name for name in FIRST if name in result.metrics]
    others = [name for name in result.metrics if name not in (*FIRST, *HIDDEN)]
    categories = [name for name in others if name.startswith(OF_CATEGORY)]
    if len(categories) > MAX_CATEGORIES:
        others = [name for name in others if name not in categories]
    return first + others


def _metrics_note(names: Sequence[str]) -> str:
    """Returns a sentence: R@K in %, higher is better; MdR and MnR are ranks, lower is better."""
    families = {
        "R@K in %": any(re.fullmatch(r"R\d+", name) for name in names),
        "accuracy in %": any(name.startswith("accuracy") for name in names),
        "top-1 and top-5 in %": any(name.startswith("top") for name in names),
        "R@n at an overlap (IoU) of at least so much and mean overlap (mIoU) in %": any(
            "IoU" in name and not name.startswith("mAP") for name in names
        ),
        "mean average precision (mAP) over overlaps of 0.5 to 0.95 in %": "mAP" in names,
    }
    parts = [f"{family}, higher is better" for family, there in families.items() if there]
    if {"MdR", "MnR"} & set(names):
        parts.append("MdR and MnR are ranks from 1, lower is better")
    if {"MSE", "MSE-raw"} & set(names):
        parts.append("MSE is the mean squared error, lower is better")
    return f"{capital('; '.join(parts))}." if parts else ""


def _categories_note(sweep: SweepResults, keys: Sequence[str]) -> list[str]:
    left_out: set[str] = set()
    for result in map(sweep.example, keys):
        left_out |= set(result.metrics) - set(shown_metrics(result)) - set(HIDDEN)
    if not left_out:
        return []
    return [f"The accuracies of {len(left_out)} kinds of questions are in all.csv."]
