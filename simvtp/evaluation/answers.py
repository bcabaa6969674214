"""Accuracies of question answering, multiple choice and action recognition, and of guessing.

All three give each candidate (answer of the vocabulary, choice, class) a score and ask for the rank
of the right one. All accuracies are in per cent. Ties are pessimistic, as in retrieval: a wrong
candidate with the score of the right one counts as before it, so a model that scores all alike is
never right. An answer that the vocabulary lacks (number -1) is never right either and stays in the
average.

Two ways of guessing go with each figure: `chance`, a uniformly random candidate, and `prior`, the
candidate that is most often right in training. A model that ignores the video can reach the prior
(a question's words help it further: a text-only model is a baseline to be trained, not to be
computed here).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from simvtp.errors import DataError, TrainingDiverged
from simvtp.runs.metric_names import slug
from simvtp.runs.results import Protocol, Result

PRIOR = "prior"  # name in `Result.baselines`
UNKNOWN = -1  # number of an answer that is not among the candidates
# Published figures on TGIF-QA clamp a predicted count to these; annotated answers are 0 to 10.
TGIF_COUNT_LIMITS = (1, 10)


# ---- candidates ----------------------------------------------------------------------------------


def answer_ranks(scores: Tensor, right: Tensor, candidates: Tensor | None = None) -> Tensor:
    """Returns the rank (from 1) of the right candidate of each query, int64 [Q].

    Args:
        scores: [Q, A], larger is better.
        right: int64 [Q], its number; UNKNOWN gives rank A + 1.
        candidates: bool [Q, A], False where a query has fewer than A candidates; None: all have A.

    Raises:
        DataError: numbers that are no candidates, or another number of queries.
        TrainingDiverged: a score of a candidate is NaN.
    """
    scores, right = scores.detach().cpu(), right.cpu()
    _check_right(right, scores.shape[0], scores.shape[1])
    present = torch.ones_like(scores, dtype=torch.bool) if candidates is None else candidates.cpu()
    known = right != UNKNOWN
    column = right.clamp(min=0)[:, None]
    absent = (known & ~present.gather(1, column)[:, 0]).nonzero()
    if len(absent):
        raise DataError(
            f"the right answer of question number {int(absent[0])} is not among its candidates."
        )
    broken = (scores.isnan() & present).any(dim=1).nonzero()
    if len(broken):
        raise TrainingDiverged(
            f"a score of question number {int(broken[0])} is not a number: the model's weights are "
            "broken, start again from an earlier checkpoint or with a lower learning rate."
        )
    own = scores.gather(1, column)
    before = (scores >= own) & present
    before.scatter_(1, column, False)  # the right one is not before itself, whatever its score
    return torch.where(known, 1 + before.sum(dim=1), scores.shape[1] + 1)


def _check_right(right: Tensor, queries: int, candidates: int) -> None:
    if right.shape != (queries,):
        raise DataError(f"{queries} questions were scored, but {len(right)} have an answer.")
    if queries == 0:
        raise DataError("the test set has no question: choose another split.")
    if int(right.min()) < UNKNOWN or int(right.max()) >= candidates:
        raise DataError(
            f"a question has answer number {int(right.max())}, but there are {candidates} "
            "candidates (numbers from 0)."
        )


def accuracy(ranks: Tensor, categories: Sequence[str] = ()) -> dict[str, float]:
    """Returns `accuracy` and `accuracy-<category>` of each category: per cent with rank 1."""
    return _by_category((ranks == 1).double(), categories)


def top_k(ranks: Tensor, depths: Sequence[int] = (1, 5)) -> dict[str, float]:
    """Returns `top1`, `top5`: per cent of queries with the right class among the first k."""
    return {f"top{k}": float(100 * (ranks <= k).double().mean()) for k in depths}


def _by_category(hits: Tensor, categories: Sequence[str]) -> dict[str, float]:
    """Returns the mean of `hits` [Q] in per cent, of all and of each category (sorted).

    Categories that differ only in characters that a metric's name may not hold are one.
    """
    metrics = {"accuracy": float(100 * hits.mean())}
    if categories and len(categories) != len(hits):
        raise DataError(
            f"{len(hits)} questions were scored, but {len(categories)} have a category."
        )
    names = [slug(category) for category in categories]
    for name in sorted({name for name in names if name}):
        of_it = torch.tensor([other == name for other in names])
        metrics[f"accuracy-{name}"] = float(100 * hits[of_it].mean())
    return metrics


# ---- guessing among candidates -------------------------------------------------------------------


def chance_accuracy(
    right: Tensor, candidates: int | Tensor, categories: Sequence[str] = ()
) -> dict[str, float]:
    """Returns the accuracy of a uniformly random candidate, keys of `accuracy`.

    Args:
        candidates: number of them, for all queries or int [Q].
    """
    return _by_category(_chance_hits(right, candidates, 1), categories)


def chance_top_k(
    right: Tensor, candidates: int | Tensor, depths: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """Returns the metrics of a random order of the candidates, keys of `top_k`."""
    return {f"top{k}": float(100 * _chance_hits(right, candidates, k).mean()) for k in depths}


def _chance_hits(right: Tensor, candidates: int | Tensor, depth: int) -> Tensor:
    numbers = torch.as_tensor(candidates, dtype=torch.float64).expand(len(right))
    return torch.where(right == UNKNOWN, 0.0, (depth / numbers).clamp(max=1))


def prior_accuracy(
    training: Tensor,
    right: Tensor,
    candidates: int,
    categories: Sequence[str] = (),
    training_categories: Sequence[str] = (),
) -> dict[str, float]:
    """Returns the accuracy of the most frequent answer of training, keys of `accuracy`.

    With `training_categories` it is the most frequent one *of the question's category* (for a
    category that training lacks: of all), which is what the kind of a question reveals. Answers of
    equal frequency are ordered at random: the figures are expectations.

    Args:
        training: int64 [T], the right answers of training; UNKNOWN ones do not count.
        right: int64 [Q], those of the test.
        candidates: size of the vocabulary.
    """
    if not training_categories:
        return _by_category(_prior_hits(_counts(training, candidates), right, 1), categories)
    if len(training_categories) != len(training) or len(categories) != len(right):
        raise DataError(
            "the prior of each category needs a category for every question of training and test."
        )
    hits = torch.zeros(len(right), dtype=torch.float64)
    for category in sorted(set(categories)):
        asked = torch.tensor([other == category for other in categories])
        seen = torch.tensor([other == category for other in training_categories])
        counts = _counts(training[seen], candidates)
        hits[asked] = _prior_hits(
            counts if int(counts.sum()) else _counts(training, candidates), right[asked], 1
        )
    return _by_category(hits, categories)


def prior_top_k(
    training: Tensor, right: Tensor, candidates: int, depths: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """Returns the metrics of the classes ordered by frequency in training, keys of `top_k`."""
    counts = _counts(training, candidates)
    return {f"top{k}": float(100 * _prior_hits(counts, right, k).mean()) for k in depths}


def prior_choice(
    frequencies: Tensor,
    right: Tensor,
    candidates: Tensor | None = None,
    categories: Sequence[str] = (),
) -> dict[str, float]:
    """Returns the accuracy of the choice whose text was most often right in training.

    Args:
        frequencies: int [Q, A], how often each candidate was the right answer of a training
            question.
        right: int64 [Q].
        candidates: see `answer_ranks`.
    """
    _check_right(right, *frequencies.shape)
    present = torch.ones_like(frequencies, dtype=torch.bool) if candidates is None else candidates
    counts = torch.where(present, frequencies, -1)
    return _by_category(_prior_hits(counts, right, 1), categories)


def _counts(answers: Tensor, candidates: int) -> Tensor:
    return answers[answers != UNKNOWN].bincount(minlength=candidates)


def _prior_hits(counts: Tensor, right: Tensor, depth: int) -> Tensor:
    """Returns P(the right one is among the first `depth` by frequency), ties in random order.

    Args:
        counts: [A], or [Q, A].
    """
    known = right != UNKNOWN
    column = right.clamp(min=0)
    if counts.dim() == 1:
        # Sorted once for all queries: a vocabulary of thousands and as many questions would make a
        # large table.
        ordered = counts.sort().values
        own = counts[column]
        upto = torch.searchsorted(ordered, own, right=True)
        before, alike = len(counts) - upto, upto - torch.searchsorted(ordered, own)
    else:
        own = counts.gather(1, column[:, None])
        before, alike = (counts > own).sum(dim=1), (counts == own).sum(dim=1)
    probability = ((depth - before).double() / alike).clamp(0, 1)
    return torch.where(known, probability, 0.0)


# ---- counts --------------------------------------------------------------------------------------


def round_counts(predicted: Tensor, limits: tuple[int, int]) -> Tensor:
    """Returns predicted counts as whole numbers within the limits, halves upwards."""
    predicted = predicted.detach().cpu().double()
    broken = (~predicted.isfinite()).nonzero()
    if len(broken):
        raise TrainingDiverged(
            f"the predicted count of question number {int(broken[0])} is not a number."
        )
    return (predicted + 0.5).floor().clamp(*limits).long()


def count_metrics(
    predicted: Tensor, truth: Tensor, limits: tuple[int, int] = TGIF_COUNT_LIMITS
) -> dict[str, float]:
    """Returns `accuracy` (per cent) and `MSE` of the rounded counts, and `MSE-raw` of the raw ones.

    TGIF-QA is reported after rounding.

    Args:
        predicted: [Q] real numbers.
        truth: int [Q].
        limits: smallest and largest count that a prediction is clamped to after rounding.
    """
    if predicted.shape != truth.shape or not len(truth):
        raise DataError(
            f"{len(truth)} counting questions have an answer, but {len(predicted)} were predicted."
        )
    rounded, truth = round_counts(predicted, limits), truth.cpu()
    return {
        "accuracy": float(100 * (rounded == truth).double().mean()),
        "MSE": float((rounded - truth).double().square().mean()),
        "MSE-raw": float((predicted.detach().cpu().double() - truth).square().mean()),
    }


def chance_count(truth: Tensor, limits: tuple[int, int] = TGIF_COUNT_LIMITS) -> dict[str, float]:
    """Returns the expected metrics of a uniformly random whole number within the limits.

    The keys are those of `count_metrics`.
    """
    numbers = torch.arange(limits[0], limits[1] + 1)
    apart = (numbers[None] - truth.cpu()[:, None]).double()
    error = float(apart.square().mean())
    return {"accuracy": float(100 * (apart == 0).double().mean()), "MSE": error, "MSE-raw": error}


def prior_count(
    training: Tensor, truth: Tensor, limits: tuple[int, int] = TGIF_COUNT_LIMITS
) -> dict[str, float]:
    """Returns the metrics of one number for all.

    For `accuracy` it is the most frequent count of training (the smallest of several), for the
    errors the mean.
    """
    frequent = training.mode().values if len(training) else None
    if frequent is None:
        raise DataError("the training split has no counting question, so it gives no prior.")
    hits = count_metrics(frequent.double().expand(len(truth)), truth, limits)
    errors = count_metrics(training.double().mean().expand(len(truth)), truth, limits)
    return {"accuracy": hits["accuracy"], "MSE": errors["MSE"], "MSE-raw": errors["MSE-raw"]}


# ---- results -------------------------------------------------------------------------------------


def choice_result(
    protocol: Protocol,
    scores: Tensor,
    right: Tensor,
    *,
    candidates: Tensor | None = None,
    frequencies: Tensor | None = None,
    categories: Sequence[str] = (),
) -> Result:
    """Returns the result of multiple choice.

    Args:
        scores: [Q, A] of the candidates.
        right: int64 [Q].
        candidates: see `prior_choice`.
        frequencies: see `prior_choice`; None: no prior.
    """
    ranks, size = answer_ranks(scores, right, candidates), scores.shape[1]
    numbers = size if candidates is None else candidates.sum(dim=1)
    baselines = (
        {}
        if frequencies is None
        else {PRIOR: prior_choice(frequencies, right, candidates, categories)}
    )
    chances = chance_accuracy(right, numbers, categories)
    return Result(
        protocol,
        accuracy(ranks, categories),
        chances,
        len(ranks),
        size,
        tuple(ranks.tolist()),
        baselines=baselines,
    )
