"""Predictions of each kind of task, from which `Items` are made (see example_cards.py)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simvtp.evaluation.answers import UNKNOWN
from simvtp.evaluation.examples.example_cards import (
    GOOD_OVERLAP,
    TOP,
    Cards,
    Scored,
    choose_examples,
)
from simvtp.evaluation.items import Items, distinct, items_of
from simvtp.evaluation.metrics import cosines, unit_features
from simvtp.evaluation.retrieval_evaluation import Embedded
from simvtp.evaluation.temporal_spans import (
    DEPTHS,
    Numbers,
    Prediction,
    Spans,
    average_precisions,
    mean_precisions,
    overlap,
    reaches,
)
from simvtp.runs.results import Result


@dataclass(frozen=True)
class Queries:
    """Queries of a test, in the order of the result's ranks.

    Attributes:
        ids: names of the items.
        videos: the clip of each.
        texts: question or sentence of each; "" where there is none.
        groups: categories, as in `Items.groups`.
    """

    ids: Sequence[str]
    videos: Sequence[str]
    texts: Sequence[str]
    groups: Sequence[str] = ()

    def card(self, number: int, hit: bool) -> dict[str, Any]:
        """Returns the part of a card that is known before anything is predicted."""
        return {"hit": hit, "video": self.videos[number], "text": self.texts[number]}


# ---- candidates that are scored for each item ----------------------------------------------------


@dataclass(frozen=True)
class Candidates:
    """Candidates of each query.

    Attributes:
        names: texts of the candidates of each query.
        right: int64 [Q], numbers of the right ones.
        answers: right answers, shown where the number is UNKNOWN.
    """

    names: Sequence[Sequence[str]]
    right: Tensor
    answers: Sequence[str] = ()


@dataclass(frozen=True)
class CandidateScores:
    """Scores of candidates.

    Attributes:
        scores: logits [Q, A], of which the first len(candidates.names[q]) count.
    """

    queries: Queries
    candidates: Candidates
    scores: Tensor

    def items(self, result: Result, wanted: Collection[str] = ()) -> Items:
        """Returns the items; see `Predictions`."""
        ids = distinct(self.queries.ids)
        hits = np.array(result.ranks) == 1
        cards = {
            ids[number]: self._card(number, result.ranks[number])
            for number in choose_examples(ids, hits, wanted)
        }
        return items_of(result, ids, groups=tuple(self.queries.groups), cards=cards)

    def _card(self, number: int, rank: int) -> dict[str, Any]:
        names = self.candidates.names[number]
        right = int(self.candidates.right[number])
        probabilities = self.scores[number][: len(names)].double().softmax(dim=0).tolist()
        choices = [
            {"text": name, "video": "", "right": position == right, "score": probability}
            for position, (name, probability) in enumerate(zip(names, probabilities, strict=True))
        ]
        # Among equals the wrong ones come first, as in the ranks.
        first = sorted(choices, key=lambda choice: (-float(choice["score"]), choice["right"]))[:TOP]
        card = self.queries.card(number, rank == 1) | {"score": "probability", "choices": first}
        if right == UNKNOWN:
            text = self.candidates.answers[number]
            answer = {"text": text, "video": "", "right": True, "score": None, "rank": None}
            return card | {"answer": answer}
        if any(choice["right"] for choice in first):
            return card
        return card | {"answer": choices[right] | {"rank": rank}}


# ---- retrieval -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Captions:
    """Names of the clips, and captions clip by clip, as they were embedded."""

    videos: Sequence[str]
    captions: Sequence[str]


def with_retrieval_predictions(
    results: Sequence[Result], embedded: Embedded, captions: Captions
) -> list[Scored]:
    """Returns the figures of both directions with their predictions.

    Figures after re-ranking or dual-softmax have ranks and no cards: their lists are not those of
    the features.
    """
    texts = _caption_names(embedded.owners, captions.videos)
    videos = distinct(captions.videos)
    plain = results[0].protocol.setting
    scored = []
    for result in results:
        backwards = result.protocol.direction in ("v2t", "i2t")
        names = videos if backwards else texts
        if result.protocol.setting == plain:
            found = RetrievalLists(embedded, captions, names, backwards)
            scored.append(Scored(result, found))
        else:
            scored.append(Scored(result, RanksOnly(names)))
    return scored


def _caption_names(owners: Tensor, videos: Sequence[str]) -> tuple[str, ...]:
    """Returns `<clip>#<number of its caption, from 0>`."""
    count: dict[int, int] = {}
    names = []
    for owner in owners.tolist():
        names.append(f"{videos[owner]}#{count.get(owner, 0)}")
        count[owner] = count.get(owner, 0) + 1
    return distinct(names)


@dataclass(frozen=True)
class RanksOnly:
    """Names of the queries of a figure whose ranks are known and whose lists are not."""

    names: Sequence[str]

    def items(self, result: Result, wanted: Collection[str] = ()) -> Items:
        """Returns the items, without cards."""
        return items_of(result, self.names)


@dataclass(frozen=True)
class RetrievalLists:
    """Features of one direction; nearest candidates are looked up for the chosen queries alone.

    Attributes:
        names: of the queries.
        backwards: from a video to its captions.
    """

    embedded: Embedded
    captions: Captions
    names: Sequence[str]
    backwards: bool

    def items(self, result: Result, wanted: Collection[str] = ()) -> Items:
        """Returns the items; see `Predictions`."""
        numbers = choose_examples(self.names, np.array(result.ranks) == 1, wanted)
        texts = unit_features(self.embedded.texts, "caption")
        videos = unit_features(self.embedded.videos, "video")
        owners, own = self.embedded.owners, torch.arange(len(videos))
        queries, gallery = (videos, texts) if self.backwards else (texts, videos)
        query_owners, gallery_owners = (own, owners) if self.backwards else (owners, own)
        rows = cosines(queries[numbers], gallery)(slice(None), slice(None))
        cards = {}
        for number, row in zip(numbers, rows, strict=True):
            right = gallery_owners == query_owners[number]
            cards[self.names[number]] = self._card(number, result.ranks[number], row, right)
        return items_of(result, self.names, cards=cards)

    def _card(self, number: int, rank: int, row: Tensor, right: Tensor) -> dict[str, Any]:
        order = np.lexsort((right.numpy(), -row.numpy()))[:TOP].tolist()
        choices = [self._candidate(position, row, right) for position in order]
        card = {
            "hit": rank == 1,
            "video": self.captions.videos[number] if self.backwards else "",
            "text": "" if self.backwards else self.captions.captions[number],
            "score": "similarity",
            "choices": choices,
        }
        if any(choice["right"] for choice in choices):
            return card
        best = int(torch.where(right, row, -torch.inf).argmax())
        return card | {"answer": self._candidate(best, row, right) | {"rank": rank}}

    def _candidate(self, position: int, row: Tensor, right: Tensor) -> dict[str, Any]:
        return {
            "text": self.captions.captions[position] if self.backwards else "",
            "video": "" if self.backwards else self.captions.videos[position],
            "right": bool(right[position]),
            "score": float(row[position]),
        }


# ---- counts and moments --------------------------------------------------------------------------


@dataclass(frozen=True)
class CountPredictions:
    """Predicted counts: real numbers, true and rounded whole ones, [Q] each."""

    queries: Queries
    predicted: Tensor
    truth: Tensor
    rounded: Tensor

    def items(self, result: Result, wanted: Collection[str] = ()) -> Items:
        """Returns the items; see `Predictions`."""
        ids = distinct(self.queries.ids)
        right = (self.rounded == self.truth).numpy()
        columns = {
            "accuracy": 100.0 * right,
            "MSE": (self.rounded - self.truth).double().square().numpy(),
            "MSE-raw": (self.predicted.double() - self.truth).square().numpy(),
        }
        cards: Cards = {}
        for number in choose_examples(ids, right, wanted):
            cards[ids[number]] = self.queries.card(number, bool(right[number])) | {
                "truth": int(self.truth[number]),
                "predicted": float(self.predicted[number]),
            }
        groups = tuple(self.queries.groups)
        return items_of(result, ids, values=_tuples(columns), groups=groups, cards=cards)


@dataclass(frozen=True)
class SpanPredictions:
    """Predicted moments.

    Attributes:
        predictions: spans of each sentence with their scores.
        truths: true spans, in seconds.
        lengths: of the videos, in seconds.
    """

    queries: Queries
    predictions: Sequence[Prediction]
    truths: Spans
    lengths: Numbers

    def items(self, result: Result, wanted: Collection[str] = ()) -> Items:
        """Returns the items; see `Predictions`."""
        ids = distinct(self.queries.ids)
        ranked = [
            _by_score(prediction, truth)
            for prediction, truth in zip(self.predictions, self.truths, strict=True)
        ]
        columns = {}
        for depth in DEPTHS:
            best = [overlaps[:depth].max() for _, _, overlaps in ranked]
            columns[f"IoU-top{depth}"] = np.array(best)
        precisions = np.stack([average_precisions(overlaps) for _, _, overlaps in ranked])
        columns |= {
            name: np.array([mean_precisions(row[None])[name] for row in precisions])
            for name in mean_precisions(precisions)
        }
        cards: Cards = {}
        good = reaches(columns["IoU-top1"], GOOD_OVERLAP)
        for number in choose_examples(ids, good, wanted):
            spans, scores, overlaps = (part[:TOP].tolist() for part in ranked[number])
            cards[ids[number]] = self.queries.card(number, bool(good[number])) | {
                "length_s": float(self.lengths[number]),
                "truth": self.truths[number].tolist(),
                "spans": spans,
                "scores": scores,
                "overlaps": overlaps,
            }
        return items_of(result, ids, values=_tuples(columns), cards=cards)


def _by_score(prediction: Prediction, truth: Spans) -> tuple[Spans, Numbers, Numbers]:
    """Returns (spans, scores, overlaps with the truth), best first.

    Among equals comes the one that overlaps less, as in the figures.
    """
    spans, scores = prediction
    overlaps = overlap(spans, truth[None])[:, 0]
    order = np.lexsort((overlaps, -scores))
    return spans[order], scores[order], overlaps[order]


def _tuples(columns: dict[str, NDArray[np.float64]]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(map(float, column)) for name, column in columns.items()}
