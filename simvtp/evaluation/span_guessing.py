"""Temporal grounding by guessing: random spans, and spans that fit the training moments."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from simvtp.errors import DataError
from simvtp.evaluation.temporal_spans import (
    AP_DEPTH,
    AP_OVERLAPS,
    DEPTHS,
    OVERLAPS,
    Numbers,
    Prediction,
    Spans,
    check_spans,
    grounding_metrics,
    mean_precisions,
    pairwise_overlap,
    recalls,
)
from simvtp.runs.results import Protocol, Result

# Gauss-Legendre nodes of the mean over the threshold, for the expected overlap.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def chance(truths: Spans, durations: Numbers) -> dict[str, float]:
    """Returns the expected metrics of spans with two uniformly random bounds within the video.

    They are exact (mIoU: to about 0.01 per cent). R5 is that of five independent guesses, mAP of
    ten. A truth that begins after the end of its video is never hit.

    Args:
        durations: [Q] seconds.
    """
    truths, durations = check_spans(truths, "truth"), _check_durations(durations, len(truths))
    inside = _begins(truths, durations)
    if not inside.any():
        nothing = mean_precisions(np.zeros((1, len(AP_OVERLAPS))))
        return recalls(np.zeros((1, len(DEPTHS)))) | nothing
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
    """Returns the expected average precision of AP_DEPTH guesses of hit rate `hit`."""
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
    overlaps = pairwise_overlap(grid, relative(truths[inside], durations[inside]))
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
