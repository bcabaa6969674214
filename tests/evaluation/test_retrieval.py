"""Retrieval of a small real module on hand-made test sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from simvtp.errors import DataError, TrainingDiverged
from simvtp.evaluation.eval_mode import evaluating
from simvtp.evaluation.metrics import dual_softmax_ranks
from simvtp.evaluation.retrieval_evaluation import (
    embed_test_set,
    score,
    score_dual_softmax,
)
from simvtp.runs.results import Protocol, Result

PROTOCOL = Protocol(
    "retrieval", "shapes", "test", "zero-shot", "", 2, 2, 1, "pessimistic", 3, "abc", "full"
)


class ColourModel(nn.Module):
    """Looks up the mean colour of a clip; a text names a row of a table.

    Dropout tells evaluation mode from training mode.
    """

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)
        self.dropout = nn.Dropout(0.9)
        self.frozen = nn.Dropout(0.9).eval()

    def embed_video(self, clips: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return self.frozen(self.dropout(clips.float().mean(dim=(1, 2, 3))))

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.dropout(self.table[(input_ids * attention_mask).sum(dim=1)])


def clip(*colour: int) -> Tensor:
    return torch.tensor(colour, dtype=torch.uint8).expand(2, 4, 4, 3)


def views(*items: tuple[Tensor, int], batch: int = 2) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(items), batch):
        part = items[start : start + batch]
        yield torch.stack([c for c, _ in part]), torch.tensor([number for _, number in part])


def texts(*rows: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.tensor([[row, 9]]), torch.tensor([[True, False]])) for row in rows]


TABLE = torch.eye(3) * 2.0
CLIPS = ((clip(200, 10, 0), 0), (clip(0, 90, 10), 1), (clip(5, 0, 30), 2))


def evaluated(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    captions: list[tuple[Tensor, Tensor]],
    owners: Tensor,
    names: Sequence[str] = (),
    **chunks: int,
) -> tuple[Result, Result]:
    """(t2v, v2t) of a model on a test set."""
    embedded = embed_test_set(model, batches, captions, owners, video_names=names)
    return score(embedded, PROTOCOL, **chunks)


def test_both_directions_and_their_protocol() -> None:
    model = ColourModel(TABLE).train()
    model.frozen.eval()
    results = evaluated(model, views(*CLIPS), texts(0, 1, 2, 0), torch.tensor([0, 1, 2, 1]))
    t2v, v2t = results
    assert (t2v.protocol.direction, v2t.protocol.direction) == ("t2v", "v2t")
    assert t2v.ranks == (1, 1, 1, 3) and (t2v.queries, t2v.gallery) == (4, 3)
    # The fourth caption ties with the first for video 0.
    assert v2t.ranks == (2, 1, 1) and (v2t.queries, v2t.gallery) == (3, 4)
    assert t2v.metrics["R1"] == 75.0 and t2v.chance["R1"] == pytest.approx(100 / 3)
    assert v2t.chance["R1"] == pytest.approx((25 + 50 + 25) / 3)
    assert t2v.protocol.ties == "pessimistic" and t2v.key == "test/zero-shot/t2v"
    for result in results:
        assert Result.from_dict(result.to_dict()) == result
    assert model.training and model.dropout.training and not model.frozen.training, (
        "each module keeps its mode"
    )


def test_features_are_averaged_before_the_cosine() -> None:
    """A bright view outweighs a dim one.

    The mean of (240, 0, 0) and (0, 60, 0) has cosine 0.97 with red, the mean of the unit views
    would have 0.71. A caption between red and blue distinguishes them.
    """
    mixed = ((clip(240, 0, 0), 0), (clip(0, 0, 9), 1), (clip(0, 60, 0), 0), (clip(0, 0, 9), 1))
    for blue, rank in ((0.6, 2), (0.8, 2), (0.95, 2), (1.0, 1)):
        model = ColourModel(torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, blue]]))
        t2v, _ = evaluated(model, views(*mixed), texts(0, 1), torch.tensor([0, 1]))
        assert t2v.ranks == (1, rank), blue


def test_one_pass_over_the_videos_serves_several_figures() -> None:
    model, owners = ColourModel(TABLE), torch.tensor([0, 1, 2, 1])
    embedded = embed_test_set(model, views(*CLIPS), texts(0, 1, 2, 0), owners)
    plain = score(embedded, PROTOCOL)
    assert plain == evaluated(model, views(*CLIPS), texts(0, 1, 2, 0), owners)
    dual = score_dual_softmax(embedded, PROTOCOL)
    assert [r.key for r in dual] == [
        "test/zero-shot-dual-softmax/t2v",
        "test/zero-shot-dual-softmax/v2t",
    ], "never the plain figure's column"
    assert [list(r.ranks) for r in dual] == [
        r.tolist() for r in dual_softmax_ranks(embedded.texts, embedded.videos, owners)
    ]
    images = score(embedded, replace(PROTOCOL, task="image_text"))
    assert [r.key for r in images] == ["test/zero-shot/t2i", "test/zero-shot/i2t"]
    assert [r.ranks for r in images] == [r.ranks for r in plain]


def test_the_order_and_batches_of_views_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    items = [
        (torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8, generator=generator), i % 5)
        for i in range(15)
    ]
    model, owners = ColourModel(torch.rand(5, 3, generator=generator)), torch.arange(5)
    first = evaluated(model, views(*items, batch=4), texts(*range(5)), owners)
    backwards = views(*reversed(items), batch=7)
    assert first == evaluated(model, backwards, texts(*range(5)), owners, rows_per_chunk=2)


def test_a_video_without_a_view_is_named() -> None:
    model, owners = ColourModel(TABLE), torch.tensor([0, 1, 2])
    with pytest.raises(
        DataError, match=r"video 'green' of the test set gave no clip to score \(1 of 3"
    ):
        names = ("red", "green", "blue")
        evaluated(model, views(CLIPS[0], CLIPS[2]), texts(0, 1, 2), owners, names)
    with pytest.raises(DataError, match="video number 0"):
        evaluated(model, views(), texts(0, 1, 2), owners)


def test_features_that_are_not_numbers_are_refused() -> None:
    table = TABLE.clone()
    table[1, 1] = torch.nan
    model = ColourModel(table).train()
    with pytest.raises(TrainingDiverged, match="caption number 1"):
        evaluated(model, views(*CLIPS), texts(0, 1, 2), torch.arange(3))


def test_the_mode_comes_back_after_an_error() -> None:
    model = ColourModel(TABLE).train()
    with pytest.raises(RuntimeError, match="stop"), evaluating(model):
        assert not model.dropout.training and torch.is_inference_mode_enabled()
        raise RuntimeError("stop")
    assert model.dropout.training and not torch.is_inference_mode_enabled()
