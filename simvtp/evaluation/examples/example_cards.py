"""Scored figures with the predictions behind them, and the rule that picks example cards.

A task scores a model and gives a `Scored` for each figure: the `Result` and the `Predictions` that
it was computed from. Predictions make `Items`: outcomes of all test items, and cards of some.

A card is what an example page shows of one item, as JSON values (gallery.py draws it):

    hit        whether it counts as right: rank 1, overlap of at least 0.5, the true number
    video      the clip that the item is about; empty where it asks for one
    text       caption, question or sentence; empty where there is none
    choices    the first TOP candidates, best first, each {"text", "video", "right", "score"}
               (video or text may be empty)
    answer     the right candidate in the same form, with its "rank", if it is not among the choices
    score      kind of the scores: "probability" or "similarity"
    truth, predicted                 of a count: numbers
    length_s, truth, spans, scores, overlaps    of a moment: seconds; spans best first

Cards are made of at most HITS right and HITS wrong items, those whose names have the lowest hash:
nobody picks them, and the same items are shown of every run on the same data that was right, or
wrong, about them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from simvtp.data.manifest import hash_unit
from simvtp.evaluation.items import Items
from simvtp.runs.results import Result

TOP = 5  # candidates on a card
HITS = 32  # cards of right items, and of wrong ones
GOOD_OVERLAP = 0.5  # from which on the first span counts as right

Cards = dict[str, dict[str, Any]]


class Predictions(Protocol):
    """Predictions for the test items of one figure; predictions.py has one class a kind."""

    def items(self, result: Result, wanted: Collection[str] = ()) -> Items:
        """Returns the outcomes of all items, and cards of some.

        Args:
            result: the figure that was computed from these predictions.
            wanted: names of the items that get a card; none: those that the rule picks.
        """
        ...


@dataclass(frozen=True)
class Scored:
    """A figure and the predictions behind it, as large as the test set.

    Attributes:
        result: the figure.
        predictions: from which its items are made.
        baselines: figures of trained baselines, by name (as in `Result.baselines`).
    """

    result: Result
    predictions: Predictions
    baselines: Mapping[str, Scored] = field(default_factory=dict)


def add_baseline(scored: Scored, other: Scored, name: str) -> Scored:
    """Returns the figure with the metrics and the predictions of a baseline trained for it."""
    metrics = {**scored.result.baselines, name: other.result.metrics}
    return replace(
        scored,
        result=replace(scored.result, baselines=metrics),
        baselines={**scored.baselines, name: other},
    )


def items_of_scored(scored: Sequence[Scored]) -> list[Items]:
    """Returns the items behind the figures: first the figures', then those of their baselines.

    A baseline has cards of the same items as its figure.
    """
    figures = [one.predictions.items(one.result) for one in scored]
    baselines = [
        replace(other.predictions.items(other.result, items.cards), baseline=name)
        for one, items in zip(scored, figures, strict=True)
        for name, other in one.baselines.items()
    ]
    return figures + baselines


def example_order(name: str) -> float:
    """Returns the position of an item in the order in which examples are taken, 0 to 1."""
    return hash_unit("example", name)


def choose_examples(
    ids: Sequence[str], hits: NDArray[np.bool_], wanted: Collection[str] = ()
) -> list[int]:
    """Returns the numbers of the items that get a card: the wanted ones, else by the rule."""
    if wanted:
        return [number for number, name in enumerate(ids) if name in wanted]
    ordered = sorted(range(len(ids)), key=lambda number: (example_order(ids[number]), number))
    right = [number for number in ordered if hits[number]]
    wrong = [number for number in ordered if not hits[number]]
    return right[:HITS] + wrong[:HITS]
