"""Results of scored answers, put together from the functions that tasks call."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from simvtp.evaluation.answers import (
    PRIOR,
    TGIF_COUNT_LIMITS,
    accuracy,
    answer_ranks,
    chance_accuracy,
    chance_count,
    chance_top_k,
    count_metrics,
    prior_accuracy,
    prior_count,
    prior_top_k,
    top_k,
)
from simvtp.runs.results import Protocol, Result

CATEGORY_PRIOR = "prior of the category"


def open_ended_result(
    protocol: Protocol,
    scores: Tensor,
    right: Tensor,
    training: Tensor,
    *,
    categories: Sequence[str] = (),
    training_categories: Sequence[str] = (),
) -> Result:
    """Returns the result of open-ended questions.

    Args:
        scores: [Q, A] over the answer vocabulary.
        right: int64 [Q], right answers of the test.
        training: int64 [T], right answers of training.
    """
    ranks, size = answer_ranks(scores, right), scores.shape[1]
    baselines = {PRIOR: prior_accuracy(training, right, size, categories)}
    if training_categories:
        baselines[CATEGORY_PRIOR] = prior_accuracy(
            training, right, size, categories, training_categories
        )
    chances = chance_accuracy(right, size, categories)
    return Result(
        protocol,
        accuracy(ranks, categories),
        chances,
        len(ranks),
        size,
        tuple(ranks.tolist()),
        baselines=baselines,
    )


def count_result(
    protocol: Protocol,
    predicted: Tensor,
    truth: Tensor,
    training: Tensor,
    limits: tuple[int, int] = TGIF_COUNT_LIMITS,
) -> Result:
    """Returns the result of counting questions; `Result.scores` are the numbers as predicted.

    Args:
        predicted: real numbers [Q].
        truth: int [Q], counts of the test.
        training: int [T], counts of training.
    """
    metrics, chances = count_metrics(predicted, truth, limits), chance_count(truth, limits)
    baselines = {PRIOR: prior_count(training, truth, limits)}
    return Result(
        protocol,
        metrics,
        chances,
        len(truth),
        0,
        scores=tuple(predicted.tolist()),
        baselines=baselines,
    )


def action_result(protocol: Protocol, scores: Tensor, right: Tensor, training: Tensor) -> Result:
    """Returns the result of action recognition.

    Args:
        scores: [Q, A] of the classes.
        right: int64 [Q], classes of the test.
        training: int64 [T], classes of training.
    """
    ranks, size = answer_ranks(scores, right), scores.shape[1]
    baselines = {PRIOR: prior_top_k(training, right, size)}
    return Result(
        protocol,
        top_k(ranks),
        chance_top_k(right, size),
        len(ranks),
        size,
        tuple(ranks.tolist()),
        baselines=baselines,
    )
