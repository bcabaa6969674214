"""Ranks and metrics against reference figures, brute force and enumeration."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from simvtp.errors import DataError, TrainingDiverged
from simvtp.evaluation.metrics import (
    chance,
    cosines,
    dual_softmax_ranks,
    own_cosines,
    ranks_of_features,
    summarise,
    unit_features,
)
from tests.reference.matrix_ranks import ranks_of_matrix

FIXTURES = Path(__file__).parents[1] / "fixtures"
REFERENCE = json.loads((FIXTURES / "retrieval_metrics.json").read_text())
PROPERTY = settings(max_examples=150, deadline=None, derandomize=True)


@pytest.mark.parametrize("case", range(len(REFERENCE)))
def test_reference_figures(case: int) -> None:
    entry = REFERENCE[case]
    videos, captions = entry["videos"], entry["captions_per_video"]
    matrix = np.random.default_rng(case).normal(size=(videos * captions, videos))
    owners = np.repeat(np.arange(videos), captions)
    matrix[np.arange(videos * captions), owners] += 1.0
    t2v, v2t = ranks_of_matrix(
        torch.from_numpy(matrix), torch.from_numpy(owners), rows_per_chunk=33
    )
    for ranks, expected in ((t2v, entry["t2v"]), (v2t, entry["v2t"])):
        found = summarise(ranks)
        names = {"MdR": "MedR", "MnR": "MeanR"}
        assert found == pytest.approx(
            {name: expected[names.get(name, name)] for name in found}, rel=1e-12
        )


def brute_force(
    matrix: list[list[float]], owners: list[int], videos: int
) -> tuple[list[int], list[int]]:
    """Sort the candidates, wrong ones first among equals, and look for the right one."""

    def rank(scores: list[float], right: list[bool]) -> int:
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], right[i]))
        return 1 + next(place for place, i in enumerate(order) if right[i])

    t2v = [
        rank(row, [v == owner for v in range(videos)])
        for row, owner in zip(matrix, owners, strict=True)
    ]
    v2t = [
        rank([row[v] for row in matrix], [owner == v for owner in owners]) for v in range(videos)
    ]
    return t2v, v2t


@st.composite
def ranked_sets(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix with many ties and owners in any order, each video with one caption or more."""
    videos = draw(st.integers(1, 7))
    more = draw(st.lists(st.integers(0, videos - 1), max_size=8))
    owners = draw(st.permutations(list(range(videos)) + more))
    values = draw(
        st.lists(
            st.sampled_from([-1.0, 0.0, 0.25, 0.5]),
            min_size=videos * len(owners),
            max_size=videos * len(owners),
        )
    )
    return torch.tensor(values).view(len(owners), videos), torch.tensor(owners)


@PROPERTY
@given(ranked_sets(), st.integers(1, 20))
def test_ranks_equal_brute_force(case: tuple[torch.Tensor, torch.Tensor], rows: int) -> None:
    matrix, owners = case
    t2v, v2t = ranks_of_matrix(matrix, owners, rows_per_chunk=rows)
    assert (t2v.tolist(), v2t.tolist()) == brute_force(
        matrix.tolist(), owners.tolist(), matrix.shape[1]
    )


@PROPERTY
@given(ranked_sets(), st.randoms(use_true_random=False))
def test_ranks_do_not_depend_on_the_order_of_the_test_set(
    case: tuple[torch.Tensor, torch.Tensor], random: object
) -> None:
    matrix, owners = case
    captions, videos = matrix.shape
    rows, columns = list(range(captions)), list(range(videos))
    random.shuffle(rows), random.shuffle(columns)  # type: ignore[attr-defined]
    place = torch.tensor(columns).argsort()  # new number of each video
    t2v, v2t = ranks_of_matrix(matrix, owners)
    shuffled_t2v, shuffled_v2t = ranks_of_matrix(matrix[rows][:, columns], place[owners[rows]])
    assert torch.equal(shuffled_t2v, t2v[rows]) and torch.equal(shuffled_v2t, v2t[columns])


