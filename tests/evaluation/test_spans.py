"""Grounding metrics against brute force.

Integer spans are sets of seconds, suppression and recall are done by the book.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.errors import DataError, TrainingDiverged
from simvtp.evaluation.span_guessing import chance, grounding_result, prior, prior_spans, relative
from simvtp.evaluation.temporal_spans import DEPTHS, OVERLAPS, grounding_metrics, overlap, suppress
from simvtp.runs.metric_names import MetricName
from simvtp.runs.results import Protocol, Result
from simvtp.tracking.address import mlflow_name

PROPERTY = settings(max_examples=150, deadline=None, derandomize=True)
SECONDS = 8
PROTOCOL = Protocol(
    "grounding", "charades", "test", "finetuned", "", 4, 1, 1, "pessimistic", 0, "abc", "NMS 0.5"
)


def spans_of(size: int = SECONDS) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(0, size - 1), st.integers(1, size)).map(
        lambda x: (x[0], x[0] + x[1])
    )


SPAN = spans_of()
PREDICTION = st.lists(
    st.tuples(SPAN, st.sampled_from([-1.0, 0.0, 0.5, 2.0])), min_size=1, max_size=9
)


def by_seconds(a: tuple[int, int], b: tuple[int, int]) -> float:
    first, second = set(range(*a)), set(range(*b))
    return len(first & second) / len(first | second)


def arrays(prediction: list[tuple[tuple[int, int], float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([span for span, _ in prediction], dtype=float).reshape(-1, 2), np.array(
        [score for _, score in prediction]
    )


@PROPERTY
@given(st.lists(SPAN, min_size=1, max_size=5), st.lists(SPAN, max_size=5))
def test_overlap_equals_counting_seconds(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    found = overlap(np.array(first), np.array(second, dtype=float).reshape(-1, 2))
    assert found.tolist() == [[by_seconds(a, b) for b in second] for a in first]


@PROPERTY
@given(PREDICTION, st.sampled_from([0.0, 0.25, 0.5, 2 / 3, 1.0]), st.none() | st.integers(1, 3))
def test_suppression_by_the_book(
    prediction: list[tuple[tuple[int, int], float]], threshold: float, keep: int | None
) -> None:
    """Go through the spans from the best.

    One stays if none that stays overlaps with it by more than the threshold.
    """
    kept: list[int] = []
    for i in sorted(range(len(prediction)), key=lambda i: (-prediction[i][1], prediction[i][0])):
        if all(by_seconds(prediction[i][0], prediction[k][0]) <= threshold for k in kept):
            kept.append(i)
    assert suppress(*arrays(prediction), threshold, keep).tolist() == kept[:keep]


@PROPERTY
@given(PREDICTION, st.sampled_from([0.0, 0.4, 1.0]), st.randoms(use_true_random=False))
def test_suppression_does_not_depend_on_the_order(
    prediction: list, threshold: float, random
) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(prediction)
    random.shuffle(shuffled)
    (a, scores_a), (b, scores_b) = arrays(prediction), arrays(shuffled)
    first, second = suppress(a, scores_a, threshold), suppress(b, scores_b, threshold)
    assert np.array_equal(a[first], b[second]) and np.array_equal(scores_a[first], scores_b[second])


@PROPERTY
@given(st.lists(st.tuples(PREDICTION, SPAN), min_size=1, max_size=4))
def test_metrics_by_the_book(queries: list) -> None:  # type: ignore[type-arg]
    """Sort by score, the worse span first among equals; look at the first n."""
    ranked = [
        [
            by_seconds(span, truth)
            for span, _ in sorted(
                prediction, key=lambda x, truth=truth: (-x[1], by_seconds(x[0], truth))
            )
        ]
        for prediction, truth in queries
    ]
    expected = {}
    for n in DEPTHS:
        best = [max(row[:n]) for row in ranked]
        for m in OVERLAPS:
            expected[f"R{n}-IoU{m}"] = 100 * sum(value >= m for value in best) / len(ranked)
    found, first = grounding_metrics(
        [arrays(prediction) for prediction, _ in queries], np.array([truth for _, truth in queries])
    )
    assert {name: value for name, value in found.items() if "mAP" not in name} == pytest.approx(
        expected | {"mIoU": 100 * sum(row[0] for row in ranked) / len(ranked)}
    )
    assert first.tolist() == [row[0] for row in ranked]


def test_a_span_that_overlaps_by_just_the_level_counts() -> None:
    found, _ = grounding_metrics(
        [(np.array([[0.0, 5.0]]), np.array([1.0]))], np.array([[0.0, 10.0]])
    )
    assert (found["R1-IoU0.5"], found["R1-IoU0.7"], found["mIoU"]) == (100.0, 0.0, 50.0)


def exact(a: tuple[Fraction, Fraction], b: tuple[Fraction, Fraction]) -> Fraction:
    shared = max(Fraction(0), min(a[1], b[1]) - max(a[0], b[0]))
    return shared / ((a[1] - a[0]) + (b[1] - b[0]) - shared)


@pytest.mark.parametrize("count", [2, 3, 7, 10, 12, 20, 49, 64])
def test_suppression_on_a_grid_agrees_with_fractions(count: int) -> None:
    """Runs of equal segments, as fractions of a video of 64-bit floats.

    Every overlap of exactly 1/2 is kept, whatever its rounding.
    """
    rng = np.random.default_rng(count)
    runs = [(i, j) for i in range(count) for j in range(i + 1, count + 1)]
    runs = [runs[k] for k in rng.permutation(len(runs))[:60]]
    spans = np.array(runs, dtype=float) / count
    scores = -np.arange(len(runs), dtype=float)
    kept: list[int] = []
    for i, run in enumerate(runs):
        mine = (Fraction(run[0], count), Fraction(run[1], count))
        others = [(Fraction(runs[k][0], count), Fraction(runs[k][1], count)) for k in kept]
        if all(exact(mine, other) <= Fraction(1, 2) for other in others):
            kept.append(i)
    assert suppress(spans, scores, 0.5).tolist() == kept
    for length in (7.3, 31.1, 100.7):
        assert suppress(spans * length, scores, 0.5).tolist() == kept


@PROPERTY
@given(
    st.tuples(st.integers(0, 3000), st.integers(1, 3000)),
    st.integers(1, 64),
    st.sampled_from(OVERLAPS),
    st.booleans(),
)
def test_recall_at_an_overlap_agrees_with_fractions(
    bounds: tuple[int, int], factor: int, level: float, longer: bool
) -> None:
    """Bounds in hundredths of a second; the second span overlaps by exactly the level."""
    start, length = bounds[0], 10 * bounds[1]
    inner = length * round(10 * level) // 10
    other = Fraction(length * factor, 100), Fraction(length * factor + inner, 100)
    whole = Fraction(length * factor, 100), Fraction(length * factor + length, 100)
    shift = Fraction(start, 100)
    pair = [(a + shift, b + shift) for a, b in ((other, whole) if longer else (whole, other))]
    assert exact(*pair) == Fraction(round(10 * level), 10)
    predicted, truth = (np.array([[float(a), float(b)]]) for a, b in pair)
    found, _ = grounding_metrics([(predicted, np.array([1.0]))], truth)
    assert found[f"R1-IoU{level}"] == 100.0
    less = np.array([[predicted[0, 0], predicted[0, 1] - (0.01 if longer else -0.01)]])
    assert grounding_metrics([(less, np.array([1.0]))], truth)[0][f"R1-IoU{level}"] == 0.0


def qvhighlights_precision(overlaps: list[float], threshold: float) -> float:
    """Average precision of one query by the steps of QVHighlights' evaluation.

    Predictions are matched greedily in their order; then the interpolated area under precision and
    recall is taken.
    """
    overlaps, found = overlaps[:10], False
    tp = np.zeros(len(overlaps))
    for number, value in enumerate(overlaps):
        if value >= threshold - 1e-12 and not found:
            tp[number], found = 1, True
    cumulated = np.cumsum(tp)
    recall, precision = cumulated / 1, cumulated / np.arange(1, len(overlaps) + 1)
    precision, recall = np.hstack([[0], precision, [0]]), np.hstack([[0], recall, [1]])
    for number in range(len(precision) - 1)[::-1]:
        precision[number] = max(precision[number], precision[number + 1])
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(np.sum((recall[steps] - recall[steps - 1]) * precision[steps]))


@PROPERTY
@given(st.lists(st.tuples(PREDICTION, SPAN), min_size=1, max_size=4))
def test_mean_average_precision_is_that_of_qvhighlights(queries: list) -> None:  # type: ignore[type-arg]
    ranked = [
        [
            by_seconds(span, truth)
            for span, _ in sorted(p, key=lambda x, truth=truth: (-x[1], by_seconds(x[0], truth)))
        ]
        for p, truth in queries
    ]
    levels = [0.5 + 0.05 * i for i in range(10)]
    rows = [[qvhighlights_precision(row, level) for level in levels] for row in ranked]
    table = np.array(rows)
    found, _ = grounding_metrics(
        [arrays(prediction) for prediction, _ in queries], np.array([truth for _, truth in queries])
    )
    assert found["mAP"] == pytest.approx(100 * table.mean())
    assert found["mAP-IoU0.5"] == pytest.approx(100 * table[:, 0].mean())
    assert found["mAP-IoU0.75"] == pytest.approx(100 * table[:, 5].mean())


def test_metric_names_are_legal_in_the_tracker() -> None:
    found, _ = grounding_metrics(
        [(np.array([[0.0, 5.0]]), np.array([1.0]))], np.array([[0.0, 10.0]])
    )
    assert all(
        MetricName.parse(mlflow_name(f"test/finetuned/grounding/{name}")).metric == name
        for name in found
    )
    assert list(found) == list(chance(np.array([[0.0, 1.0]]), np.array([2.0])))


def test_bad_spans_are_refused() -> None:
    good, one = np.array([[0.0, 2.0]]), np.array([1.0])
    with pytest.raises(
        DataError,
        match=(
            r"truth: span number 1 starts at 3 s and ends at 3 s: a span must end after its start"
        ),
    ):
        grounding_metrics([(good, one)] * 2, np.array([[0.0, 1.0], [3.0, 3.0]]))
    with pytest.raises(
        DataError, match="sentence 'q7': span number 0 starts at 4 s and ends at 1 s"
    ):
        grounding_metrics([(np.array([[4.0, 1.0]]), one)], good, names=["q7"])
    with pytest.raises(DataError, match="sentence number 1 got no predicted span"):
        grounding_metrics(
            [(good, one), (np.empty((0, 2)), np.empty(0))], np.repeat(good, 2, axis=0)
        )
    with pytest.raises(DataError, match="1 sentences have a true span, but 2"):
        grounding_metrics([(good, one)] * 2, good)
    with pytest.raises(DataError, match="no sentence"):
        grounding_metrics([], np.empty((0, 2)))
    with pytest.raises(DataError, match=r"1 spans need as many scores"):
        grounding_metrics([(good, np.ones(2))], good)
    with pytest.raises(TrainingDiverged, match="score of span number 0"):
        suppress(good, np.array([np.nan]), 0.5)
    with pytest.raises(TrainingDiverged, match="no pair of numbers"):
        suppress(np.array([[0.0, np.inf]]), one, 0.5)
    with pytest.raises(DataError, match="rows of a start and an end"):
        overlap(np.zeros(3), good)
    with pytest.raises(DataError, match="between 0 and 1, not 50"):
        suppress(good, one, 50)
    assert suppress(np.empty((0, 2)), np.empty(0), 0.5).tolist() == []


# ---- guessing ------------------------------------------------------------------------------------

TRUTHS, DURATIONS = (
    np.array([[0.0, 10.0], [3.0, 4.0], [2.0, 12.5], [19.0, 20.0], [0.5, 20.4]]),
    np.array([10.0, 10.0, 50.0, 20.0, 20.0]),
)


@pytest.mark.parametrize("number", range(len(TRUTHS)))
def test_chance_is_what_random_spans_get(number: int) -> None:
    """Each truth by itself.

    A whole video, a middle part, an early one, a late one, one that ends a little after its video.
    """
    truth, duration = TRUTHS[number : number + 1], DURATIONS[number : number + 1]
    bounds = np.sort(np.random.default_rng(number).uniform(0, duration, (200_000, 2)), axis=1)
    values = overlap(bounds, np.minimum(truth, duration))[:, 0]
    found = chance(truth, duration)
    for level in OVERLAPS:
        share = (values >= level).mean()
        assert found[f"R1-IoU{level}"] == pytest.approx(100 * share, abs=0.4)
        assert found[f"R5-IoU{level}"] == pytest.approx(100 * (1 - (1 - share) ** 5), abs=0.8)
    assert found["mIoU"] == pytest.approx(100 * values.mean(), abs=0.2)


def test_chance_of_a_whole_video_is_known() -> None:
    """Two uniform points are at least m apart with probability (1 - m)².

    Their mean distance is 1/3.
    """
    found = chance(np.array([[0.0, 7.0]]), np.array([7.0]))
    assert found["R1-IoU0.7"] == pytest.approx(9.0) and found["R5-IoU0.7"] == pytest.approx(
        100 * (1 - 0.91**5)
    )
    assert found["mIoU"] == pytest.approx(100 / 3, abs=1e-3)
    both = chance(TRUTHS, DURATIONS)
    assert both["R5-IoU0.5"] == pytest.approx(
        np.mean(
            [chance(t[None], d[None])["R5-IoU0.5"] for t, d in zip(TRUTHS, DURATIONS, strict=True)]
        )
    )


def test_the_prior_knows_where_training_moments_lie() -> None:
    training = np.array([[0.0, 5.0]] * 8 + [[30.0, 40.0]] * 3)
    durations = np.array(
        [10.0] * 8 + [40.0] * 3
    )  # the first half of a video, now and then its last quarter
    spans, scores = prior_spans(training, durations)
    assert (
        spans[:2].tolist() == [[0.0, 0.5], [0.75, 1.0]]
        and len(spans) == 5
        and (np.diff(scores) < 0).all()
    )
    found = prior(
        training, durations, np.array([[0.0, 50.0], [75.0, 100.0]]), np.array([100.0, 100.0])
    )
    assert (found["R1-IoU0.7"], found["R5-IoU0.7"]) == (50.0, 100.0)


def test_moments_outside_of_their_video() -> None:
    """They are misses, of a model, of the prior and of guesses alike, and stay in the average."""
    truths, durations = np.array([[0.0, 5.0], [9.0, 10.0]]), np.array([8.0, 8.0])
    alone, both = chance(truths[:1], durations[:1]), chance(truths, durations)
    assert both == {name: pytest.approx(value / 2) for name, value in alone.items()}
    assert (
        set(chance(truths[1:], durations[1:]).values()) == {0.0}
        and chance(truths[1:], durations[1:]).keys() == alone.keys()
    )
    result = grounding_result(
        PROTOCOL,
        [(np.array([[0.0, 5.0]]), np.array([1.0]))] * 2,
        truths,
        durations,
        truths,
        durations,
    )
    assert (
        result.metrics["R1-IoU0.7"] == result.metrics["mIoU"] == 50.0
        and result.queries == 2
        and result.scores == (1.0, 0.0)
    )
    assert result.baselines["prior"]["R5-IoU0.3"] <= 50.0
    with pytest.raises(DataError, match="span number 0 starts at 9 s, but its video lasts 8 s"):
        relative(truths[1:], durations[1:])
    with pytest.raises(DataError, match="durations above 0"):
        chance(np.array([[0.0, 5.0]]), np.array([0.0]))
    spans, _ = prior_spans(
        np.array([[0.0, 4.0], [9.0, 10.0], [38.0, 13.0]]), np.array([8.0, 8.0, 12.0])
    )
    assert spans[0].tolist() == [0.0, 0.5]
    with pytest.raises(DataError, match="no prior"):
        prior_spans(np.array([[9.0, 10.0]]), np.array([8.0]))


def test_a_result_holds_figures_chance_and_prior() -> None:
    truths, durations = np.array([[0.0, 5.0], [5.0, 10.0]]), np.array([10.0, 10.0])
    predictions = [(truths, np.array([2.0, 1.0]))] * 2
    result = grounding_result(PROTOCOL, predictions, truths, durations, truths[:1], durations[:1])
    assert (
        Result.from_dict(result.to_dict()) == result
        and result.key == "test/finetuned/grounding/NMS-0.5"
    )
    assert (result.metrics["R1-IoU0.5"], result.metrics["R5-IoU0.5"], result.scores) == (
        50.0,
        100.0,
        (1.0, 0.0),
    )
    assert (
        list(result.metrics) == list(result.chance) == list(result.baselines["prior"])
        and result.baselines["prior"]["mIoU"] == 50.0
    )


def test_chance_of_the_average_precision_is_what_ten_random_spans_get() -> None:
    rng = np.random.default_rng(0)
    truth, length, count = np.array([[2.0, 7.0]]), np.array([10.0]), 20_000
    bounds = np.sort(rng.uniform(0, 10, (count, 10, 2)), axis=2)
    scores = -np.arange(10.0)
    found, _ = grounding_metrics([(row, scores) for row in bounds], truth.repeat(count, axis=0))
    expected = chance(truth, length)
    for name in ("mAP", "mAP-IoU0.5", "mAP-IoU0.75"):
        assert found[name] == pytest.approx(expected[name], abs=0.7), name
