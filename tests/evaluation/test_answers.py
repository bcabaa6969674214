"""Accuracies and what guessing gives, against brute force and simulation."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.errors import DataError, TrainingDiverged
from simvtp.evaluation.answers import (
    UNKNOWN,
    accuracy,
    answer_ranks,
    chance_accuracy,
    chance_count,
    chance_top_k,
    choice_result,
    count_metrics,
    prior_accuracy,
    prior_choice,
    prior_count,
    prior_top_k,
    round_counts,
    top_k,
)
from simvtp.runs.results import Protocol, Result
from simvtp.tracking.address import mlflow_name
from tests.reference.answer_results import action_result, count_result, open_ended_result

PROPERTY = settings(max_examples=150, deadline=None, derandomize=True)


@st.composite
def scored(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores with many ties, some candidates missing, some right answers unknown."""
    queries, size = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    scores = draw(
        st.lists(
            st.sampled_from([-1.0, 0.0, 0.5, -torch.inf]),
            min_size=queries * size,
            max_size=queries * size,
        )
    )
    right = draw(st.lists(st.integers(-1, size - 1), min_size=queries, max_size=queries))
    there = torch.tensor(
        draw(st.lists(st.booleans(), min_size=queries * size, max_size=queries * size))
    ).view(queries, size)
    for row, number in enumerate(right):
        if number >= 0:
            there[row, number] = True
    return torch.tensor(scores).view(queries, size), torch.tensor(right), there


@PROPERTY
@given(scored())
def test_ranks_by_the_book(case: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    """Sort what is there, wrong ones first among equals, and look for the right one."""
    scores, right, there = case
    expected = []
    for row, number in enumerate(right.tolist()):
        order = sorted(
            (i for i in range(scores.shape[1]) if there[row, i]),
            key=lambda i, row=row, n=number: (-scores[row, i].item(), i == n),
        )
        expected.append(order.index(number) + 1 if number >= 0 else scores.shape[1] + 1)
    assert answer_ranks(scores, right, there).tolist() == expected


def test_a_model_that_scores_all_alike_is_never_right() -> None:
    ranks = answer_ranks(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]))
    assert accuracy(ranks) == {"accuracy": 0.0} and top_k(ranks, (1, 3)) == {
        "top1": 0.0,
        "top3": 100.0,
    }


def test_accuracy_of_each_category() -> None:
    ranks = torch.tensor([1, 1, 2, 1, 9])
    found = accuracy(ranks, ["what", "who", "what", "how many?", "how many"])
    assert found == {
        "accuracy": 60.0,
        "accuracy-how-many": 50.0,
        "accuracy-what": 50.0,
        "accuracy-who": 100.0,
    }
    assert all(
        mlflow_name(f"test/finetuned/qa/{name}") == f"test/finetuned/qa/{name}" for name in found
    )
    assert accuracy(ranks, [""] * 5) == {"accuracy": 60.0}
    with pytest.raises(DataError, match="5 questions were scored, but 2 have a category"):
        accuracy(ranks, ["what", "who"])