def test_a_collapsed_model_scores_nothing() -> None:
    texts, videos = torch.ones(12, 4) / 3, torch.ones(6, 4) * 0.7
    t2v, v2t = ranks_of_features(texts, videos, torch.arange(12) // 2, rows_per_chunk=5)
    assert t2v.tolist() == [6] * 12 and v2t.tolist() == [11] * 6


def test_equal_features_tie_wherever_they_stand() -> None:
    # Copies of a clip or caption tie exactly, although a matrix product may round equal columns
    # differently.
    generator = torch.Generator().manual_seed(0)
    texts = torch.randn(101, 67, generator=generator).repeat(3, 1)
    videos = torch.randn(101, 67, generator=generator).repeat(3, 1)
    t2v, v2t = ranks_of_features(texts, videos, torch.arange(303), rows_per_chunk=64)
    assert int(t2v.min()) >= 3 and int(v2t.min()) >= 3
    assert torch.equal(t2v[:101], t2v[101:202]) and torch.equal(v2t[:101], v2t[202:])


def test_features_agree_with_their_matrix() -> None:
    generator = torch.Generator().manual_seed(1)
    texts, videos = (
        torch.randn(40, 16, generator=generator),
        torch.randn(13, 16, generator=generator) * 5,
    )
    owners = torch.arange(40) % 13
    cosine = torch.nn.functional.cosine_similarity(
        texts[:, None].double(), videos[None].double(), dim=2
    )
    expected = ranks_of_matrix(cosine, owners)
    for rows in (1, 7, 1000):
        found = ranks_of_features(texts, videos, owners, rows_per_chunk=rows)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@st.composite
def feature_sets(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    # Features with repeated and nearly repeated rows, several captions for some videos, owners in
    # any order.
    videos, more, width = (
        draw(st.integers(1, 12)),
        draw(st.integers(0, 15)),
        draw(st.sampled_from([1, 3, 40])),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    owners = torch.cat(
        [torch.arange(videos), torch.randint(0, videos, (more,), generator=generator)]
    )
    owners = owners[torch.randperm(len(owners), generator=generator)]
    pool = torch.randn(draw(st.integers(1, 6)), width, generator=generator) * draw(
        st.sampled_from([1e-6, 1.0, 1e6])
    )
    texts, clips = (
        pool[torch.randint(0, len(pool), (count,), generator=generator)]
        for count in (len(owners), videos)
    )
    return texts, clips + draw(st.sampled_from([0.0, 1e-8])), owners


@PROPERTY
@given(feature_sets(), st.integers(1, 30), st.integers(1, 15))
def test_blocks_of_any_size_give_the_ranks_of_the_whole_matrix(
    case: tuple[torch.Tensor, torch.Tensor, torch.Tensor], rows: int, columns: int
) -> None:
    texts, videos, owners = case
    matrix = (unit_features(texts, "caption") @ unit_features(videos, "video").T).float()
    expected = brute_force(matrix.tolist(), owners.tolist(), len(videos))
    found = ranks_of_features(texts, videos, owners, rows_per_chunk=rows, columns_per_chunk=columns)
    assert (found[0].tolist(), found[1].tolist()) == expected


def test_cosines_are_exact_whatever_the_block() -> None:
    # Not a bit differs between the whole product, its parts, another order of summation and exact
    # integers.
    generator = torch.Generator().manual_seed(4)
    texts, videos = (
        unit_features(torch.randn(n, 515, generator=generator), "caption") for n in (61, 47)
    )
    whole = cosines(texts, videos, torch.float64)(slice(None), slice(None))
    order = torch.randperm(515, generator=generator)
    assert torch.equal(whole, texts[:, order] @ videos[:, order].T)
    parts = [
        [
            cosines(texts, videos, torch.float64)(slice(i, i + 7), slice(j, j + 5))
            for j in range(0, 47, 5)
        ]
        for i in range(0, 61, 7)
    ]
    assert torch.equal(whole, torch.cat([torch.cat(row, dim=1) for row in parts]))
    owners = torch.arange(61) % 47
    assert torch.equal(
        own_cosines(texts, videos, owners, torch.float64), whole[torch.arange(61), owners]
    )
    left, right = ([[int(x * 2**26) for x in row] for row in m.tolist()] for m in (texts, videos))
    exact = sum(a * b for a, b in zip(left[3], right[5], strict=True))
    assert float(whole[3, 5]) * 2**52 == exact and abs(exact) > 2**40


class Largest(TorchDispatchMode):
    """Notes how many elements the largest tensor has that any operation makes."""

    elements = 0

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self, function, types, args=(), kwargs=None
    ):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.elements = max(self.elements, made.numel())
        return made


@pytest.mark.parametrize("score", [ranks_of_features, dual_softmax_ranks])
def test_the_matrix_is_never_held(score) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(5)
    texts, videos = (
        torch.randn(3000, 4, generator=generator),
        torch.randn(2000, 4, generator=generator),
    )
    with Largest() as largest:
        score(texts, videos, torch.arange(3000) % 2000, rows_per_chunk=100, columns_per_chunk=150)
    assert 100 * 150 <= largest.elements <= 100 * 200  # 2000 videos: 13 blocks of 150 and a rest


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_dual_softmax_equals_the_whole_matrix(temperature: float) -> None:
    generator = torch.Generator().manual_seed(6)
    owners = torch.cat([torch.arange(50), torch.arange(70) % 30])
    videos = torch.randn(50, 24, generator=generator)
    texts = torch.randn(120, 24, generator=generator) + 0.6 * videos[owners]
    cosine = torch.nn.functional.cosine_similarity(
        texts[:, None].double(), videos[None].double(), dim=2
    )
    t2v, _ = ranks_of_matrix(cosine * (cosine / temperature).softmax(dim=0), owners)
    _, v2t = ranks_of_matrix(cosine * (cosine / temperature).softmax(dim=1), owners)
    found = dual_softmax_ranks(
        texts, videos, owners, temperature=temperature, rows_per_chunk=13, columns_per_chunk=17
    )
    assert torch.equal(found[0], t2v) and torch.equal(found[1], v2t)
    assert not torch.equal(t2v, ranks_of_matrix(cosine, owners)[0]), (
        "the example must tell re-scored from plain"
    )


def test_dual_softmax_gives_a_collapsed_model_nothing() -> None:
    t2v, v2t = dual_softmax_ranks(
        torch.ones(12, 4),
        torch.ones(6, 4) * 0.7,
        torch.arange(12) // 2,
        rows_per_chunk=5,
        columns_per_chunk=4,
    )
    assert t2v.tolist() == [6] * 12 and v2t.tolist() == [11] * 6


def test_the_matrix_that_is_given_stays_as_it_is() -> None:
    matrix = torch.eye(3)
    ranks_of_matrix(matrix)
    assert torch.equal(matrix, torch.eye(3))
    assert ranks_of_matrix(torch.full((2, 2), -torch.inf))[0].tolist() == [2, 2]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_feature_that_is_not_a_number_is_named(value: float) -> None:
    texts, videos = torch.ones(3, 2), torch.ones(3, 2)
    videos[2, 1] = value
    with pytest.raises(TrainingDiverged, match="feature of video number 2"):
        ranks_of_features(texts, videos, torch.arange(3))
    with pytest.raises(TrainingDiverged, match="feature of caption number 2"):
        dual_softmax_ranks(videos, texts, torch.arange(3))


def test_bad_test_sets_are_refused() -> None:
    matrix = torch.zeros(3, 2)
    with pytest.raises(DataError, match="video number 1 of the test set has no caption"):
        ranks_of_matrix(matrix, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(DataError, match="2 captions, but 3"):
        ranks_of_matrix(matrix, torch.tensor([0, 1]))
    with pytest.raises(DataError, match="belongs to video number 5"):
        ranks_of_matrix(matrix, torch.tensor([0, 1, 5]))
    with pytest.raises(DataError, match="empty"):
        ranks_of_matrix(torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64))
    matrix[2, 1] = torch.nan
    with pytest.raises(TrainingDiverged, match="caption number 2 and video number 1"):
        ranks_of_matrix(matrix, torch.tensor([0, 1, 0]), rows_per_chunk=2)


def test_summary_of_few_ranks() -> None:
    found = summarise(torch.tensor([1, 2, 6, 60]))
    assert found == {"R1": 25.0, "R5": 50.0, "R10": 75.0, "R50": 75.0, "MdR": 4.0, "MnR": 17.25}


# ---- chance --------------------------------------------------------------------------------------


def test_chance_of_one_right_candidate() -> None:
    found = chance(200, [1] * 57)
    assert found == pytest.approx(
        {"R1": 0.5, "R5": 2.5, "R10": 5.0, "R50": 25.0, "MdR": 100.5, "MnR": 100.5}
    )
    assert chance(7, [1] * 7) == pytest.approx(
        {"R1": 100 / 7, "R5": 500 / 7, "R10": 100.0, "R50": 100.0, "MdR": 4.0, "MnR": 4.0}
    )
    for gallery in range(1, 300):
        assert chance(gallery, [1])["MdR"] == (gallery + 1) / 2


@pytest.mark.parametrize(
    ("candidates", "right"), [(6, [1, 2, 3]), (7, [2, 5]), (6, [3, 3]), (5, [5]), (6, [1, 1, 4])]
)
def test_chance_equals_enumeration(candidates: int, right: list[int]) -> None:
    """All choices of the places of the right candidates, each query with equal weight."""
    weighted: list[tuple[float, int]] = []
    for m in right:
        ranks = [1 + min(places) for places in itertools.combinations(range(candidates), m)]
        weighted += [(1 / len(ranks) / len(right), rank) for rank in ranks]
    found = chance(candidates, right)
    for k in (1, 5, 10, 50):
        assert found[f"R{k}"] == pytest.approx(100 * sum(w for w, rank in weighted if rank <= k))
    assert found["MnR"] == pytest.approx(sum(w * rank for w, rank in weighted))
    reached = {k: sum(w for w, rank in weighted if rank <= k) for k in range(1, candidates + 1)}
    low, high = (
        min(k for k in reached if reached[k] > 0.5 - 1e-9),
        min(k for k in reached if reached[k] > 0.5 + 1e-9),
    )
    assert found["MdR"] == (low + high) / 2


def test_chance_is_what_random_features_reach() -> None:
    owners = torch.arange(3000) % 200
    owners[:500] = 0  # one video with very many captions
    generator = torch.Generator().manual_seed(2)
    t2v, v2t = ranks_of_matrix(torch.randn(3000, 200, generator=generator), owners)
    expected_t2v, expected_v2t = chance(200, [1] * 3000), chance(3000, owners.bincount().tolist())
    assert summarise(t2v)["R10"] == pytest.approx(expected_t2v["R10"], abs=1.2)
    assert summarise(v2t)["R50"] == pytest.approx(expected_v2t["R50"], abs=9)
    assert summarise(v2t)["MnR"] == pytest.approx(expected_v2t["MnR"], rel=0.2)
    assert summarise(v2t)["MdR"] == pytest.approx(expected_v2t["MdR"], rel=0.3)
    with pytest.raises(ValueError, match="between 1 and 3"):
        chance(3, [4])
