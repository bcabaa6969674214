"""What a table shows in plain sentences, with the doubts that belong to it."""

from __future__ import annotations

import math

from reports.output.metric_formats import Metric, baseline_name, metric_of, range_text
from reports.statistics.comparisons import verdict_lines
from reports.statistics.seed_statistics import difference, places, rounded
from reports.study.collect import Study, units
from reports.study.report_plan import Values

HARDLY = 2.0  # a figure below this multiple of chance is called hardly above chance


def sentences(study: Study) -> tuple[str, ...]:
    """Best cell, its distance to the published optimum, what this may be worth, and what is
    missing.
    """
    plan = study.plan
    key, name = plan.column
    metric = metric_of(name)
    measured = {cell: summary for cell in plan.cells if (summary := study.summary(cell, key, name))}
    if not measured:
        return ("No run of this sweep has finished yet, so there is nothing to say.",)
    if len(measured) == 1:
        (cell,) = measured
        told = [
            f"Only one cell has a figure so far: {plan.describe(cell)}, {figure_text(study, cell)}."
        ]
        return (*told, *_chance(study, metric), *_missing(study, len(measured)))
    order = places(
        [summary.mean for summary in measured.values()], metric.decimals, metric.higher_is_better
    )
    best = [cell for cell, place in zip(measured, order, strict=True) if place == 1]
    second = [cell for cell, place in zip(measured, order, strict=True) if place == 2]
    if len(best) == 1:
        told = [f"Best here: {plan.describe(best[0])}, {figure_text(study, best[0])}."]
    else:
        told = [
            f"{len(best)} cells share the best figure ({metric.text(measured[best[0]].mean)}): {'; '.join(map(plan.describe, best))}."
        ]
    optimum = plan.published_optimum
    other = None
    if optimum in measured and optimum not in best:
        other = optimum
        told.append(
            f"That is {_gap(study, best[0], other, metric)} than the published optimum, {plan.describe(other)}, which has {figure_text(study, other)}."
        )
    elif optimum in best:
        also = (
            "That is the published optimum."
            if len(best) == 1
            else "The published optimum is among them."
        )
        other = second[0] if second else None
        told.append(
            f"{also} It is {_gap(study, best[0], other, metric)} than the second best ({plan.describe(other)})."
            if other
            else also
        )
    else:
        other = second[0] if second else None
        if optimum:
            why = "has no figure yet" if study.planned(optimum) else "is not in this grid"
            told.append(f"The published optimum ({plan.describe(optimum)}) {why}.")
        if other:
            told.insert(
                1,
                f"That is {_gap(study, best[0], other, metric)} than the second best ({plan.describe(other)}).",
            )
    told += [*_noise(study, best[0], other, metric), *verdict_lines(study)]
    return (*told, *_chance(study, metric), *_missing(study, len(measured)))


def figure_text(study: Study, cell: Values) -> str:
    """`R@1 12.5 ± 0.3 % over 3 seeds`, or `R@1 12.5 % (one seed)`."""
    key, name = study.plan.column
    metric, summary = metric_of(name), study.summary(cell, key, name)
    assert summary is not None, "asked for a cell that has a figure"
    unit = " %" if metric.unit == "%" else ""
    if summary.std is None:
        return f"{metric.label} {metric.text(summary.mean)}{unit} (one seed)"
    return f"{metric.label} {metric.text(summary.mean)} ± {metric.text(summary.std)}{unit} over {summary.n} seeds"


def _means(study: Study, cell: Values) -> list[float]:
    return list(study.values(cell, *study.plan.column).values())


def _unit(metric: Metric) -> str:
    return {"%": "points", "rank": "ranks"}.get(metric.unit, metric.unit)


def _gap(study: Study, a: Values, b: Values, metric: Metric) -> str:
    """`2.3 points better`: the difference of the unrounded means."""
    gap = difference(_means(study, a), _means(study, b)).mean * (
        1 if metric.higher_is_better else -1
    )
    if rounded(gap, metric.decimals) == 0:
        return f"less than {metric.text(10**-metric.decimals)} {_unit(metric)} better".replace(
            "  ", " "
        )
    return f"{metric.text(gap)} {_unit(metric)} better".replace("  ", " ")


