"""Temporal grounding metrics: overlap of spans, suppression, recall at an overlap.

A span is a row [start, end] in seconds, end after start. A query is a sentence with one true span;
a prediction is a list of spans with scores, after suppression. All recalls and overlaps are in per
cent:

* R{n}-IoU{m}: fraction of queries with a span of overlap m or more among the first n. Overlap =
  intersection over union. An overlap that equals a limit up to rounding (`TOLERANCE`) reaches it.
* mIoU: mean overlap of the first span.
* mAP-IoU{m}: mean average precision of the first 10 spans at an overlap of m, as QVHighlights has
  it; mAP: mean over m = 0.5, 0.55 ... 0.95. With one true span, average precision is 1 / rank of
  the first span that reaches m, 0 if none does.

Ties are pessimistic: among spans of equal score the one that overlaps less comes first. So a model
that scores all spans alike gets what its worst proposal gets, in any order of the proposals.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from simvtp.errors import DataError, TrainingDiverged

Spans = NDArray[np.float64]  # [N, 2] seconds
Scores = NDArray[np.float64]  # [N]
Numbers = NDArray[np.float64]
Prediction = tuple[Spans, Scores]

DEPTHS = (1, 5)
OVERLAPS = (0.3, 0.5, 0.7)
AP_OVERLAPS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))  # of mAP
AP_SHOWN = (0.5, 0.75)  # of these also on their own
AP_DEPTH = 10  # spans of a query that mAP looks at
# Bounds in seconds are rounded floats, so 1/2 may come out as 0.5 - 1e-16. Different overlaps of
# bounds in hundredths of a second, or of a video of at most 64 segments, are further apart.
TOLERANCE = 1e-9


def check_spans(spans: Spans, what: str) -> Spans:
    """Returns the spans as float64 [N, 2].

    Raises:
        TrainingDiverged: a bound is not a finite number.
        DataError: another shape, or a span that does not end after its start (a span of length 0
            overlaps with nothing).
    """
    array = np.asarray(spans, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise DataError(
            f"{what}: spans are rows of a start and an end (in seconds), not an array of shape "
            f"{array.shape}."
        )
    if not np.isfinite(array).all():
        number = int((~np.isfinite(array)).any(axis=1).argmax())
        raise TrainingDiverged(
            f"{what}: span number {number} is {array[number].tolist()}, which is no pair of "
            "numbers."
        )
    empty = np.flatnonzero(array[:, 1] <= array[:, 0])
    if len(empty):
        start, end = array[empty[0]]
        raise DataError(
            f"{what}: span number {empty[0]} starts at {start:g} s and ends at {end:g} s: a span "
            "must end after its start."
        )
    return array


def overlap(first: Spans, second: Spans) -> Numbers:
    """Returns intersection over union of spans [N, 2] with spans [M, 2].

    Returns:
        [N, M], 0 to 1.
    """
    first, second = check_spans(first, "overlap"), check_spans(second, "overlap")
    return pairwise_overlap(first, second)


def pairwise_overlap(first: Spans, second: Spans) -> Numbers:
    """Returns `overlap` of spans that are known to be valid."""
    ends = np.minimum(first[:, None, 1], second[None, :, 1])
    starts = np.maximum(first[:, None, 0], second[None, :, 0])
    shared = np.maximum(ends - starts, 0)
    lengths = (first[:, 1] - first[:, 0])[:, None] + (second[:, 1] - second[:, 0])[None]
    return shared / (lengths - shared)


def reaches(overlaps: Numbers, level: float | Numbers) -> NDArray[np.bool_]:
    """Returns where an overlap is `level` or more, of the same shape."""
    return np.asarray(overlaps, dtype=np.float64) >= level - TOLERANCE


def suppress(
    spans: Spans, scores: Scores, threshold: float, keep: int | None = None
) -> NDArray[np.int64]:
    """Returns the indices of the spans that remain after non-maximum suppression, best first.

    The best span remains; those that overlap with it by more than `threshold` go (an overlap that
    equals it up to rounding does not); and so on with the rest. Among equal scores the earlier
    start comes first, then the earlier end: the outcome does not depend on the order of the spans.

    Args:
        spans: [N, 2] seconds; N = 0 gives none.
        scores: [N], larger is better.
        threshold: overlap, 0 to 1; 1 removes none.
        keep: stop after so many.
    """
    if not len(spans):
        return np.empty(0, np.int64)
    spans, scores = _check_prediction((spans, scores), "suppression")
    if not 0 <= threshold <= 1:
        raise DataError(
            f"suppression: the threshold is an overlap between 0 and 1, not {threshold}."
        )
    left = np.lexsort((spans[:, 1], spans[:, 0], -scores))
    kept: list[int] = []
    while len(left) and (keep is None or len(kept) < keep):
        kept.append(int(left[0]))
        overlaps = pairwise_overlap(spans[left[:1]], spans[left[1:]])[0]
        left = left[1:][overlaps <= threshold + TOLERANCE]
    return np.array(kept, dtype=np.int64)


def cover(overlaps: Numbers, probabilities: Numbers, keep: int) -> tuple[NDArray[np.int64], Scores]:
    """Chooses spans of which one should overlap well with the true one.

    Ours, in place of suppression. Each time it takes the span that most raises the expected overlap
    of the best one so far, as `prior_spans` does for the training moments. The first is the one
    with the largest expected overlap.

    Args:
        overlaps: [N, N], of each candidate with each, 0 to 1.
        probabilities: [N], that a candidate is the true span; they add up to 1.
        keep: how many spans, at most N.

    Returns:
        (indices, best first; gain of each).
    """
    reached, before = np.zeros(len(probabilities)), 0.0
    chosen: list[int] = []
    added: list[float] = []
    for _ in range(min(keep, len(probabilities))):
        expected = np.maximum(overlaps, reached) @ probabilities
        expected[chosen] = -np.inf
        chosen.append(int(expected.argmax()))
        reached = np.maximum(reached, overlaps[chosen[-1]])
        added.append(float(expected[chosen[-1]]) - before)
        before += added[-1]
    return np.array(chosen, dtype=np.int64), np.array(added)


def _check_prediction(prediction: Prediction, what: str) -> Prediction:
    spans, scores = check_spans(prediction[0], what), np.asarray(prediction[1], dtype=np.float64)
    if scores.shape != (len(spans),):
        raise DataError(
            f"{what}: {len(spans)} spans need as many scores, not an array of shape {scores.shape}."
        )
    if np.isnan(scores).any():
        raise TrainingDiverged(
            f"{what}: the score of span number {int(np.isnan(scores).argmax())} is not a number."
        )
    return spans, scores


def grounding_metrics(
    predictions: Sequence[Prediction], truths: Spans, *, names: Sequence[str] = ()
) -> tuple[dict[str, float], Numbers]:
    """Returns (metrics, overlap of the first span of each query [Q], 0 to 1).

    Args:
        predictions: (spans [N, 2], scores [N]) of each query, suppressed already, in any order; N
            may differ.
        truths: [Q, 2], the true span of each.
        names: of the queries, for messages.

    Raises:
        DataError: a query without a predicted span, without a truth, or with a span that does not
            end after its start.
        TrainingDiverged: a bound or a score is not a number.
    """
    truths = check_spans(truths, "truth")
    if len(predictions) != len(truths):
        raise DataError(
            f"{len(truths)} sentences have a true span, but {len(predictions)} were predicted."
        )
    if not len(truths):
        raise DataError("the test set has no sentence: choose another split.")
    reached = np.zeros((len(truths), len(DEPTHS)))  # best overlap among the first n
    precisions = np.zeros((len(truths), len(AP_OVERLAPS)))
    for number, (prediction, truth) in enumerate(zip(predictions, truths, strict=True)):
        name = f"sentence '{names[number]}'" if names else f"sentence number {number}"
        if not len(prediction[0]):
            raise DataError(
                f"{name} got no predicted span: predict at least one, such as the whole video."
            )
        spans, scores = _check_prediction(prediction, name)
        overlaps = pairwise_overlap(spans, truth[None])[:, 0]
        ranked = overlaps[np.lexsort((overlaps, -scores))]
        reached[number] = [ranked[:depth].max() for depth in DEPTHS]
        precisions[number] = average_precisions(ranked)
    return recalls(reached) | mean_precisions(precisions), reached[:, 0]


def average_precisions(ranked: Numbers) -> Numbers:
    """Returns the average precision at each of AP_OVERLAPS, 0 to 1.

    Args:
        ranked: overlaps of the predicted spans with the true one, best span first.
    """
    hits = reaches(ranked[:AP_DEPTH, None], np.array(AP_OVERLAPS))
    return np.where(hits.any(axis=0), 1 / (1 + hits.argmax(axis=0)), 0.0)


def mean_precisions(precisions: Numbers) -> dict[str, float]:
    """Returns mAP and mAP-IoU{m} in per cent from average precisions [Q, len(AP_OVERLAPS)]."""
    means = dict(zip(AP_OVERLAPS, 100 * precisions.mean(axis=0), strict=True))
    shown = {f"mAP-IoU{level}": float(means[level]) for level in AP_SHOWN}
    return {"mAP": float(100 * precisions.mean()), **shown}


def recalls(reached: Numbers) -> dict[str, float]:
    """Returns metrics from the best overlap among the first n of DEPTHS, [Q, len(DEPTHS)]."""
    metrics = {
        f"R{depth}-IoU{level}": float(100 * reaches(reached[:, column], level).mean())
        for column, depth in enumerate(DEPTHS)
        for level in OVERLAPS
    }
    return metrics | {"mIoU": float(100 * reached[:, 0].mean())}
