"""Lays out signal and noise of each metric, and how often its order holds at the next scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

import pandas as pd

from reports.analysis.across.signal_noise import (
    LATE,
    DecisionAccuracy,
    SignalNoise,
    common_cells,
    decision_accuracy,
    grid_values,
    signal_noise,
)
from reports.figures.costs import pretraining_flops
from reports.output.all_metrics import shown_metrics
from reports.output.layout import DAGGER, MISSING, Cell, Column, Table
from reports.output.metric_formats import metric_of
from reports.study.protocols import is_check
from reports.study.report_plan import SEARCH
from reports.study.sweep_results import SweepResults
from simvtp.runs.results import direction_name


def signal_tables(sweep: SweepResults, others: Sequence[SweepResults] = ()) -> tuple[Table, ...]:
    """Lays out the table of signal and noise, then one for each other scale of the same cells.

    Args:
        sweep: the sweep of the report.
        others: sweeps of the same ablation at other scales.
    """
    found = all_signals(sweep)
    if not found:
        return ()
    decisions = [_decision_table(*_by_size(sweep, other)) for other in others]
    return (_signal_table(sweep, found), *(table for table in decisions if table is not None))


def all_signals(sweep: SweepResults) -> list[SignalNoise]:
    """Returns signal and noise of every metric; nothing for a search."""
    if sweep.plan.kind == SEARCH:
        return []
    found = [signal_noise(sweep, key, name) for key, name in _metrics(sweep)]
    return [one for one in found if one is not None]


def _metrics(sweep: SweepResults) -> Iterator[tuple[str, str]]:
    for key in sweep.keys:
        if not is_check(sweep.example(key)):
            yield from ((key, name) for name in shown_metrics(sweep.example(key)))


def _names(sweep: SweepResults, key: str, metric: str) -> tuple[Cell, Cell]:
    """Returns setting with direction, and the metric; that of the plan is marked."""
    protocol = sweep.example(key).protocol
    where = ", ".join(filter(None, (protocol.setting, direction_name(protocol.direction))))
    marks = (DAGGER,) if (key, metric) == sweep.plan.column else ()
    return Cell(where), Cell(metric_of(metric).label, marks=marks)


def _signal_table(sweep: SweepResults, found: Sequence[SignalNoise]) -> Table:
    columns = (
        Column("result", is_label=True),
        Column("metric", is_label=True),
        Column("signal (%)"),
        Column("noise (%)", "between seeds"),
        Column("signal / noise", "between seeds"),
        Column("of equal cells", "between seeds"),
        Column("noise (%)", "late checkpoints"),
    )
    rows = []
    for one in found:
        texts = (
            _percent(one.signal),
            _percent(one.seeds),
            _ratio(one.ratio),
            _ratio(one.null_ratio),
            _percent(one.steps),
        )
        rows.append((*_names(sweep, one.key, one.metric), *map(Cell, texts)))
    notes = [
        f"{DAGGER}: the metric of the plan. Over {max(one.cells for one in found)} cells of the "
        "grid. Signal: largest difference of two cells, in per cent of their mean. Noise: standard "
        "deviation, in per cent of the mean (Heineman et al. 2025, arXiv 2508.13144).",
        "Of equal cells: the ratio expected if no cell differed from another. A metric is of use "
        "for these cells as far as its ratio exceeds that.",
    ]
    if any(one.steps is not None for one in found):
        notes.append(
            f"Late checkpoints: the last {LATE} evaluations of a run on the validation split, at "
            "most those of its second half; a trend among them counts as noise."
        )
    if any(one.seeds is None or one.steps is None for one in found):
        notes.append(f"{MISSING}: one seed, or no evaluations on the way.")
    caption = f"{sweep.plan.title}: signal and noise of each metric."
    return Table(f"{sweep.plan.ablation}_signal", caption, columns, tuple(rows), tuple(notes))


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f}"


def _ratio(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1f}"


# ---- the next scale ------------------------------------------------------------------------------


def _by_size(sweep: SweepResults, other: SweepResults) -> tuple[SweepResults, SweepResults]:
    """Returns the smaller scale first, by the operations of pre-training, or the steps."""
    sizes = [_size(one) for one in (sweep, other)]
    return (other, sweep) if sizes[0] > sizes[1] else (sweep, other)


def _size(sweep: SweepResults) -> float:
    flops = [value for run in sweep.runs if (value := pretraining_flops(run)) is not None]
    samples = [float(run.samples["pretrain"]) for run in sweep.runs if "pretrain" in run.samples]
    hours = [run.cpu_hours + run.gpu_hours for run in sweep.runs]
    return fmean(flops or samples or hours or [0.0])


def scale_text(sweep: SweepResults) -> str:
    """Returns `tiny_pair, 7.7e12 FLOPs of pre-training, sweep mask_ratio-0123abcd`."""
    flops = [value for run in sweep.runs if (value := pretraining_flops(run)) is not None]
    size = f"{fmean(flops):.2g} FLOPs of pre-training on average" if flops else ""
    plan = sweep.plan
    return ", ".join(filter(None, (plan.recipe, size, f"sweep {plan.sweep_id}")))


def _decision_table(small: SweepResults, large: SweepResults) -> Table | None:
    """Lays out a row for each metric that both scales measured; None without common cells."""
    cells = common_cells(small, large)
    if len(cells) < 2:
        return None
    rows = []
    for key, metric in _metrics(small):
        texts = [
            _accuracy_text(decision)
            for column in ((key, metric), large.plan.column)
            if (decision := decide(small, (key, metric), large, column)) is not None
        ]
        if len(texts) == 2:
            rows.append((*_names(small, key, metric), *map(Cell, texts)))
    plan = large.plan
    columns = (
        Column("result", is_label=True),
        Column("metric", is_label=True),
        Column("the same metric", "order at the larger scale by"),
        Column(plan.metric_label, "order at the larger scale by"),
    )
    pairs = len(cells) * (len(cells) - 1) // 2
    notes = (
        f"Decision accuracy: the part of the {pairs} pair{'s' if pairs > 1 else ''} of cells (%) "
        "whose order by this metric at the smaller scale is that at the larger one; 50 % is that "
        "of a coin. Brackets: 95 % interval, bootstrap over the seeds of both.",
        f"Smaller: {scale_text(small)}. Larger: {scale_text(large)}.",
    )
    caption = f"{plan.title}: how often the order of two cells holds at the next scale."
    name = f"{plan.ablation}_decisions_{plan.sweep_id.rpartition('-')[2]}"
    return Table(name, caption, columns, tuple(rows), notes)


def decide(
    small: SweepResults,
    column: tuple[str, str],
    large: SweepResults,
    large_column: tuple[str, str],
) -> DecisionAccuracy | None:
    """Returns the decision accuracy from a metric of the small scale to one of the large scale."""
    signs = [1 if metric_of(name).higher_is_better else -1 for _, name in (column, large_column)]
    values = (grid_values(small, *column), grid_values(large, *large_column))
    return decision_accuracy(*values, (signs[0], signs[1]))


def _accuracy_text(found: DecisionAccuracy) -> str:
    share = f"{100 * found.share:.0f}"
    if found.interval is None:
        return share
    low, high = (f"{100 * end:.0f}" for end in found.interval)
    return f"{share} [{low}, {high}]"


def signal_frame(sweep: SweepResults) -> pd.DataFrame:
    """Returns signal and noise in full precision."""
    return pd.DataFrame([vars(one) for one in all_signals(sweep)])