def _noise(study: Study, a: Values, b: Values | None, metric: Metric) -> list[str]:
    if b is None:
        return []
    x, y = _means(study, a), _means(study, b)
    if min(len(x), len(y)) == 1:
        return [
            f"One seed: differences of this size may be noise.{_sampling_error(study, a, metric)}"
        ]
    found = difference(x, y)
    if found.interval is None:
        return ["The seeds do not differ at all, so no interval can be given."]
    low, high = sorted(value if metric.higher_is_better else -value for value in found.interval)
    text = (
        f"95 % interval of this difference: {metric.interval((low, high))} {_unit(metric)} (Welch, {len(x)} and {len(y)} seeds)"
    ).replace("  ", " ")
    told = (
        "it contains 0, so the two cannot be told apart"
        if low <= 0 <= high
        else "it does not contain 0"
    )
    return [
        f"{text}; {told}. The best cell was picked after the fact, which makes any such interval too favourable."
    ]


def _sampling_error(study: Study, cell: Values, metric: Metric) -> str:
    """Standard error of a share of test queries; of metrics that are such a share."""
    key, _ = study.plan.column
    result = study.example(key)
    if not metric.share or result is None:
        return ""
    share = min(max(_means(study, cell)[0] / 100, 0.0), 1.0)
    error = 100 * math.sqrt(share * (1 - share) / result.queries)
    asked, _ = units(result.protocol.task)
    text = f" The choice of {result.queries} test {asked} alone gives a standard error of about {metric.text(error)} points."
    return text if error else ""


def _chance(study: Study, metric: Metric) -> list[str]:
    """How far the cells lie above chance, for metrics in per cent and errors, then how many are no
    better than each baseline.
    """
    return [*_above_chance(study, metric), *_against_baselines(study, metric)]


def _above_chance(study: Study, metric: Metric) -> list[str]:
    key, name = study.plan.column
    result = study.example(key)
    chance = result.chance.get(name, 0.0) if result else 0.0
    if chance and not metric.higher_is_better and metric.unit != "rank":
        return _below_chance(study, metric, chance)
    if metric.unit != "%" or not chance:
        return []
    ratios = [
        study.summary(cell, key, name).mean / chance
        for cell in study.plan.cells
        if study.summary(cell, key, name)
    ]  # type: ignore[union-attr]
    low, high = f"{min(ratios):.1f}", f"{max(ratios):.1f}"
    text = f"Guessing would give {chance:.2f} %; the cells reach {low if low == high else f'{low} to {high}'} times that."
    weak = sum(ratio < HARDLY for ratio in ratios)
    if weak == len(ratios):
        return [f"{text} None is clearly above chance, so the comparison says nothing."]
    return [
        f"{text} {weak} of {len(ratios)} cells {'is' if weak == 1 else 'are'} hardly above chance."
        if weak
        else text
    ]


def _below_chance(study: Study, metric: Metric, chance: float) -> list[str]:
    """For errors: they are compared with that of guessing as they are."""
    means = [s.mean for cell in study.plan.cells if (s := study.summary(cell, *study.plan.column))]
    text = f"Guessing would give {metric.label} {metric.guess(chance)}; the cells have {range_text(metric, means)}."
    weak = sum(mean >= chance for mean in means)
    if weak == len(means):
        return [f"{text} None is better than guessing, so the comparison says nothing."]
    return [
        f"{text} {weak} of {len(means)} cells {'is' if weak == 1 else 'are'} no better."
        if weak
        else text
    ]


def _against_baselines(study: Study, metric: Metric) -> list[str]:
    """Each cell against the baselines of its own runs, on the rounded figures."""
    told = []
    for name, values in study.baselines(*study.plan.column).items():
        text = f"{baseline_name(name)}: {metric.label} {range_text(metric, values.values())}"
        sign = 1 if metric.higher_is_better else -1
        pairs = [
            (s.mean, value)
            for cell, value in values.items()
            if (s := study.summary(cell, *study.plan.column))
        ]
        weak = sum(
            sign * (rounded(mean, metric.decimals) - rounded(value, metric.decimals)) <= 0
            for mean, value in pairs
        )
        if weak == len(pairs):
            told.append(
                f"{text}; no cell is better, so nothing here shows that the video was of use."
            )
        elif weak:
            told.append(
                f"{text}; {weak} of {len(pairs)} cells {'is' if weak == 1 else 'are'} no better."
            )
        else:
            told.append(
                f"{text}; {'the cell is' if len(pairs) == 1 else f'all {len(pairs)} cells are'} better."
            )
    return told


def _missing(study: Study, measured: int) -> list[str]:
    planned = len(study.plan.cells)
    if measured == planned:
        return []
    return [
        f"{planned - measured} of {planned} planned cells {'has' if planned - measured == 1 else 'have'} no figure yet, so this may change."
    ]
