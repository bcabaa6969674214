"""Lays out what each model uses: the other modality, motion, the order of frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from reports.analysis.seed_statistics import SeedSummary, summarise
from reports.output.layout import MISSING, Cell, Column, Table
from reports.output.metric_formats import capital, metric_of
from reports.output.tables import cell_labels, seed_count, seeds_text
from reports.study.protocols import asked_queries, frame_order, protocol_text
from reports.study.report_plan import CellValues
from reports.study.sweep_results import SweepResults
from simvtp.runs.results import FRAME_ORDERS, NEEDS_MOTION, USE, Result, direction_name

TEXT_ONLY = "text only"  # name of the cell whose model never saw a video
PAIRS = "pairs"  # variant of the figures without masks


@dataclass(frozen=True)
class UseColumn:
    """A column of a table of use: a metric, or the gain over the text-only twin ("")."""

    head: str
    group: str
    metric: str
    decimals: int


WORDS, TUBES = "masked words", "masked tubes"
# Gains over flat tubes, which know the hidden mean of each tube: the trivial answer for normalised
# targets alone. A cell with another target has one of the others.
FLAT, FLAT_PSNR = "mvm_gain_flat", "psnr_gain"
OTHER_TRIVIAL = ("mvm_gain_mean_colour", "mvm_gain_constant")
MASKED = (
    UseColumn("content words right (%)", WORDS, "content_acc_own", 1),
    UseColumn("gain over another clip (nat)", WORDS, "mlm_gain_other", 3),
    UseColumn("over no clip", WORDS, "mlm_gain_none", 3),
    UseColumn("over text-only twin", WORDS, "", 3),
    UseColumn("loss below flat", TUBES, FLAT, 3),
    UseColumn("loss below the mean colour", TUBES, "mvm_gain_mean_colour", 4),
    UseColumn("loss below a constant", TUBES, "mvm_gain_constant", 4),
    UseColumn("PSNR above flat (dB)", TUBES, FLAT_PSNR, 2),
    UseColumn("PSNR above the mean colour (dB)", TUBES, "psnr_gain_mean_colour", 2),
    UseColumn("gain over another caption", TUBES, "mvm_gain_other", 3),
)
UNMASKED = (
    UseColumn("another clip's caption", "matching head right (%)", "vtm_acc_other", 1),
    UseColumn("another motion", "matching head right (%)", "vtm_acc_motion", 1),
    UseColumn("another clip's caption", "feature nearer to its caption (%)", "vtc_acc_other", 1),
    UseColumn("another motion", "feature nearer to its caption (%)", "vtc_acc_motion", 1),
)
READING = (
    "Nat for words, mean squared error for tubes. Masks and clips are the same for every cell, "
    "whatever it was trained with. A gain is positive where the model does better with its own "
    "partner than with that of another sample, with none, or than the trivial answer (flat tubes "
    "for normalised targets, the mean colour of the visible tubes for raw ones, one answer for all "
    "tubes for others); 0: it makes no use of it."
)


def use_tables(sweep: SweepResults) -> tuple[Table, ...]:
    """Lays out a table for each evaluation mask, of pairs, of the order of frames, of motion.

    A report whose runs measured none of it has no such table.
    """
    keys = [key for key in sweep.keys if sweep.example(key).protocol.task == USE]
    tables = [_use_table(sweep, key) for key in keys]
    return (*tables, *_part_tables(sweep, ORDERS), *_part_tables(sweep, MOTION))


def _use_table(sweep: SweepResults, key: str) -> Table:
    variant = sweep.example(key).protocol.variant
    wanted = UNMASKED if variant == PAIRS else MASKED
    found = {column: _summaries(sweep, key, column) for column in wanted}
    shown = [column for column, summaries in found.items() if any(summaries.values())]
    rows = []
    for cell in sweep.plan.cells:
        values = (_text(found[column][cell], column.decimals) for column in shown)
        count = sum(key in run.results for run in sweep.by_cell[cell])
        rows.append((*cell_labels(sweep, cell), seed_count(sweep, cell, count), *map(Cell, values)))
    what = "with nothing masked" if variant == PAIRS else f"at the {mask_words(variant)}"
    notes = ["Chance is 50 % of every column."] if variant == PAIRS else [READING]
    if any(not column.metric for column in shown):
        notes.append(
            f"Text-only twin: the cell '{TEXT_ONLY}', whose model never saw a video; the loss of "
            "its masked words minus that of the cell's, at the same masks, seed by seed."
        )
    return Table(
        f"{sweep.plan.ablation}_use_{variant.replace('.', '')}",
        f"{sweep.plan.title}: what each model uses, {what}.",
        (*_labels(sweep), *(Column(column.head, column.group) for column in shown)),
        tuple(rows),
        (*notes, *_interval_notes(sweep), f"Protocol: {protocol_text(sweep.example(key))}."),
    )


def mask_words(variant: str) -> str:
    """Returns `evaluation masks: 75 % of the words, 50 % of the video` of `text0.75_video0.5`."""
    text, _, video = variant.removeprefix("text").partition("_video")
    ratios = f"{100 * float(text):g} % of the words, {100 * float(video):g} % of the video"
    return f"evaluation masks: {ratios}"


def _labels(sweep: SweepResults) -> list[Column]:
    return [*(Column(axis.label, is_label=True) for axis in sweep.plan.axes), Column("n")]


# ---- values --------------------------------------------------------------------------------------

Interval = tuple[float, float]


@dataclass(frozen=True)
class UseValue:
    """A mean over the seeds with its 95 % interval, if there is one."""

    mean: float
    interval: Interval | None


def _summaries(
    sweep: SweepResults, key: str, column: UseColumn
) -> dict[CellValues, UseValue | None]:
    if column.metric:
        return {
            cell: None
            if column.metric in (FLAT, FLAT_PSNR) and _has_other_trivial(sweep, cell, key)
            else use_value(sweep, cell, key, column.metric)
            for cell in sweep.plan.cells
        }
    return {cell: twin_gain(sweep, cell, key) for cell in sweep.plan.cells}


def _has_other_trivial(sweep: SweepResults, cell: CellValues, key: str) -> bool:
    return any(sweep.values(cell, key, metric) for metric in OTHER_TRIVIAL)


def use_value(sweep: SweepResults, cell: CellValues, key: str, metric: str) -> UseValue | None:
    """Returns a metric of one cell; None if it was not measured.

    The interval is that over the seeds. Of one seed it is that over the clips, as the run recorded
    it.
    """
    summary = sweep.summary(cell, key, metric)
    if summary is None:
        return None
    if summary.n == 1:
        (run,) = (run for run in sweep.by_cell[cell] if metric in _metrics(run.results, key))
        return UseValue(summary.mean, run.results[key].intervals.get(metric))
    return UseValue(summary.mean, summary.interval)


def _metrics(results: Mapping[str, object], key: str) -> Mapping[str, float]:
    return getattr(results.get(key), "metrics", {})


def twin_gain(sweep: SweepResults, cell: CellValues, key: str) -> UseValue | None:
    """Returns the loss of masked words of the text-only cell minus that of a cell.

    Pairs of runs of the same seed are compared; None without such a pair, and for the twin itself.
    """
    twin = next((one for one in sweep.plan.cells if TEXT_ONLY in one), None)
    if twin is None or twin == cell:
        return None
    alone, ours = (sweep.values(one, key, "mlm_loss_own") for one in (twin, cell))
    gains = [alone[seed] - ours[seed] for seed in sorted(alone.keys() & ours.keys())]
    summary: SeedSummary | None = summarise(gains)
    return None if summary is None else UseValue(summary.mean, summary.interval)


def _text(value: UseValue | None, decimals: int) -> str:
    """Returns `0.131 [0.094, 0.168]`; a dash for what was not measured."""
    if value is None:
        return MISSING
    mean = f"{value.mean:.{decimals}f}"
    if value.interval is None:
        return mean.replace("-", "−")
    low, high = value.interval
    return f"{mean} [{low:.{decimals}f}, {high:.{decimals}f}]".replace("-", "−")


def _interval_notes(sweep: SweepResults) -> list[str]:
    several = len(sweep.plan.seeds) > 1
    over = "over the seeds (Student)" if several else "over the clips (bootstrap)"
    return [f"In brackets: 95 % interval {over}. {MISSING}: not measured, or not trained."]


# ---- order of frames, need of motion -------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """Text-to-video R@1 of one setting as it is, and in parts or under other conditions.

    Attributes:
        name: of the tables, in file names.
        title: what is compared, in captions.
        whole: head of the column of the setting as it is.
        conditions: in order.
        of: the condition that a result was measured under; "" for none of them.
        reading: how to read the table.
    """

    name: str
    title: str
    whole: str
    conditions: Sequence[str]
    of: Callable[[Result], str]
    reading: str


ORDERS = Parts(
    "order",
    "temporal order test",
    "as is",
    FRAME_ORDERS,
    frame_order,
    "The same clips and captions with the frames of each clip in another order. A model whose "
    "figure does not fall reads single frames, or a set of them.",
)
MOTION = Parts(
    "motion",
    "need of motion",
    "all queries",
    NEEDS_MOTION,
    asked_queries,
    "A caption needs motion if what it says of a still picture fits another clip of the test as "
    "well; the gallery is the same for all.",
)


def _part_tables(sweep: SweepResults, parts: Parts) -> list[Table]:
    """Lays out text-to-video R@1 under each condition, a table for each setting."""
    by_setting: dict[str, dict[str, str]] = {}
    for key in sweep.keys:
        result = sweep.example(key)
        part, direction = parts.of(result), result.protocol.direction
        if part:
            setting = result.protocol.setting.removesuffix(f", {part}")
            by_setting.setdefault(setting, {})[part] = key
            by_setting[setting][""] = _plain_key(sweep, setting, direction)
    return [_part_table(sweep, parts, setting, keys) for setting, keys in by_setting.items()]


def _plain_key(sweep: SweepResults, setting: str, direction: str) -> str:
    protocols = {key: sweep.example(key).protocol for key in sweep.keys}
    return next(
        key
        for key, protocol in protocols.items()
        if (protocol.setting, protocol.direction) == (setting, direction)
    )


def _part_table(sweep: SweepResults, parts: Parts, setting: str, keys: Mapping[str, str]) -> Table:
    metric = metric_of("R1")
    shown = [part for part in ("", *parts.conditions) if part in keys]
    rows = []
    for cell in sweep.plan.cells:
        values = [use_value(sweep, cell, keys[part], "R1") for part in shown]
        count = len(sweep.values(cell, keys[""], "R1"))
        texts = (Cell(_text(value, metric.decimals)) for value in values)
        rows.append((*cell_labels(sweep, cell), seed_count(sweep, cell, count), *texts))
    example = sweep.example(keys[""])
    direction = direction_name(example.protocol.direction).replace(" ", "-")
    words = setting.replace(",", "").replace(" ", "_").replace("-", "_")
    levels = (_reader_note(part, sweep.example(keys[part])) for part in shown)
    return Table(
        f"{sweep.plan.ablation}_{parts.name}_{words}",
        f"{sweep.plan.title}: {parts.title}, {direction} {metric.label} (%), {setting}.",
        (*_labels(sweep), *(Column(part or parts.whole) for part in shown)),
        tuple(rows),
        (
            parts.reading,
            *(level for level in levels if level),
            *_interval_notes(sweep),
            f"Protocol: {protocol_text(example)}; {seeds_text(sweep)}.",
        ),
    )


def _reader_note(part: str, result: Result) -> str:
    """Returns the number of the queries, and what a reader who sees less reaches; "" if unknown."""
    reached = [
        f"{name} reaches {metrics['R1']:.1f} %" for name, metrics in result.baselines.items()
    ]
    return f"{capital(part)}: {result.queries}; {', '.join(reached)}." if part and reached else ""


def mean_curve(curves: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, UseValue]]:
    """Returns (step, mean and interval over the curves) of the steps that all curves have."""
    values = [dict(curve) for curve in curves]
    common = sorted(set.intersection(*map(set, values))) if values else []
    found = []
    for step in common:
        here = [curve[step] for curve in values]
        summary = summarise(here)
        found.append((step, UseValue(fmean(here), summary.interval if summary else None)))
    return found
