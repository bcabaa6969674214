"""Temporal grounding metrics: overlap of spans, non-maximum suppression, recall at an overlap, and
what guessing would give.

A span is a row [start, end] in seconds, end after start. A query is a sentence with one true span;
a prediction is a list of spans with scores, after suppression. All recalls and overlaps are in per
cent:

* R{n}-IoU{m}: share of queries with a span of overlap m or more among the first n. Overlap =
intersection over union.
* mIoU: mean overlap of the first span.

Ties are pessimistic: among spans of equal score the one that overlaps less comes first. So a model
that scores all spans alike gets what its worst proposal gets, in whatever order the proposals were
made.
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
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(
    64
)  # of the mean over the threshold, for the expected overlap


def check_spans(spans: Spans, what: str) -> Spans:
    """The spans as float64 [N, 2].

    Raises:
        TrainingDiverged: a bound is not a finite number.
        DataError: another shape, or a span that does not end after its start (a span of length 0
            overlaps with nothing).
    """
    array = np.asarray(spans, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise DataError(
            f"{what}: spans are rows of a start and an end (in seconds), not an array of shape {array.shape}."
        )
    if not np.isfinite(array).all():
        number = int((~np.isfinite(array)).any(axis=1).argmax())
        raise TrainingDiverged(
            f"{what}: span number {number} is {array[number].tolist()}, which is no pair of numbers."
        )
    empty = np.flatnonzero(array[:, 1] <= array[:, 0])
    if len(empty):
        start, end = array[empty[0]]
        raise DataError(
            f"{what}: span number {empty[0]} starts at {start:g} s and ends at {end:g} s: a span must end after its start."
        )
    return array


def overlap(first: Spans, second: Spans) -> Numbers:
    """Intersection over union of each span of `first` [N, 2] with each of `second` [M, 2]: [N, M],
    0 to 1.
    """
    first, second = check_spans(first, "overlap"), check_spans(second, "overlap")
    return _overlap(first, second)


def _overlap(first: Spans, second: Spans) -> Numbers:
    shared = np.minimum(first[:, None, 1], second[None, :, 1]) - np.maximum(
        first[:, None, 0], second[None, :, 0]
    )
    shared = np.maximum(shared, 0)
    lengths = (first[:, 1] - first[:, 0])[:, None] + (second[:, 1] - second[:, 0])[None]
    return shared / (lengths - shared)


def suppress(
    spans: Spans, scores: Scores, threshold: float, keep: int | None = None
) -> NDArray[np.int64]:
    """Non-maximum suppression: indices of the spans that stay, best first.

    The best span stays; those that overlap with it by more than `threshold` go; and so on with what
    is left. Among equal scores the earlier start comes first, then the earlier end: the outcome
    does not depend on the order of the spans.

    Args:
        spans: [N, 2] seconds; N = 0 gives none.
        scores: [N], larger is better.
        threshold: overlap, 0 to 1; 1 lets all stay.
        keep: stop after so many.
    """
    spans, scores = (
        _check_prediction((spans, scores), "suppression")
        if len(spans)
        else (np.empty((0, 2)), np.empty(0))
    )
    if not 0 <= threshold <= 1:
        raise DataError(
            f"suppression: the threshold is an overlap between 0 and 1, not {threshold}."
        )
    left = np.lexsort((spans[:, 1], spans[:, 0], -scores))
    kept: list[int] = []
    while len(left) and (keep is None or len(kept) < keep):
        kept.append(int(left[0]))
        left = left[1:][_overlap(spans[left[:1]], spans[left[1:]])[0] <= threshold]
    return np.array(kept, dtype=np.int64)


def cover(overlaps: Numbers, probabilities: Numbers, keep: int) -> tuple[NDArray[np.int64], Scores]:
    """Spans of which one should overlap well with the true one (ours, in place of suppression):
    (indices, best first; what each adds).

    Each time the span that most raises the expected overlap of the best one so far, as
    `prior_spans` does for the training moments. The first is the one with the largest expected
    overlap.

    Args:
        overlaps: [N, N], of each candidate with each, 0 to 1.
        probabilities: [N], that a candidate is the true span; they add up to 1.
        keep: how many spans, at most N.
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
    """(metrics, overlap of the first span of each query [Q], 0 to 1).

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
    return _recalls(reached), reached[:, 0]


def _recalls(reached: Numbers) -> dict[str, float]:
    """Metrics from the best overlap among the first n of DEPTHS, [Q, len(DEPTHS)]."""
    metrics = {
        f"R{depth}-IoU{level}": float(100 * (reached[:, column] >= level).mean())
        for column, depth in enumerate(DEPTHS)
        for level in OVERLAPS
    }
    return metrics | {"mIoU": float(100 * reached[:, 0].mean())}


# ---- guessing ------------------------------------------------------------------------------------


def chance(truths: Spans, durations: Numbers) -> dict[str, float]:
    """What spans with two uniformly random bounds within the video give, as exact expectations
    (mIoU: to about 0.01 per cent).

    R5 is that of five independent guesses. durations: [Q] seconds. A truth that begins after the
    end of its video is never hit.
    """
    truths, durations = check_spans(truths, "truth"), _check_durations(durations, len(truths))
    there = _begins(truths, durations)
    if not there.any():
        return dict.fromkeys(
            (*(f"R{depth}-IoU{level}" for depth in DEPTHS for level in OVERLAPS), "mIoU"), 0.0
        )
    inside = _chance_inside(truths[there], durations[there])
    return {name: value * float(there.mean()) for name, value in inside.items()}


def _begins(truths: Spans, durations: Numbers) -> NDArray[np.bool_]:
    """bool [Q]: whether a span begins before its video ends (in real annotation files not all do)."""
    return np.asarray(truths, dtype=np.float64)[:, 0] < np.asarray(durations, dtype=np.float64)


def _chance_inside(truths: Spans, durations: Numbers) -> dict[str, float]:
    """`chance` of spans that begin within their video."""
    shares = relative(truths, durations)
    metrics: dict[str, float] = {}
    for level in OVERLAPS:
        hit = _hit(shares, level)
        metrics |= {
            f"R{depth}-IoU{level}": float(100 * (1 - (1 - hit) ** depth).mean()) for depth in DEPTHS
        }
    # The mean of a number between 0 and 1 is the integral of the probability that it is m or more.
    # With m = x² the integrand is smooth at 0.
    nodes = (_NODES + 1) / 2
    mean = sum(
        weight * node * _hit(shares, node**2) for node, weight in zip(nodes, _WEIGHTS, strict=True)
    )
    ordered = {
        f"R{depth}-IoU{level}": metrics[f"R{depth}-IoU{level}"]
        for depth in DEPTHS
        for level in OVERLAPS
    }
    return ordered | {"mIoU": float(100 * np.mean(mean))}


def relative(spans: Spans, durations: Numbers) -> Spans:
    """Spans as shares of their video, cut to [0, 1] (annotations go a little over the end now and
    then).
    """
    spans, durations = check_spans(spans, "truth"), _check_durations(durations, len(spans))
    late = np.flatnonzero(spans[:, 0] >= durations)
    if len(late):
        start, duration = spans[late[0], 0], durations[late[0]]
        raise DataError(
            f"span number {late[0]} starts at {start:g} s, but its video lasts {duration:g} s: the annotation or the video is wrong."
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
    """P(overlap of a random span [a, b] with each truth [s, e] is `level` or more), bounds of both
    in [0, 1].

    For a given a the favourable b form one interval, whose length is piecewise linear in a, so that
    the trapezium rule between its kinks is exact. With w = e - s:
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
    """Integral of a function that is linear between neighbouring bounds."""
    values = [np.maximum(length(bound), 0) for bound in bounds]
    area = np.zeros_like(bounds[0])
    for number in range(len(bounds) - 1):
        area += (bounds[number + 1] - bounds[number]) * (values[number] + values[number + 1]) / 2
    return area


def prior_spans(truths: Spans, durations: Numbers, *, steps: int = 20) -> Prediction:
    """What is predicted for every video by one who knows the training moments and sees nothing:
    (shares of the video [N, 2], scores).

    Of all spans whose bounds are multiples of 1/steps of the video, first the one with the largest
    mean overlap with the training moments, then each time the one that most raises the mean of the
    best overlap so far (ours). Multiply the shares with a video's duration. Training moments that
    begin after the end of their video (real annotation files have some) say nothing and are left
    out.
    """
    truths, durations = (
        np.asarray(truths, dtype=np.float64),
        np.asarray(durations, dtype=np.float64),
    )
    inside = _begins(truths, durations)
    if not inside.any():
        raise DataError(
            "the training split has no moment within its video: there is no prior to be had from it."
        )
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
    """Metrics of `prior_spans` of the training moments on the test moments."""
    shares, scores = prior_spans(training, training_durations)
    predictions = [
        (shares * duration, scores) for duration in np.asarray(durations, dtype=np.float64)
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
    """The figures with what random spans and `prior_spans` give; `Result.scores` are the overlaps
    of the first spans.

    The suppression threshold of the predictions belongs into `protocol.variant` (`NMS 0.5`).
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
