"""States the result of a table in plain sentences, with the reservations that belong to it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from reports.analysis.cell_model import any_pair
from reports.analysis.comparisons import verdict_lines
from reports.analysis.seed_statistics import (
    SeedSummary,
    competition_ranks,
    difference,
    rounded,
)
from reports.analysis.sweep_model import sweep_model
from reports.output.metric_formats import Metric, baseline_name, metric_of, range_text
from reports.study.protocols import task_words
from reports.study.report_plan import CellValues
from reports.study.sweep_results import SweepResults

HARDLY = 2.0  # a value below this multiple of chance is called hardly above chance


def sentences(sweep: SweepResults) -> tuple[str, ...]:
    """Returns the best cell, its lead over the published optimum, how sure that is, the gaps."""
    plan = sweep.plan
    key, name = plan.column
    metric = metric_of(name)
    measured = {cell: summary for cell in plan.cells if (summary := sweep.summary(cell, key, name))}
    if not measured:
        return ("No run of this sweep has finished yet, so there is nothing to say.",)
    if len(measured) == 1:
        (cell,) = measured
        value = value_text(sweep, cell)
        first = [f"Only one cell has a figure so far: {plan.describe(cell)}, {value}."]
    else:
        first = _best(sweep, metric, measured)
    return (*first, *_chance(sweep, metric), *_missing(sweep, len(measured)))


def _best(
    sweep: SweepResults, metric: Metric, measured: Mapping[CellValues, SeedSummary]
) -> list[str]:
    """Returns the best cell of two or more, and what it is compared with."""
    plan = sweep.plan
    means = [summary.mean for summary in measured.values()]
    order = competition_ranks(means, metric.decimals, metric.higher_is_better)
    best = [cell for cell, rank in zip(measured, order, strict=True) if rank == 1]
    second = [cell for cell, rank in zip(measured, order, strict=True) if rank == 2]
    if len(best) == 1:
        said = [f"Best here: {plan.describe(best[0])}, {value_text(sweep, best[0])}."]
    else:
        shared = metric.text(measured[best[0]].mean)
        cells = "; ".join(map(plan.describe, best))
        said = [f"{len(best)} cells share the best figure ({shared}): {cells}."]
    optimum = plan.published_optimum
    other = second[0] if second else None
    if optimum is not None and optimum in measured and optimum not in best:
        other = optimum
        said.append(
            f"That is {_gap(sweep, best[0], optimum, metric)} than the published optimum, "
            f"{plan.describe(optimum)}, which has {value_text(sweep, optimum)}."
        )
    elif optimum in best:
        alone = "That is the published optimum."
        said.append(alone if len(best) == 1 else "The published optimum is among them.")
        if other:
            gap = _gap(sweep, best[0], other, metric)
            said[-1] += f" It is {gap} than the second best ({plan.describe(other)})."
    else:
        if other:
            gap = _gap(sweep, best[0], other, metric)
            said.append(f"That is {gap} than the second best ({plan.describe(other)}).")
        if optimum:
            why = "has no figure yet" if sweep.planned(optimum) else "is not in this grid"
            said.append(f"The published optimum ({plan.describe(optimum)}) {why}.")
    return [*said, *_noise(sweep, best[0], other, metric), *verdict_lines(sweep)]


def value_text(sweep: SweepResults, cell: CellValues) -> str:
    """Returns `R@1 12.5 ± 0.3 % over 3 seeds`, or `R@1 12.5 % (one seed)`."""
    key, name = sweep.plan.column
    metric, summary = metric_of(name), sweep.summary(cell, key, name)
    assert summary is not None, "called for cells that have a value"
    unit = " %" if metric.unit == "%" else ""
    if summary.std is None:
        return f"{metric.label} {metric.text(summary.mean)}{unit} (one seed)"
    value = f"{metric.text(summary.mean)} ± {metric.text(summary.std)}{unit}"
    return f"{metric.label} {value} over {summary.n} seeds"


def _values(sweep: SweepResults, cell: CellValues) -> list[float]:
    return list(sweep.values(cell, *sweep.plan.column).values())


def _with_unit(metric: Metric, text: str) -> str:
    """Returns a difference with its unit: `2.3 points`, `1.0 ranks`, `0.12`."""
    return f"{text} {({'%': 'points', 'rank': 'ranks'}).get(metric.unit, metric.unit)}".strip()


def _gap(sweep: SweepResults, a: CellValues, b: CellValues, metric: Metric) -> str:
    """Returns `2.3 points better`: the difference of the unrounded means."""
    sign = 1 if metric.higher_is_better else -1
    gap = sign * difference(_values(sweep, a), _values(sweep, b)).mean
    if rounded(gap, metric.decimals) == 0:
        return f"less than {_with_unit(metric, metric.text(10**-metric.decimals))} better"
    return f"{_with_unit(metric, metric.text(gap))} better"


def _noise(sweep: SweepResults, a: CellValues, b: CellValues | None, metric: Metric) -> list[str]:
    if b is None:
        return []
    if sweep.plan.until_decided is not None:
        return [
            "Seeds were added until each comparison with the baseline was decided, so cells that "
            "are picked after the fact have no interval."
        ]
    x, y = _values(sweep, a), _values(sweep, b)
    if min(len(x), len(y)) == 1:
        error = _sampling_error(sweep, a, metric)
        return [f"One seed: differences of this size may be noise.{error}"]
    fitted = sweep_model(sweep)
    if fitted.model is None:
        return ["The runs leave no error between seeds, so no interval can be given."]
    if fitted.index(a) == fitted.index(b):
        return ["The two cells have identical runs."]
    found = any_pair(fitted.model, fitted.index(a), fitted.index(b))
    if found.interval is None:
        return ["The seeds do not differ at all, so no interval can be given."]
    low, high = sorted(value if metric.higher_is_better else -value for value in found.interval)
    interval = _with_unit(metric, metric.interval((low, high)))
    if low <= 0 <= high:
        meaning = "it contains 0, so the two cannot be distinguished"
    else:
        meaning = "it does not contain 0"
    return [
        f"95 % interval of this difference: {interval} ({len(x)} and {len(y)} seeds; "
        f"it holds for any two cells, also for a best one that was picked after the fact); "
        f"{meaning}."
    ]


def _sampling_error(sweep: SweepResults, cell: CellValues, metric: Metric) -> str:
    """Returns the standard error of a fraction of test queries; nothing for other metrics."""
    result = sweep.headline
    if not metric.is_fraction or result is None:
        return ""
    fraction = min(max(_values(sweep, cell)[0] / 100, 0.0), 1.0)
    error = 100 * math.sqrt(fraction * (1 - fraction) / result.queries)
    queries = task_words(result.protocol.task).queries
    text = (
        f" The choice of {result.queries} test {queries} alone gives a standard error "
        f"of about {metric.text(error)} points."
    )
    return text if error else ""


# ---- chance and baselines ------------------------------------------------------------------------


def _chance(sweep: SweepResults, metric: Metric) -> list[str]:
    """Returns how far the cells lie above chance and, for each baseline, how many are no better."""
    return [*_above_chance(sweep, metric), *_against_baselines(sweep, metric)]


def _means(sweep: SweepResults) -> dict[CellValues, float]:
    found = {cell: sweep.summary(cell, *sweep.plan.column) for cell in sweep.plan.cells}
    return {cell: summary.mean for cell, summary in found.items() if summary}


def _above_chance(sweep: SweepResults, metric: Metric) -> list[str]:
    _, name = sweep.plan.column
    result = sweep.headline
    chance = result.chance.get(name, 0.0) if result else 0.0
    if chance and not metric.higher_is_better and metric.unit != "rank":
        return _below_chance(sweep, metric, chance)
    if metric.unit != "%" or not chance:
        return []
    ratios = [mean / chance for mean in _means(sweep).values()]
    low, high = f"{min(ratios):.1f}", f"{max(ratios):.1f}"
    times = low if low == high else f"{low} to {high}"
    text = f"Guessing would give {chance:.2f} %; the cells reach {times} times that."
    weak = sum(ratio < HARDLY for ratio in ratios)
    if weak == len(ratios):
        return [f"{text} None is clearly above chance, so the comparison says nothing."]
    return [f"{text} {_are(weak, len(ratios))} hardly above chance." if weak else text]


def _below_chance(sweep: SweepResults, metric: Metric, chance: float) -> list[str]:
    """Compares errors with the error of guessing."""
    means = list(_means(sweep).values())
    guess = f"Guessing would give {metric.label} {metric.guess(chance)}"
    text = f"{guess}; the cells have {range_text(metric, means)}."
    weak = sum(mean >= chance for mean in means)
    if weak == len(means):
        return [f"{text} None is better than guessing, so the comparison says nothing."]
    return [f"{text} {_are(weak, len(means))} no better." if weak else text]


def _are(count: int, of: int) -> str:
    return f"{count} of {of} cells {'is' if count == 1 else 'are'}"


def _against_baselines(sweep: SweepResults, metric: Metric) -> list[str]:
    """Compares each cell with the baselines of its own runs, on the rounded values."""
    said = []
    means = _means(sweep)
    sign = 1 if metric.higher_is_better else -1
    for name, values in sweep.baselines(*sweep.plan.column).items():
        text = f"{baseline_name(name)}: {metric.label} {range_text(metric, values.values())}"
        gaps = [
            sign * (rounded(means[cell], metric.decimals) - rounded(value, metric.decimals))
            for cell, value in values.items()
            if cell in means
        ]
        weak = sum(gap <= 0 for gap in gaps)
        if weak == len(gaps):
            said.append(
                f"{text}; no cell is better, so nothing here shows that the video was of use."
            )
        elif weak:
            said.append(f"{text}; {_are(weak, len(gaps))} no better.")
        else:
            all_cells = "the cell is" if len(gaps) == 1 else f"all {len(gaps)} cells are"
            said.append(f"{text}; {all_cells} better.")
    return said


def _missing(sweep: SweepResults, measured: int) -> list[str]:
    planned = len(sweep.plan.cells)
    if measured == planned:
        return []
    have = "has" if planned - measured == 1 else "have"
    return [
        f"{planned - measured} of {planned} planned cells {have} no figure yet, so this may change."
    ]
