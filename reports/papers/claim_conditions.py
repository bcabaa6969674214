"""Conditions under which a claim can be tested at all: what must be learnt, what must be varied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from reports.analysis.seed_statistics import SeedSummary, summarise
from reports.analysis.stopped_sweeps import fixed_runs
from reports.output.metric_formats import Metric
from reports.papers.claim_file import ClaimNeed
from reports.study.report_plan import CellValues
from reports.study.sweep_results import SweepResults
from simvtp.runs.metric_names import MetricName

LEAST_SEEDS = 3
CLEAR_OF_CHANCE = 2.0  # multiple of chance
CEILING = 95.0  # per cent
SMALL = 0.0005  # three decimals would print 0


@dataclass(frozen=True)
class MeasuredFigure:
    """A figure of the use of the modalities over the seeds of a cell.

    Attributes:
        interval: over the seeds; of one seed that over the clips.
        missing: True if a run of the cell has not measured it.
    """

    summary: SeedSummary | None
    interval: tuple[float, float] | None
    missing: bool

    def text(self) -> str:
        """Returns `0.302, 95 % CI [0.280, 0.324]`."""
        assert self.summary is not None, "called for a figure that was measured"
        values = (self.summary.mean, *(self.interval or ()))
        largest = max(map(abs, values))
        form = ".3f" if largest >= SMALL or largest == 0 else ".1e"
        mean, *ends = (format(value, form) for value in values)
        text = f"{mean}, 95 % CI [{ends[0]}, {ends[1]}]" if ends else mean
        return text.replace("-", "−")


def measured_figure(sweep: SweepResults, cell: CellValues, figure: ClaimNeed) -> MeasuredFigure:
    """Returns a figure of a cell, over the seeds that all cells have."""
    name = MetricName.parse(figure.metric)
    values, intervals = [], []
    runs = fixed_runs(sweep, cell)
    for run in runs:
        key = next((key for key in run.results if key.endswith(f"/{name.key}")), "")
        value = run.results[key].metrics.get(name.metric) if key else None
        if value is not None:
            values.append(value)
            intervals.append(run.results[key].intervals.get(name.metric))
    summary = summarise(values)
    # equal values of several seeds have no interval
    ends = summary.interval if summary else None
    if len(values) == 1 and intervals[0] is not None:
        ends = (intervals[0][0], intervals[0][1])
    return MeasuredFigure(summary, ends, missing=not values or len(values) < len(runs))


def unmet_need(
    sweep: SweepResults,
    needs: Sequence[ClaimNeed],
    ours: Sequence[CellValues],
    others: Sequence[CellValues],
) -> str:
    """Returns the first need that is not met, with its figure; empty if all are met."""
    sides = {"both": [*ours, *others], "cell": list(ours), "than": list(others)}
    for need in needs:
        for cell in sides[need.of]:
            found = _unmet(sweep, need, cell)
            if found:
                return found
    return ""


def _unmet(sweep: SweepResults, need: ClaimNeed, cell: CellValues) -> str:
    found, name = measured_figure(sweep, cell, need), sweep.plan.describe(cell)
    if found.missing or found.summary is None:
        return f"{need.what} was not measured ({name})"
    if found.summary.mean > need.above and found.interval is not None and found.interval[0] > 0:
        return ""
    needed = f"above {need.above:g} with an interval above 0 is needed"
    return f"{need.what} is {found.text()} ({name}), and {needed}"


def missing_neighbours(
    sweep: SweepResults, wanted: Mapping[str, Any], measured: Sequence[CellValues]
) -> str:
    """Returns which setting was not varied on both sides of its value; empty if all were.

    A value can only be the best choice of a setting if smaller and larger ones were tried, with
    all other named settings equal.
    """
    settings = [sweep.plan.settings(cell) for cell in measured]
    for axis, value in wanted.items():
        if not _is_number(value):
            continue
        along = [
            one[axis]
            for one in settings
            if _is_number(one.get(axis))
            and all(str(one.get(key)) == str(wanted[key]) for key in wanted if key != axis)
        ]
        for side, there in (
            ("below", any(other < value for other in along)),
            ("above", any(other > value for other in along)),
        ):
            if not there:
                return f"no cell with {axis} {side} {value:g} and all else equal was measured"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def weak_figures(
    sweep: SweepResults,
    column: tuple[str, str],
    metric: Metric,
    values: Sequence[Mapping[int, float]],
) -> str:
    """Returns the reason why cells with these values cannot be compared; empty if they can."""
    missing = sum(not one for one in values)
    if missing:
        return f"{missing} of {len(values)} cells have no figure"
    fewest = min(len(one) for one in values)
    if fewest < LEAST_SEEDS:
        return f"{fewest} seed{'s' if fewest > 1 else ''}, and at least {LEAST_SEEDS} are needed"
    key, name = column
    if metric.unit != "%" or not metric.higher_is_better or key not in sweep.keys:
        return ""
    means = [fmean(one.values()) for one in values]
    chance = sweep.example(key).chance.get(name)
    if chance and max(means) < CLEAR_OF_CHANCE * chance:
        return f"no cell reaches {CLEAR_OF_CHANCE:g} times chance ({chance:.2f} %)"
    if min(means) > CEILING:
        return f"all cells lie above {CEILING:g} %, where there is no room"
    return ""
