"""What each cell cost: hours over all restarts, samples seen, size and operations of the model; and
the score against the cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports.figures.style import MARKERS, WIDTH, Plot, palette, spread_words
from reports.output.layout import MISSING, Cell, Column, Table
from reports.output.metric_formats import metric_of
from reports.statistics.seed_statistics import Summary, summarise
from reports.study.collect import Run, Study
from reports.study.report_plan import SEARCH, Values

LONG_LABEL = 20  # letters; longer names stand below the axes, not beside them
BACKWARD = 3  # operations of a training step, in forward passes: one forward, two backward


def hours(run: Run) -> float:
    """GPU-hours of a run that had a GPU, else CPU-hours."""
    return run.gpu_hours or run.cpu_hours


def pretraining_flops(run: Run) -> float | None:
    """Operations of the whole pre-training, by count: three forward passes for each sample seen."""
    if run.forward_flops is None or "pretrain" not in run.samples:
        return None
    return float(BACKWARD * run.forward_flops * run.samples["pretrain"])


_FIGURES: dict[str, tuple[str, Callable[[Run], float | None], Callable[[float], str]]] = {
    # name: (head, value of a run, how it is written)
    "cpu_hours": ("CPU-hours", lambda run: run.cpu_hours, lambda value: f"{value:.3g}"),
    "gpu_hours": ("GPU-hours", lambda run: run.gpu_hours, lambda value: f"{value:.3g}"),
    "pretrain_samples": (
        "pre-trained on",
        lambda run: run.samples.get("pretrain"),
        lambda value: counted(value),
    ),
    "finetune_samples": (
        "fine-tuned on",
        lambda run: run.samples.get("finetune"),
        lambda value: counted(value),
    ),
    "parameters": ("parameters", lambda run: run.parameters, lambda value: counted(value)),
    "forward_gmac": (
        "GMAC",
        lambda run: None if run.forward_flops is None else run.forward_flops / 2e9,
        lambda value: f"{value:.3g}",
    ),
    "pretraining_flops": (
        "FLOPs of pre-training",
        pretraining_flops,
        lambda value: f"{value:.2e}".replace("e+", "e"),
    ),
}


def counted(value: float) -> str:
    """`640`, `12.8 k`, `86.2 M`: three digits and what they are counted in."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.0f}"


def cost_tables(study: Study) -> tuple[Table, ...]:
    """A row for each planned cell, means over its runs; nothing for a search, whose tables have the
    hours of each trial.
    """
    plan = study.plan
    if plan.kind == SEARCH or not study.runs:
        return ()
    key, name = plan.column
    metric = metric_of(name)
    columns = [
        *(Column(axis.label, is_label=True) for axis in plan.axes),
        Column("n"),
        Column(metric.label),
    ]
    columns += [Column(head) for head, _, _ in _FIGURES.values()]
    rows = []
    for cell in plan.cells:
        summary = study.summary(cell, key, name)
        labels = [Cell(axis.text(value)) for axis, value in zip(plan.axes, cell, strict=True)]
        figure = Cell(metric.text(summary.mean) if summary else MISSING)
        rows.append((*labels, Cell(str(len(study.by_cell[cell]))), figure, *_cells(study, cell)))
    notes = [
        "Means over the runs of a cell. Hours: of all ranks, all stages and all restarts; what was lost between the last checkpoint and a "
        "kill is not in them. Samples: steps times the global batch, repeats counted.",
        f"GMAC: multiply-adds of one forward pass of pre-training per sample, by count. FLOPs: two for each of these, {BACKWARD} passes a step.",
    ]
    if any(cell.text == MISSING for row in rows for cell in row):
        notes.append(f"{MISSING}: no finished run, or the run did not note it.")
    machines = sorted({run.hardware for run in study.runs if run.hardware})
    if len(machines) > 1:
        notes.append(
            f"The runs ran on different machines, so their hours are not comparable: {'; '.join(machines)}."
        )
    return (
        Table(
            f"{plan.ablation}_costs",
            f"{plan.title}: what the cells cost.",
            tuple(columns),
            tuple(rows),
            tuple(notes),
        ),
    )


