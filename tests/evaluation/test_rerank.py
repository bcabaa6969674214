"""Two-stage ranks against sorting by the book, and the matching head as second stage."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simvtp.errors import ConfigError, TrainingDiverged
from simvtp.evaluation import rerank as module
from simvtp.evaluation.metrics import cosines, ranks_of_features, unit_features
from simvtp.evaluation.rerank import MatchScores, make_shortlist, rerank, score_reranked
from simvtp.evaluation.retrieval_evaluation import Embedded, score
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.runs.results import Protocol
from tests.models.small_models import CONFIG, masks_for, random_batch

PROTOCOL = Protocol(
    "retrieval", "shapes", "test", "zero-shot", "t2v", 4, 1, 1, "pessimistic", 0, "abc"
)
PROPERTY = settings(max_examples=120, deadline=None, derandomize=True)


@st.composite
def test_sets(draw: st.DrawFn) -> tuple[Embedded, Tensor]:
    # Features with many equal rows, several captions for some videos, pair scores [C, V] with many
    # ties.
    videos, more = draw(st.integers(1, 8)), draw(st.integers(0, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    owners = torch.cat(
        [torch.arange(videos), torch.randint(0, videos, (more,), generator=generator)]
    )
    owners = owners[torch.randperm(len(owners), generator=generator)]
    pool = torch.randn(draw(st.integers(1, 9)), 3, generator=generator)
    texts, clips = (
        pool[torch.randint(0, len(pool), (n,), generator=generator)] for n in (len(owners), videos)
    )
    pairs = torch.randint(
        0, draw(st.integers(1, 5)), (len(owners), videos), generator=generator
    ).float()
    return Embedded(texts, clips.double(), owners, 0.0, 0.0), pairs


test_sets.__test__ = False  # type: ignore[attr-defined]


def by_the_book(
    similarity: Tensor, pairs: Tensor, query_owners: list[int], gallery_owners: list[int], k: int
) -> list[int]:
    # Sort all by similarity, sort the first k again by pair score, put the others behind, look for
    # the first right one.
    ranks = []
    for q, owner in enumerate(query_owners):
        right = [other == owner for other in gallery_owners]
        order = sorted(
            range(len(right)),
            key=lambda g, q=q, right=right: (-similarity[q, g].item(), right[g], g),
        )
        first = sorted(order[:k], key=lambda g, q=q, right=right: (-pairs[q, g].item(), right[g]))
        ranks.append(1 + next(place for place, g in enumerate(first + order[k:]) if right[g]))
    return ranks


@PROPERTY
@given(test_sets(), st.integers(1, 12), st.integers(1, 30))
def test_ranks_by_the_book_for_every_k(case: tuple[Embedded, Tensor], k: int, chunk: int) -> None:
    embedded, pairs = case
    owners, numbers = embedded.owners.tolist(), list(range(len(embedded.videos)))
    similarity = cosines(
        unit_features(embedded.texts, "caption"), unit_features(embedded.videos, "video")
    )(slice(None), slice(None))
    asked = []

    def score_pairs(captions: Tensor, videos: Tensor) -> Tensor:
        assert len(captions) <= 7
        asked.append(len(captions))
        return pairs[captions, videos]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SIMILARITIES_AT_ONCE", chunk)
        found = score_reranked(embedded, score_pairs, PROTOCOL, k=k, pairs_per_batch=7)
    assert list(found.results[0].ranks) == by_the_book(similarity, pairs, owners, numbers, k)
    assert list(found.results[1].ranks) == by_the_book(similarity.T, pairs.T, numbers, owners, k)
    lengths = [min(k, len(gallery)) for gallery in (numbers, owners)]
    assert sum(asked) == len(owners) * lengths[0] + len(numbers) * lengths[1], (
        "each pair of a short list is scored once"
    )


@PROPERTY
@given(test_sets(), st.integers(1, 12))
def test_what_is_outside_of_the_list_keeps_its_rank(case: tuple[Embedded, Tensor], k: int) -> None:
    embedded, pairs = case
    plain, found = (
        score(embedded, PROTOCOL),
        score_reranked(embedded, lambda c, v: pairs[c, v], PROTOCOL, k=k),
    )
    for before, after, both in zip(plain, found.results, found.lists, strict=True):
        for old, new, right in zip(before.ranks, after.ranks, both.right, strict=True):
            assert (
                (new <= k and bool(right.any())) if old <= k else (new == old and not right.any())
            )


def test_the_first_stage_re_ranks_to_the_same_list_and_an_oracle_puts_it_right() -> None:
    generator = torch.Generator().manual_seed(0)
    owners = torch.arange(60) % 20
    embedded = Embedded(
        torch.randn(60, 8, generator=generator),
        torch.randn(20, 8, generator=generator).double(),
        owners,
        6.0,
        2.0,
    )
    similarity = cosines(
        unit_features(embedded.texts, "caption"), unit_features(embedded.videos, "video")
    )(slice(None), slice(None))
    plain = score(embedded, PROTOCOL)
    same = score_reranked(embedded, lambda c, v: similarity[c, v], PROTOCOL, k=5)
    assert [r.ranks for r in same.results] == [r.ranks for r in plain]
    oracle = score_reranked(embedded, lambda c, v: (owners[c] == v).float(), PROTOCOL, k=5)
    for first, second in zip(plain, oracle.results, strict=True):
        assert (
            second.metrics["R1"] == first.metrics["R5"]
            and second.metrics["R10"] == first.metrics["R10"]
        )


def test_figures_of_two_stages_have_their_own_column_and_times() -> None:
    embedded = Embedded(torch.eye(3), torch.eye(3).double(), torch.arange(3), 6.0, 3.0)
    found = score_reranked(
        embedded, lambda c, v: torch.ones(len(c)), replace(PROTOCOL, variant="1k-A"), k=16
    )
    assert [r.key for r in found.results] == [
        "test/zero-shot-re-ranked-top-16/t2v",
        "test/zero-shot-re-ranked-top-16/v2t",
    ]
    assert (
        found.results[0].protocol.setting == "zero-shot, re-ranked top 16"
        and found.results[0].protocol.variant == "1k-A"
    )
    assert found.results[0].metrics["R1"] == 0.0, (
        "a matching head that cannot tell pairs apart loses what the first stage had"
    )
    assert found.seconds["t2v/first_stage_s"] > 2.0 and found.seconds["v2t/first_stage_s"] > 1.0, (
        "embedding the queries counts"
    )
    assert 0 < found.seconds["t2v/second_stage_s"] < 1.0


def test_bad_second_stages_are_refused() -> None:
    unit, owners = unit_features(torch.eye(3), "caption"), torch.arange(3)
    ranks, _ = ranks_of_features(unit, unit, owners)
    with pytest.raises(ConfigError, match="choose 1 or more"):
        make_shortlist(unit, unit, owners, owners, ranks, 0)
    shortlist = make_shortlist(unit, unit, owners, owners, ranks, 2)
    assert shortlist.candidates.tolist() == [[0, 1], [1, 0], [2, 0]]
    with pytest.raises(TrainingDiverged, match="query number 1 and candidate number 0"):
        rerank(shortlist, lambda q, c: torch.where((q == 1) & (c == 0), torch.nan, 1.0))
    with pytest.raises(ValueError, match="4 pairs need as many scores"):
        rerank(shortlist, lambda q, c: torch.ones(3), pairs_per_batch=4)


# ---- the matching head ---------------------------------------------------------------------------


def test_match_is_the_matching_head_of_the_training_pass() -> None:
    # With all tubes visible and all words clean, the positives of the training pass are the same
    # pairs.
    config = replace(CONFIG, contrastive_text="clean")
    model = SimVTP(config, ("vtm",)).eval()
    model.initialise(3)
    batch = random_batch(config, 4)
    masks = masks_for(batch, config)
    everything = torch.arange(config.tubes).expand(4, -1)
    logits = model(
        batch, replace(masks, visible=everything, negative_index=torch.tensor([1, 2, 3, 0]))
    )["match_logits"]
    odds = logits.detach().log_softmax(dim=1).diff(dim=1)[:, 0]
    assert torch.allclose(
        model.match(batch.clips, batch.input_ids, batch.attention_mask), odds[:4], atol=1e-5
    )
    negatives = model.match(batch.clips[[1, 2, 3, 0]], batch.input_ids, batch.attention_mask)
    assert (
        torch.allclose(negatives, odds[4:], atol=1e-5)
        and float((odds[:4] - odds[4:]).abs().min()) > 1e-4
    )


def test_pairs_are_scored_one_by_one_as_in_batches() -> None:
    model = SimVTP(CONFIG, ("vtc", "vtm")).train()
    model.initialise(0)
    batch = random_batch(CONFIG, 5)
    seen = []

    def clips(numbers: Tensor) -> Tensor:
        seen.append(numbers.tolist())
        return batch.clips[numbers]

    scores = MatchScores(model, clips, batch.input_ids, batch.attention_mask)
    captions, videos = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([4, 4, 0, 1, 4, 0])
    together = scores(captions, videos)
    assert seen == [[0, 1, 4]], "a video of several pairs is read once"
    alone = torch.cat([scores(captions[i : i + 1], videos[i : i + 1]) for i in range(6)])
    assert torch.allclose(together, alone, atol=1e-5) and len(together.unique()) == 6
    assert model.training and not together.requires_grad


def test_a_model_without_the_head_says_so() -> None:
    model, batch = SimVTP(CONFIG, ("vtc",)), random_batch(CONFIG, 2)
    with pytest.raises(ConfigError, match=r"losses\.vtm=0"):
        model.match(batch.clips, batch.input_ids, batch.attention_mask)
