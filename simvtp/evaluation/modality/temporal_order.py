"""Temporal order test: retrieval when the frames of each clip are put into another order.

A model that reads single frames scores the same with shuffled or reversed frames, and with the
middle frame in place of all (Lei et al. 2022, arXiv 2206.03428, show how far that goes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum

import torch
from torch import Tensor, nn

from simvtp.evaluation.retrieval_evaluation import Embedded, score
from simvtp.runs.results import FRAME_ORDERS, Protocol, Result

SHUFFLE_SEED = 2022


class FrameOrder(StrEnum):
    """An order of the frames of a clip; the value is what a protocol says of it."""

    SHUFFLED, REVERSED, MIDDLE = FRAME_ORDERS

    def numbers(self, frames: int) -> Tensor:
        """Returns which frame stands at each place: int64 [frames].

        The shuffle is one fixed permutation of each number of frames.
        """
        if self is FrameOrder.SHUFFLED:
            generator = torch.Generator().manual_seed(SHUFFLE_SEED)
            return torch.randperm(frames, generator=generator)
        order = torch.arange(frames)
        return order.flip(0) if self is FrameOrder.REVERSED else torch.full_like(order, frames // 2)


class OrderedFrames(nn.Module):
    """Embeds each clip as it is and in every `FrameOrder`, side by side in one feature.

    So the clips are decoded once. Features of captions are those of the model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def embed_video(self, clips: Tensor) -> Tensor:
        """Returns features [B, (1 + orders) * D] of clips uint8 [B, T, H, W, 3]."""
        embed: Callable[[Tensor], Tensor] = self.model.embed_video  # type: ignore[assignment]
        orders = (order.numbers(clips.shape[1]).to(clips.device) for order in FrameOrder)
        versions = [clips, *(clips.index_select(1, order) for order in orders)]
        return torch.cat([embed(version) for version in versions], dim=1)

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns features [B, D] of word pieces [B, L]."""
        embed: Callable[[Tensor, Tensor], Tensor] = self.model.embed_text  # type: ignore[assignment]
        return embed(input_ids, attention_mask)


def split_orders(embedded: Embedded) -> tuple[Embedded, dict[FrameOrder, Embedded]]:
    """Returns what `OrderedFrames` embedded: the clips as they are, and in each order."""
    parts = embedded.videos.chunk(1 + len(FrameOrder), dim=1)
    first, *others = (replace(embedded, videos=part.contiguous()) for part in parts)
    return first, dict(zip(FrameOrder, others, strict=True))


def score_orders(orders: dict[FrameOrder, Embedded], protocol: Protocol) -> list[Result]:
    """Returns text-to-video results, `<setting>, frames shuffled` and so on."""
    return [
        score(embedded, replace(protocol, setting=f"{protocol.setting}, {order.value}"))[0]
        for order, embedded in orders.items()
    ]