def test_bad_answers_are_refused() -> None:
    scores = torch.zeros(2, 3)
    with pytest.raises(DataError, match="answer number 3, but there are 3 candidates"):
        answer_ranks(scores, torch.tensor([0, 3]))
    with pytest.raises(DataError, match="2 questions were scored, but 1"):
        answer_ranks(scores, torch.tensor([0]))
    with pytest.raises(DataError, match="no question"):
        answer_ranks(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    there = torch.tensor([[True, True, True], [True, False, True]])
    with pytest.raises(DataError, match="right answer of question number 1 is not among"):
        answer_ranks(scores, torch.tensor([0, 1]), there)
    scores[1, 1] = torch.nan
    assert answer_ranks(scores, torch.tensor([0, 0]), there).tolist() == [3, 2], (
        "a place without a candidate may hold anything"
    )
    with pytest.raises(TrainingDiverged, match="question number 1"):
        answer_ranks(scores, torch.tensor([0, 0]))


# ---- guessing ------------------------------------------------------------------------------------


def test_chance_is_uniform_over_the_candidates_of_a_question() -> None:
    right = torch.tensor([0, 3, UNKNOWN, 1])
    assert chance_accuracy(right, 4, ["a", "b", "b", "a"]) == {
        "accuracy": 18.75,
        "accuracy-a": 25.0,
        "accuracy-b": 12.5,
    }
    assert chance_accuracy(right, torch.tensor([2, 4, 5, 4])) == {"accuracy": 25.0}
    assert chance_top_k(torch.tensor([0, 1]), 3) == {"top1": pytest.approx(100 / 3), "top5": 100.0}


@PROPERTY
@given(
    st.lists(st.integers(-1, 3), max_size=7),
    st.lists(st.integers(-1, 3), min_size=1, max_size=4),
    st.integers(1, 5),
)
def test_the_prior_is_the_mean_over_all_orders_of_equal_frequencies(
    training: list[int], right: list[int], depth: int
) -> None:
    counts = Counter(training)
    hits = total = 0
    for order in itertools.permutations(range(4)):
        ranked = sorted(
            order, key=lambda i: -counts[i]
        )  # stable: equals stay in the order of the permutation
        hits += sum(number in ranked[:depth] for number in right)
        total += len(right)
    found = prior_top_k(torch.tensor(training, dtype=torch.int64), torch.tensor(right), 4, (depth,))
    assert found[f"top{depth}"] == pytest.approx(100 * hits / total)


def test_the_prior_of_a_category() -> None:
    training, of_training = torch.tensor([0, 0, 0, 1, 2, 2, UNKNOWN]), ["what"] * 4 + ["who"] * 3
    right, categories = torch.tensor([0, 1, 2, 2, 0]), ["what", "what", "who", "who", "when"]
    plain = prior_accuracy(training, right, 3, categories)
    assert plain == {
        "accuracy": 40.0,
        "accuracy-what": 50.0,
        "accuracy-when": 100.0,
        "accuracy-who": 0.0,
    }
    measured = prior_accuracy(training, right, 3, categories, of_training)
    assert measured == {
        "accuracy": 80.0,
        "accuracy-what": 50.0,
        "accuracy-when": 100.0,
        "accuracy-who": 100.0,
    }
    with pytest.raises(DataError, match="needs a category for every question"):
        prior_accuracy(training, right, 3, categories, of_training[:2])


def test_the_prior_of_choices_prefers_texts_that_were_right_before() -> None:
    frequencies = torch.tensor([[5, 0, 2], [1, 1, 0], [0, 0, 9]])
    there = torch.tensor([[True, True, True], [True, True, True], [True, True, False]])
    assert prior_choice(frequencies, torch.tensor([0, 1, 1]), there)["accuracy"] == pytest.approx(
        100 * (1 + 0.5 + 0.5) / 3
    )


# ---- counts --------------------------------------------------------------------------------------


def test_counts_are_rounded_halves_up_and_clamped() -> None:
    predicted = torch.tensor([-3.0, 0.2, 1.5, 2.5, 2.49, 40.0])
    assert round_counts(predicted, (1, 10)).tolist() == [1, 1, 2, 3, 2, 10]
    assert round_counts(predicted, (0, 10)).tolist() == [0, 0, 2, 3, 2, 10]
    found = count_metrics(torch.tensor([2.4, 4.6, 12.0]), torch.tensor([2, 4, 9]))
    assert found == pytest.approx(
        {"accuracy": 100 / 3, "MSE": 2 / 3, "MSE-raw": (0.16 + 0.36 + 9.0) / 3}
    )
    with pytest.raises(TrainingDiverged, match="question number 1"):
        count_metrics(torch.tensor([1.0, torch.nan]), torch.tensor([1, 1]))
    with pytest.raises(DataError, match="2 counting questions"):
        count_metrics(torch.ones(3), torch.ones(2))


def test_guessing_counts() -> None:
    truth = torch.tensor([2, 2, 5, 0])
    guesses = torch.arange(1, 11)
    each = [count_metrics(guess.double().expand(4), truth) for guess in guesses]
    mean = {name: sum(metrics[name] for metrics in each) / len(each) for name in each[0]}
    assert chance_count(truth) == pytest.approx(mean)
    training = torch.tensor([2, 2, 2, 9, 10])  # most often 2, on average 5
    assert prior_count(training, truth) == pytest.approx(
        {"accuracy": 50.0, "MSE": (9 + 9 + 0 + 25) / 4, "MSE-raw": (9 + 9 + 0 + 25) / 4}
    )
    with pytest.raises(DataError, match="no counting question"):
        prior_count(torch.empty(0, dtype=torch.int64), truth)


# ---- results -------------------------------------------------------------------------------------

PROTOCOL = Protocol(
    "qa", "msvd", "test", "finetuned", "", 4, 1, 1, "pessimistic", 0, "abc", "open-ended"
)


def test_results_carry_figures_chance_and_priors_under_the_same_names() -> None:
    scores, right, training = (
        torch.eye(3)[[0, 1, 1]],
        torch.tensor([0, 1, UNKNOWN]),
        torch.tensor([0, 0, 1]),
    )
    words, of_training = ["what", "who", "who"], ["what", "what", "who"]
    results = [
        open_ended_result(
            PROTOCOL, scores, right, training, categories=words, training_categories=of_training
        ),
        choice_result(
            PROTOCOL,
            scores,
            torch.tensor([0, 1, 2]),
            candidates=torch.ones(3, 3).bool(),
            frequencies=torch.eye(3),
        ),
        count_result(PROTOCOL, torch.tensor([1.2, 3.6]), torch.tensor([1, 3]), training + 1),
        action_result(PROTOCOL, scores, torch.tensor([0, 1, 2]), training),
    ]
    for result in results:
        assert Result.from_dict(result.to_dict()) == result
        for guess in (result.chance, *result.baselines.values()):
            assert list(guess) == list(result.metrics)
    qa, choice, count, action = results
    assert (
        qa.metrics["accuracy"] == pytest.approx(200 / 3)
        and qa.ranks == (1, 1, 4)
        and qa.gallery == 3
    )
    assert qa.baselines["prior"]["accuracy"] == pytest.approx(100 / 3)
    assert qa.baselines["prior of the category"]["accuracy"] == pytest.approx(200 / 3)
    assert (
        choice.metrics["accuracy"] == pytest.approx(200 / 3)
        and choice.baselines["prior"]["accuracy"] == 100.0
    )
    assert (
        count.metrics["accuracy"] == 50.0
        and count.scores == pytest.approx((1.2, 3.6))
        and count.ranks == ()
    )
    assert action.metrics == {"top1": pytest.approx(200 / 3), "top5": 100.0} and action.queries == 3
    assert choice_result(PROTOCOL, scores, torch.tensor([0, 1, 2])).baselines == {}
