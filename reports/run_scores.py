"""Compares the results of two runs, over the test items that both stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reports.analysis.paired_bootstrap import item_values
from reports.analysis.seed_statistics import Difference, paired_bootstrap
from reports.output.metric_formats import metric_of
from reports.run_side import RunSide
from reports.study.protocols import comparable_fields

SHOWN_ITEMS = 10  # of the items that changed most, each way
SHOWN_CURVES = 6
RIGHT_ANSWERS = ("R1", "accuracy", "top1")  # metrics that count right answers
ANOTHER_PROTOCOL = "another protocol"


@dataclass(frozen=True)
class Score:
    """One value of both runs.

    Attributes:
        gap: second minus first, over the test items; None if it cannot be had.
        remark: the reason why there is no gap.
    """

    key: str
    metric: str
    first: float | None
    second: float | None
    gap: Difference | None
    remark: str = ""


@dataclass(frozen=True)
class ChangedItem:
    """A test item with the rank of its right candidate in both runs."""

    item: str
    first: float
    second: float


@dataclass(frozen=True)
class Wins:
    """Counts of the test items of one result by which run was right.

    Attributes:
        lost: items whose rank is much better in the first run.
        won: items whose rank is much better in the second run.
    """

    key: str
    metric: str
    both: int
    only_first: int
    only_second: int
    neither: int
    lost: tuple[ChangedItem, ...] = ()
    won: tuple[ChangedItem, ...] = ()


def scores(a: RunSide, b: RunSide) -> tuple[Score, ...]:
    """Returns every value that either run has."""
    made = []
    for key in dict.fromkeys((*a.results, *b.results)):
        metrics = [side.results[key].metrics if key in side.results else {} for side in (a, b)]
        for name in dict.fromkeys((*metrics[0], *metrics[1])):
            gap, remark = _gap(a, b, key, name)
            first, second = metrics[0].get(name), metrics[1].get(name)
            made.append(Score(key, name, first, second, gap, remark))
    return tuple(made)


def _gap(a: RunSide, b: RunSide, key: str, name: str) -> tuple[Difference | None, str]:
    """Returns the difference over the items, or None and the reason."""
    if key not in a.results or key not in b.results:
        return None, "only one run has it"
    first, second = (comparable_fields(side.results[key]) for side in (a, b))
    if first != second:
        return None, ANOTHER_PROTOCOL
    runs = [side.measured_run for side in (a, b)]
    left, right = (item_values(run, key, name) for run in runs)
    if left is None or right is None:
        return None, "no mean over the items"
    if left.ids != right.ids or runs[0].test_set != runs[1].test_set:
        return None, "other test items"
    return paired_bootstrap(right.values, left.values, left.clips), ""


def wins(a: RunSide, b: RunSide) -> tuple[Wins, ...]:
    """Returns the counts for each result that counts right answers."""
    made = []
    for key in (key for key in a.results if key in b.results):
        metrics = a.results[key].metrics
        name = next((name for name in RIGHT_ANSWERS if name in metrics), "")
        if not name or _gap(a, b, key, name)[1]:
            continue
        first, second = (item_values(side.measured_run, key, name) for side in (a, b))
        assert first is not None and second is not None, "there is a gap"
        left, right = first.values > 0, second.values > 0
        made.append(
            Wins(
                key,
                name,
                both=int(np.sum(left & right)),
                only_first=int(np.sum(left & ~right)),
                only_second=int(np.sum(~left & right)),
                neither=int(np.sum(~left & ~right)),
                lost=_changed(a, b, key, first.ids, sign=1),
                won=_changed(a, b, key, first.ids, sign=-1),
            )
        )
    return tuple(made)


def _ranks(side: RunSide, key: str) -> NDArray[np.float64]:
    return np.array(side.results[key].ranks, dtype=float)


def _changed(
    a: RunSide, b: RunSide, key: str, ids: Sequence[str], sign: int
) -> tuple[ChangedItem, ...]:
    """Returns the items whose rank rose most from the first to the second run.

    With `sign` -1 those whose rank fell most. Without ranks there are none.
    """
    first, second = _ranks(a, key), _ranks(b, key)
    if len(first) != len(second) or len(first) == 0:
        return ()
    gap = sign * (second - first)
    order = sorted(range(len(gap)), key=lambda number: (-gap[number], number))[:SHOWN_ITEMS]
    return tuple(
        ChangedItem(ids[number], float(first[number]), float(second[number]))
        for number in order
        if gap[number] > 0
    )


def shared_curves(a: RunSide, b: RunSide) -> list[str]:
    """Returns the series that both runs have: total losses first, then validation."""
    both = [
        name
        for name in a.curves
        if name in b.curves and max(len(a.curves[name]), len(b.curves[name])) > 1
    ]
    both.sort(key=lambda name: ("loss/total" not in name, "/val/" not in name, name))
    return both[:SHOWN_CURVES]


def verdict(a: RunSide, b: RunSide, found: Sequence[Score]) -> str:
    """Returns a sentence on the first value that both have, fine-tuned if there is one."""
    both = [score for score in found if score.gap is not None]
    score = next((s for s in both if "finetuned" in s.key), both[0] if both else None)
    if score is None or score.gap is None:
        return "The two runs share no value that could be compared item by item."
    metric = metric_of(score.metric)
    first, second = metric.text(score.first or 0.0), metric.text(score.second or 0.0)
    text = f"{score.key} {metric.label}: {first} in {a.name}, {second} in {b.name}"
    if score.gap.interval is None:
        return f"{text}; the items do not differ at all."
    low, high = score.gap.interval
    meaning = "the two trained models differ on these test items"
    if low <= 0 <= high:
        meaning = "not distinguishable on these test items"
    return (
        f"{text}; difference with 95 % CI over test items {metric.interval(score.gap.interval)}: "
        f"{meaning}. One run each says nothing about their settings."
    )
