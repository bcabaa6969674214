"""From what a task predicted to `Items`: outcomes of all test items, and cards of some.

A card is what an example page shows of one item, as JSON values (gallery.py draws it):

    hit        whether it counts as right: rank 1, overlap of at least 0.5, the true number
    video      the clip that the item is about; empty where it asks for one
    text       caption, question or sentence; empty where there is none
    choices    the first TOP candidates, best first, each {"text", "video", "right", "score"} (video or text may be empty)
    answer     the right candidate in the same form, with its "rank", if it is not among the choices
    score      what the scores are: "probability" or "similarity"
    truth, predicted                 of a count: numbers
    length_s, truth, spans, scores, overlaps    of a moment: seconds; spans best first

Cards are made of at most HITS right and HITS wrong items, those whose names have the lowest hash:
nobody picks them, and the same items are shown of every run on the same data that was right, or
wrong, about them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simvtp.data.manifest import hash_unit
from simvtp.evaluation.answers import UNKNOWN
from simvtp.evaluation.items import Items, distinct, items_of
from simvtp.evaluation.metrics import cosines, unit_features
from simvtp.evaluation.retrieval_evaluation import Embedded
from simvtp.evaluation.temporal_spans import DEPTHS, Numbers, Prediction, Spans, overlap
from simvtp.runs.results import Result

TOP = 5  # candidates on a card
HITS = 32  # cards of right items, and of wrong ones
GOOD_OVERLAP = 0.5  # from which on the first span counts as right

Cards = dict[str, dict[str, Any]]
MakeItems = Callable[
    [Collection[str]], list[Items]
]  # names of the items that are to have a card; none: those that the rule picks


def luck(name: str) -> float:
    """The place of an item in the order in which examples are taken, 0 to 1."""
    return hash_unit("example", name)


def chosen(ids: Sequence[str], hits: NDArray[np.bool_], wanted: Collection[str]) -> list[int]:
    """Numbers of the items that get a card."""
    if wanted:
        return [number for number, name in enumerate(ids) if name in wanted]
    ordered = sorted(range(len(ids)), key=lambda number: (luck(ids[number]), number))
    return [
        number
        for side in (True, False)
        for number in [n for n in ordered if bool(hits[n]) is side][:HITS]
    ]


def with_baseline(result: Result, other: Result, name: str) -> Result:
    """The result with the metrics, and the items, of a baseline that was trained for it."""
    mine, its = result.items, other.items

    def both(wanted: Collection[str]) -> list[Items]:
        assert mine is not None and its is not None
        found = mine(wanted)
        return [*found, *(replace(one, baseline=name) for one in its(found[0].cards))]

    baselines = {**result.baselines, name: other.metrics}
    return replace(result, baselines=baselines, items=both if mine and its else None)


def all_items(results: Sequence[Result]) -> list[Items]:
    """The items behind the results, of those that know them: first the figures', then the
    baselines'.
    """
    found = [one for result in results if result.items for one in result.items(())]
    return sorted(found, key=lambda one: bool(one.baseline))


# ---- candidates that are scored for each item ----------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """What was asked, in the order of the result's ranks: names of the items, their videos, texts
    (empty where there are none), and categories, as in `Items.groups`."""

    ids: Sequence[str]
    videos: Sequence[str]
    texts: Sequence[str]
    groups: Sequence[str] = ()


@dataclass(frozen=True)
class Candidates:
    """What was to choose from. `names`: of an item's number; `right`: int64 [Q], numbers of the
    right ones; `answers`: what would be right where that is UNKNOWN."""

    names: Callable[[int], Sequence[str]]
    right: Tensor
    answers: Sequence[str] = ()


def with_candidates(result: Result, asked: Asked, candidates: Candidates, scores: Tensor) -> Result:
    """The result with its items; scores [Q, A] are logits, of which an item's first
    len(candidates.names(item)) count.
    """
    ids = distinct(asked.ids)
    hits = np.array(result.ranks) == 1

    def card(number: int) -> dict[str, Any]:
        about = {
            "hit": bool(hits[number]),
            "video": asked.videos[number],
            "text": asked.texts[number],
        }
        return about | _candidate_card(candidates, scores[number], number, result.ranks[number])

    def make(wanted: Collection[str]) -> list[Items]:
        cards = {ids[number]: card(number) for number in chosen(ids, hits, wanted)}
        return [items_of(result, ids, groups=tuple(asked.groups), cards=cards)]

    return replace(result, items=make)


def _candidate_card(
    candidates: Candidates, scores: Tensor, number: int, rank: int
) -> dict[str, Any]:
    names, right = candidates.names(number), int(candidates.right[number])
    probabilities = scores[: len(names)].double().softmax(dim=0).tolist()
    choices = [
        {"text": name, "video": "", "right": place == right, "score": share}
        for place, (name, share) in enumerate(zip(names, probabilities, strict=True))
    ]
    # Among equals the wrong ones come first, as in the ranks.
    first = sorted(choices, key=lambda choice: (-float(choice["score"]), choice["right"]))[:TOP]
    card = {"score": "probability", "choices": first}
    if right == UNKNOWN:
        return card | {
            "answer": {
                "text": candidates.answers[number],
                "video": "",
                "right": True,
                "score": None,
                "rank": None,
            }
        }
    return card | (
        {}
        if any(choice["right"] for choice in first)
        else {"answer": choices[right] | {"rank": rank}}
    )


# ---- retrieval -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """Names of the clips, and captions clip by clip, as they were embedded."""

    videos: Sequence[str]
    captions: Sequence[str]


def with_retrieved(results: Sequence[Result], embedded: Embedded, shown: Shown) -> list[Result]:
    """The results of both directions with their items. Those after re-ranking or dual-softmax have
    ranks and no cards: their lists are not those of the features."""
    texts = _caption_names(embedded.owners, shown.videos)
    plain = results[0].protocol.setting
    found = []
    for result in results:
        backwards = result.protocol.direction in ("v2t", "i2t")
        names = distinct(shown.videos) if backwards else texts
        lists = (
            _Lists(result, embedded, shown, names, backwards)
            if result.protocol.setting == plain
            else None
        )
        found.append(replace(result, items=lists or _ranks_only(result, names)))
    return found


def _caption_names(owners: Tensor, videos: Sequence[str]) -> tuple[str, ...]:
    """`<clip>#<number of its caption, from 0>`."""
    count: dict[int, int] = {}
    names = []
    for owner in owners.tolist():
        names.append(f"{videos[owner]}#{count.get(owner, 0)}")
        count[owner] = count.get(owner, 0) + 1
    return distinct(names)


def _ranks_only(result: Result, names: Sequence[str]) -> MakeItems:
    return lambda wanted: [items_of(result, names)]


@dataclass(frozen=True)
class _Lists:
    """`MakeItems` of one direction: the nearest candidates of the chosen queries alone are looked
    up, not those of all.
    """

    result: Result
    embedded: Embedded
    shown: Shown
    names: Sequence[str]
    backwards: bool

    def __call__(self, wanted: Collection[str]) -> list[Items]:
        hits = np.array(self.result.ranks) == 1
        numbers = chosen(self.names, hits, wanted)
        texts, videos = (
            unit_features(self.embedded.texts, "caption"),
            unit_features(self.embedded.videos, "video"),
        )
        queries, gallery = (videos, texts) if self.backwards else (texts, videos)
        owners, own = self.embedded.owners, torch.arange(len(videos))
        query_owners, gallery_owners = (own, owners) if self.backwards else (owners, own)
        rows = cosines(queries[numbers], gallery)(slice(None), slice(None))
        cards = {
            self.names[number]: self._card(number, row, gallery_owners == query_owners[number])
            for number, row in zip(numbers, rows, strict=True)
        }
        return [items_of(self.result, self.names, cards=cards)]

    def _card(self, number: int, row: Tensor, right: Tensor) -> dict[str, Any]:
        rank = self.result.ranks[number]
        order = np.lexsort((right.numpy(), -row.numpy()))[:TOP].tolist()
        choices = [self._candidate(place, row, right) for place in order]
        card = {
            "hit": rank == 1,
            "video": self.shown.videos[number] if self.backwards else "",
            "text": "" if self.backwards else self.shown.captions[number],
            "score": "similarity",
            "choices": choices,
        }
        if any(choice["right"] for choice in choices):
            return card
        best = int(torch.where(right, row, -torch.inf).argmax())
        return card | {"answer": self._candidate(best, row, right) | {"rank": rank}}

    def _candidate(self, place: int, row: Tensor, right: Tensor) -> dict[str, Any]:
        text, video = (
            (self.shown.captions[place], "") if self.backwards else ("", self.shown.videos[place])
        )
        return {
            "text": text,
            "video": video,
            "right": bool(right[place]),
            "score": float(row[place]),
        }


# ---- counts and moments --------------------------------------------------------------------------


def with_counts(
    result: Result, asked: Asked, predicted: Tensor, truth: Tensor, rounded: Tensor
) -> Result:
    """Counting questions: real numbers predicted, true and rounded whole ones, [Q] each."""
    ids = distinct(asked.ids)
    right = (rounded == truth).numpy()
    columns = {
        "accuracy": 100.0 * right,
        "MSE": (rounded - truth).double().square().numpy(),
        "MSE-raw": (predicted.double() - truth).square().numpy(),
    }

    def make(wanted: Collection[str]) -> list[Items]:
        cards = {
            ids[n]: {
                "hit": bool(right[n]),
                "video": asked.videos[n],
                "text": asked.texts[n],
                "truth": int(truth[n]),
                "predicted": float(predicted[n]),
            }
            for n in chosen(ids, right, wanted)
        }
        return [
            items_of(result, ids, values=_tuples(columns), groups=tuple(asked.groups), cards=cards)
        ]

    return replace(result, items=make)


def with_spans(
    result: Result, asked: Asked, predictions: Sequence[Prediction], truths: Spans, lengths: Numbers
) -> Result:
    """Moments: the predictions of each sentence with their scores, true spans and lengths of the
    videos, in seconds.
    """
    ids = distinct(asked.ids)
    ranked = [
        _by_score(prediction, truth) for prediction, truth in zip(predictions, truths, strict=True)
    ]
    columns = {
        f"IoU-top{depth}": np.array([overlaps[:depth].max() for _, _, overlaps in ranked])
        for depth in DEPTHS
    }

    def make(wanted: Collection[str]) -> list[Items]:
        cards: Cards = {}
        for n in chosen(ids, columns["IoU-top1"] >= GOOD_OVERLAP, wanted):
            spans, scores, overlaps = (part[:TOP].tolist() for part in ranked[n])
            cards[ids[n]] = {
                "hit": overlaps[0] >= GOOD_OVERLAP,
                "video": asked.videos[n],
                "text": asked.texts[n],
                "length_s": float(lengths[n]),
                "truth": truths[n].tolist(),
                "spans": spans,
                "scores": scores,
                "overlaps": overlaps,
            }
        return [items_of(result, ids, values=_tuples(columns), cards=cards)]

    return replace(result, items=make)


def _by_score(prediction: Prediction, truth: Spans) -> tuple[Spans, Numbers, Numbers]:
    """(spans, scores, overlaps with the truth), best first; among equals the one that overlaps
    less, as in the figures.
    """
    spans, scores = prediction
    overlaps = overlap(spans, truth[None])[:, 0]
    order = np.lexsort((overlaps, -scores))
    return spans[order], scores[order], overlaps[order]


def _tuples(columns: dict[str, NDArray[np.float64]]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(map(float, column)) for name, column in columns.items()}
