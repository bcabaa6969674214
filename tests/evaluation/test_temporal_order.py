"""Retrieval with the frames of each clip in other orders."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from simvtp.evaluation.modality.temporal_order import (
    FrameOrder,
    OrderedFrames,
    score_orders,
    split_orders,
)
from simvtp.evaluation.retrieval_evaluation import embed_test_set, score
from simvtp.runs.results import Protocol

PROTOCOL = Protocol("retrieval", "x", "test", "zero-shot", "t2v", 8, 1, 1, "pessimistic", 0, "")


class Reads(nn.Module):
    """Features of clips that hold a sequence of bits, one a frame; captions are sequences too."""

    def __init__(self, in_order: bool) -> None:
        super().__init__()
        self.in_order = in_order

    def embed_video(self, clips: Tensor) -> Tensor:
        bits = clips[:, :, 0, 0, 0].float() - 0.5
        return bits if self.in_order else bits.sum(dim=1, keepdim=True).expand(-1, 8) + 10

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.embed_video(input_ids[:, :, None, None, None])


def scored(in_order: bool) -> dict[str, float]:
    bits = (torch.arange(256)[:, None] >> torch.arange(8)) & 1
    clips = bits[:, :, None, None, None].to(torch.uint8)
    everything = torch.arange(256)
    views = [(clips[:100], everything[:100]), (clips[100:], everything[100:])]
    texts = [(bits, torch.ones_like(bits, dtype=torch.bool))]
    embedded = embed_test_set(OrderedFrames(Reads(in_order)), views, texts, everything)
    plain, orders = split_orders(embedded)
    alone = embed_test_set(Reads(in_order), views, texts, everything)
    assert torch.equal(plain.videos, alone.videos) and torch.equal(plain.texts, alone.texts)
    results = [score(plain, PROTOCOL)[0], *score_orders(orders, PROTOCOL)]
    return {result.protocol.setting: result.metrics["R1"] for result in results}


def test_a_model_that_reads_the_order_loses_and_one_that_does_not_keeps_its_rank() -> None:
    found = scored(in_order=True)
    assert list(found) == ["zero-shot", *(f"zero-shot, {order.value}" for order in FrameOrder)]
    assert found["zero-shot"] == 100
    # palindromes are right in reverse: 16 of 256
    assert found["zero-shot, frames reversed"] == pytest.approx(100 * 16 / 256)
    assert found["zero-shot, frames shuffled"] < 50
    blind = scored(in_order=False)
    assert blind["zero-shot"] == blind["zero-shot, frames shuffled"]
    assert blind["zero-shot"] == blind["zero-shot, frames reversed"]


@pytest.mark.parametrize("frames", [2, 3, 4, 8, 16])
def test_orders_are_what_they_say(frames: int) -> None:
    for order in FrameOrder:
        assert len(order.numbers(frames)) == frames
    assert FrameOrder.SHUFFLED.numbers(frames).sort().values.tolist() == list(range(frames))
    assert FrameOrder.REVERSED.numbers(frames).tolist() == list(range(frames))[::-1]
    assert FrameOrder.MIDDLE.numbers(frames).tolist() == [frames // 2] * frames
