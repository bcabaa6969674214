"""Temporal grounding metrics: overlap of spans, suppression, recall at an overlap, and guessing.

A span is a row [start, end] in seconds, end after start. A query is a sentence with one true span;
a prediction is a list of spans with scores, after suppression. All recalls and overlaps are in per
cent:

* R{n}-IoU{m}: fraction of queries with a span of overlap m or more among the first n. Overlap =
  intersection over union. An overlap that equals a limit up to rounding (`TOLERANCE`) reaches it.
* mIoU: mean overlap of the first span.
* mAP-IoU{m}: mean average precision of the first 10 spans at an overlap of m, as QVHighlights has
  it; mAP: mean over m = 0.5, 0.55 ... 0.95. With one true span, average precision is 1 / rank of the
  first span that reaches m, 0 if none does.

Ties are pessimistic: among spans of equal score the one that overlaps less comes first. So a model
that scores all spans alike gets what its worst proposal gets, in any order of the proposals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from simvtp.errors import DataError, TrainingDiverged
from simvtp.runs.results import Protocol, Result

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
# Gauss-Legendre nodes of the mean over the threshold, for the expected overlap.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


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
    return _overlap(first, second)


def _overlap(first: Spans, second: Spans) -> Numbers:
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
        overlaps = _overlap(spans[left[:1]], spans[left[1:]])[0]
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
        overlaps = _overlap(spans, truth[None])[:, 0]
        ranked = overlaps[np.lexsort((overlaps, -scores))]
        reached[number] = [ranked[:depth].max() for depth in DEPTHS]
        precisions[number] = average_precisions(ranked)
    return _recalls(reached) | mean_precisions(precisions), reached[:, 0]


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


def _recalls(reached: Numbers) -> dict[str, float]:
    """Returns metrics from the best overlap among the first n of DEPTHS, [Q, len(DEPTHS)]."""
    metrics = {
        f"R{depth}-IoU{level}": float(100 * reaches(reached[:, column], level).mean())
        for column, depth in enumerate(DEPTHS)
        for level in OVERLAPS
    }
    return metrics | {"mIoU": float(100 * reached[:, 0].mean())}


# ---- guessing ------------------------------------------------------------------------------------


def chance(truths: Spans, durations: Numbers) -> dict[str, float]:
    """Returns the expected metrics of spans with two uniformly random bounds within the video.

    They are exact (mIoU: to about 0.01 per cent). R5 is that of five independent guesses, mAP of ten. A truth
    that begins after the end of its video is never hit.

    Args:
        durations: [Q] seconds.
    """
    truths, durations = check_spans(truths, "truth"), _check_durations(durations, len(truths))
    inside = _begins(truths, durations)
    if not inside.any():
        nothing = mean_precisions(np.zeros((1, len(AP_OVERLAPS))))
        return _recalls(np.zeros((1, len(DEPTHS)))) | nothing
    metrics = _chance_inside(truths[inside], durations[inside])
    return {name: value * float(inside.mean()) for name, value in metrics.items()}


def _begins(truths: Spans, durations: Numbers) -> NDArray[np.bool_]:
    """Returns bool [Q]: the span begins before its video ends.

    In real annotation files not all do.
    """
    return np.asarray(truths, dtype=np.float64)[:, 0] < np.asarray(durations, dtype=np.float64)


def _chance_inside(truths: Spans, durations: Numbers) -> dict[str, float]:
    """Returns `chance` of spans that begin within their video."""
    spans = relative(truths, durations)
    hits = {level: _hit(spans, level) for level in OVERLAPS}
    metrics = {
        f"R{depth}-IoU{level}": float(100 * (1 - (1 - hits[level]) ** depth).mean())
        for depth in DEPTHS
        for level in OVERLAPS
    }
    # The mean of a number between 0 and 1 is the integral of the probability that it is m or more.
    # With m = x² the integrand is smooth at 0.
    nodes = (_NODES + 1) / 2
    mean = sum(
        weight * node * _hit(spans, node**2) for node, weight in zip(nodes, _WEIGHTS, strict=True)
    )
    precisions = np.stack([_chance_precision(_hit(spans, m)) for m in AP_OVERLAPS], axis=1)
    return metrics | {"mIoU": float(100 * np.mean(mean))} | mean_precisions(precisions)


def _chance_precision(hit: Numbers) -> Numbers:
    """Returns the expected average precision of AP_DEPTH guesses that hit with probability `hit`."""
    ranks = np.arange(1, AP_DEPTH + 1)
    return (hit[:, None] * (1 - hit[:, None]) ** (ranks - 1) / ranks).sum(axis=1)


def relative(spans: Spans, durations: Numbers) -> Spans:
    """Returns spans as fractions of their video, clipped to [0, 1].

    Annotations go a little over the end now and then.
    """
    spans, durations = check_spans(spans, "truth"), _check_durations(durations, len(spans))
    late = np.flatnonzero(spans[:, 0] >= durations)
    if len(late):
        start, duration = spans[late[0], 0], durations[late[0]]
        raise DataError(
            f"span number {late[0]} starts at {start:g} s, but its video lasts {duration:g} s: the "
            "annotation or the video is wrong."
        )
    return np.clip(spans / durations[:, None], 0, 1)


def _check_durations(durations: Numbers, count: int) -> Numbers:
    durations = np.asarray(durations, dtype=np.float64)
    if durations.shape != (count,) or not (durations > 0).all():
        raise DataError(
            f"{count} spans need as many durations above 0 s, not {durations.tolist()[:5]} ..."
        )
    return durations


def _hit(truths: Spans, level: float) -> Numbers:
    """Returns P(overlap of a random span [a, b] with each truth [s, e] is `level` or more).

    Bounds of both are in [0, 1]. For a given a the favourable b form one interval, whose length is
    piecewise linear in a, so that the trapezium rule between its kinks is exact. With w = e - s:

        a <= s: b from s + level (e - a) to min(1, a + w / level), for a >= e - w / level
        a >= s: b from a + level w to min(1, s + (e - a) / level), for a <= e - level w
    """
    s, e = truths[:, 0], truths[:, 1]
    w = e - s
    low = np.maximum(0, e - w / level)
    kink = np.clip(1 - w / level, low, s)
    before = _area(lambda a: np.minimum(1, a + w / level) - (s + level * (e - a)), low, kink, s)
    high = e - level * w
    kink = np.clip(e - level * (1 - s), s, high)
    after = _area(lambda a: np.minimum(1, s + (e - a) / level) - (a + level * w), s, kink, high)
    return 2 * (before + after)  # a < b: half of the unit square


def _area(length: Callable[[Numbers], Numbers], *bounds: Numbers) -> Numbers:
    """Returns the integral of a function that is linear between neighbouring bounds."""
    values = [np.maximum(length(bound), 0) for bound in bounds]
    area = np.zeros_like(bounds[0])
    for number in range(len(bounds) - 1):
        area += (bounds[number + 1] - bounds[number]) * (values[number] + values[number + 1]) / 2
    return area


def prior_spans(truths: Spans, durations: Numbers, *, steps: int = 20) -> Prediction:
    """Returns the best spans for every video, knowing the training moments and seeing nothing.

    Of all spans whose bounds are multiples of 1/steps of the video, first the one with the largest
    mean overlap with the training moments, then each time the one that most raises the mean of the
    best overlap so far (ours). Training moments that begin after the end of their video (real
    annotation files have some) are left out.

    Returns:
        (fractions of the video [N, 2], scores); multiply the fractions with a video's duration.

    Raises:
        DataError: no training moment begins within its video.
    """
    truths, durations = (
        np.asarray(truths, dtype=np.float64),
        np.asarray(durations, dtype=np.float64),
    )
    inside = _begins(truths, durations)
    if not inside.any():
        raise DataError("the training split has no moment within its video, so it gives no prior.")
    bounds = np.arange(steps + 1) / steps
    grid = np.array([(a, b) for i, a in enumerate(bounds) for b in bounds[i + 1 :]])
    overlaps = _overlap(grid, relative(truths[inside], durations[inside]))
    chosen: list[int] = []
    reached = np.zeros(overlaps.shape[1])
    for _ in range(max(DEPTHS)):
        chosen.append(int(np.maximum(overlaps, reached).mean(axis=1).argmax()))
        reached = np.maximum(reached, overlaps[chosen[-1]])
    return grid[chosen], -np.arange(len(chosen), dtype=np.float64)


def prior(
    training: Spans, training_durations: Numbers, truths: Spans, durations: Numbers
) -> dict[str, float]:
    """Returns the metrics of `prior_spans` of the training moments on the test moments."""
    spans, scores = prior_spans(training, training_durations)
    predictions = [
        (spans * duration, scores) for duration in np.asarray(durations, dtype=np.float64)
    ]
    return grounding_metrics(predictions, truths)[0]


def grounding_result(
    protocol: Protocol,
    predictions: Sequence[Prediction],
    truths: Spans,
    durations: Numbers,
    training: Spans,
    training_durations: Numbers,
    *,
    names: Sequence[str] = (),
) -> Result:
    """Returns the figures with those of random spans and `prior_spans`.

    `Result.scores` are the overlaps of the first spans. The suppression threshold of the
    predictions belongs into `protocol.variant` (`NMS 0.5`).
    """
    metrics, first = grounding_metrics(predictions, truths, names=names)
    baselines = {"prior": prior(training, training_durations, truths, durations)}
    return Result(
        protocol,
        metrics,
        chance(truths, durations),
        len(truths),
        0,
        scores=tuple(first.tolist()),
        baselines=baselines,
    )