def _cells(study: Study, cell: Values) -> list[Cell]:
    return [
        Cell(MISSING if mean is None else write(mean))
        for mean, (_, _, write) in zip(means(study.by_cell[cell]), _FIGURES.values(), strict=True)
    ]


def means(runs: Sequence[Run]) -> list[float | None]:
    """Of each figure of cost over these runs; None where one of them lacks it."""
    made = []
    for _, value_of, _ in _FIGURES.values():
        values = [value_of(run) for run in runs]
        made.append(
            None
            if not values or None in values
            else fmean(value for value in values if value is not None)
        )
    return made


def costs_frame(study: Study) -> pd.DataFrame:
    """Full precision: a row for each cell."""
    rows = []
    for cell in study.plan.cells:
        labels = {axis.key: value for axis, value in zip(study.plan.axes, cell, strict=True)}
        rows.append(
            labels
            | {"n": len(study.by_cell[cell])}
            | dict(zip(_FIGURES, means(study.by_cell[cell]), strict=True))
        )
    return pd.DataFrame(rows)


# ---- figure --------------------------------------------------------------------------------------


def cost_plots(study: Study) -> list[Plot]:
    """The score of each cell over the hours of one of its runs, where at least two cells have both."""
    if study.plan.kind == SEARCH or len(_places(study)) < 2:
        return []
    unit = "GPU-hours" if any(run.gpu_hours for run in study.runs) else "CPU-hours"
    title = f"{study.plan.metric_label} against the cost of a run in {unit}{spread_words(study)}."
    return [
        Plot(
            "score_against_cost",
            title,
            ("Hours over all stages and restarts; up and to the left is better.",),
            draw,
        )
    ]


def _places(study: Study) -> list[tuple[Values, Summary, Summary]]:
    """(cell, hours of its runs, score) of each cell that has both."""
    found = []
    for cell in study.plan.cells:
        score, spent = (
            study.summary(cell, *study.plan.column),
            summarise(hours(run) for run in study.by_cell[cell]),
        )
        if score is not None and spent is not None and spent.mean > 0:
            found.append((cell, spent, score))
    return found


def draw(study: Study) -> Figure:
    """A mark with one standard deviation each way for each cell."""
    plan, places = study.plan, _places(study)
    named = len(places) <= len(MARKERS)
    labels = [
        ", ".join(axis.text(value) for axis, value in zip(plan.axes, cell, strict=True))
        for cell, _, _ in places
    ]
    below = named and any(
        len(label) > LONG_LABEL for label in labels
    )  # beside the axes, long names would leave them no room
    height = 2.4 + 0.19 * (len(places) + 1) if below else max(2.6, 1.2 + 0.17 * len(places) * named)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    for number, ((_, spent, score), label, color) in enumerate(
        zip(places, labels, palette(len(places)), strict=True)
    ):
        axes.errorbar(
            spent.mean, score.mean, xerr=spent.std, yerr=score.std, fmt=MARKERS[number % len(MARKERS)], color=color, markersize=6,
            markeredgecolor="white", markeredgewidth=0.6, elinewidth=0.9, capsize=2.0, label=label,
        )  # fmt: skip
    unit = "GPU-hours" if any(run.gpu_hours for run in study.runs) else "CPU-hours"
    axes.set(xlabel=f"{unit} of a run", ylabel=plan.metric_label)
    if named:
        title = ", ".join(axis.label for axis in plan.axes)
        figure.legend(
            title=title,
            loc="outside lower center" if below else "outside right upper",
            frameon=False,
            alignment="left",
        )
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5 if below else 3))
    axes.margins(0.1)
    sns.despine(ax=axes)
    return figure
