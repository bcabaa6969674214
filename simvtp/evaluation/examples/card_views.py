"""Views of example cards: what the macros of templates/cards.html draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from simvtp.evaluation.examples.clip_previews import Previews
from simvtp.evaluation.examples.example_cards import GOOD_OVERLAP

Card = Mapping[str, Any]
View = dict[str, Any]  # arguments of a macro; "kind" is its name

# Kind of a card -> what counts as right, and what its numbers are.
NOTES = {
    "found_clips": (
        "Right: the right one came first. Below each: its rank and its similarity with the "
        "caption (cosine)."
    ),
    "candidates": "Right: the right one came first. The numbers next to the candidates are {}.",
    "count": "Right: the rounded number is the true one.",
    "timeline": (
        f"Right: the first prediction overlaps by {GOOD_OVERLAP:g} or more with the true span "
        "(IoU)."
    ),
}


def _retrieved(card: Card, baseline: Card | None, previews: Previews) -> View:
    """Returns the view of a caption with the clips found, or of a clip with captions."""
    if card["video"]:
        return _answered(card, baseline, previews)
    found = [
        {**choice, "picture": previews.clips[choice["video"]], "rank": rank}
        for rank, choice in enumerate(card["choices"], start=1)
    ]
    answer = card.get("answer")
    return {
        "kind": "found_clips",
        "text": card["text"],
        "clips": found,
        "answer": answer and {**answer, "picture": previews.clips[answer["video"]]},
        "rank": rank_of_right(card),
    }


def _answered(card: Card, baseline: Card | None, previews: Previews) -> View:
    """Returns the view of a clip, its question if any, and the most likely candidates."""
    about = {"picture": previews.clips[card["video"]], "video": card["video"], "text": card["text"]}
    if "truth" in card:
        return about | {
            "kind": "count",
            "truth": card["truth"],
            "predicted": card["predicted"],
            "baseline": baseline,
        }
    return about | {
        "kind": "candidates",
        "choices": card["choices"],
        "shares": card["score"] == "probability",
        "answer": card.get("answer"),
        "rank": rank_of_right(card),
        "baseline": baseline and baseline["choices"][0],
    }


def _grounded(card: Card, baseline: Card | None, previews: Previews) -> View:
    """Returns the view of a sentence: frames of the video, and spans on a timeline."""
    length = card["length_s"]
    rows = [_span("truth", "true span", card["truth"], length)]
    pairs = zip(card["spans"], card["overlaps"], strict=True)
    for number, (span, overlap) in enumerate(pairs, start=1):
        kind = "first" if number == 1 else "other"
        rows.append(_span(kind, f"prediction {number}", span, length, overlap))
    if baseline is not None:
        span, overlap = baseline["spans"][0], baseline["overlaps"][0]
        rows.append(_span("blind", "without the video", span, length, overlap))
    ticks = [length * fraction for fraction in (0, 0.25, 0.5, 0.75, 1)]
    return {
        "kind": "timeline",
        "picture": previews.strips[card["video"]],
        "video": card["video"],
        "text": card["text"],
        "rows": rows,
        "ticks": ticks,
        "overlap": card["overlaps"][0],
    }


def _span(
    kind: str, label: str, span: Sequence[float], length: float, overlap: float | None = None
) -> View:
    """Returns a row of the timeline; its bar in per cent of the video, clipped at its end."""
    start, end = (min(max(bound / length, 0.0), 1.0) for bound in span)
    return {
        "kind": kind,
        "label": label,
        "start_s": span[0],
        "end_s": span[1],
        "overlap": overlap,
        "left": 100 * start,
        "width": 100 * (end - start),
    }


def rank_of_right(card: Card) -> int | None:
    """Returns the rank of the right candidate; None if it is not among the candidates."""
    ranks = [rank for rank, choice in enumerate(card["choices"], start=1) if choice["right"]]
    return ranks[0] if ranks else card["answer"]["rank"]


RENDERERS: dict[str, Callable[[Card, Card | None, Previews], View]] = {
    "retrieval": _retrieved,
    "image_text": _retrieved,
    "qa": _answered,
    "choice": _answered,
    "action": _answered,
    "grounding": _grounded,
}


def clips_of(card: Card) -> Iterator[str]:
    """Yields the names of the clips that a card shows moving, as often as it does."""
    shown = [*card.get("choices", ()), *([card["answer"]] if card.get("answer") else ())]
    names = [] if "spans" in card else [card["video"]]
    yield from filter(None, [*names, *(choice["video"] for choice in shown)])


def strips_of(card: Card) -> Iterator[str]:
    """Yields the names of the videos that a card shows as a strip."""
    if "spans" in card:
        yield card["video"]
