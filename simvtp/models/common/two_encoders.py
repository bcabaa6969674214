"""Two encoders instead of one: video and text with weights of their own in every block (ours, for
the ablation of the unified encoder).

Sizes, uses and names are those of `Encoder`, so that what differs is whether weights are shared,
and, with `fusion_blocks`, how late the two sides of a pair meet. A pair's sides meet in the
attention: each token attends to the tokens of both sides, while norms, projections and MLP are
those of its own side. Before the fusion blocks each side attends to itself alone (late fusion).

Legend: see simvtp/batch.py; S = V + L tokens of a pair.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simvtp.config.schema import ModelConfig
from simvtp.models.common.encoder import Encoder
from simvtp.models.common.layers import Attention, Block

Kept = tuple[
    Tensor | None, Tensor | None
]  # what `DropPath.draw` gave for the two branches of a block


def build_encoder(config: ModelConfig) -> Encoder | TwoEncoders:
    """The encoder of the pre-training model, by `config.encoders`."""
    return TwoEncoders(config) if config.encoders == "two" else Encoder(config)


def one_side(encoder: Encoder | TwoEncoders, side: Literal["video", "text"]) -> Encoder:
    """The encoder of one side alone: the unified one is both."""
    return encoder if isinstance(encoder, Encoder) else cast(Encoder, getattr(encoder, side))


class TwoEncoders(nn.Module):
    """A video encoder and a text encoder that attend to one another where they get a pair."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.video = Encoder(config)
        self.text = Encoder(config)
        self.apart = config.depth - (
            config.fusion_blocks or config.depth
        )  # blocks before the two sides meet

    def forward(
        self, tokens: Tensor, keys: Tensor | None = None, words_from: int | None = None
    ) -> Tensor:
        """tokens [B, S, D] -> [B, S, D]. Without `keys` they are video, with `keys` (bool [B, S],
        False at padding) text alone, and with `words_from` as well a pair, whose text begins
        there."""
        if keys is None:
            return self.video(tokens)
        if words_from is None:
            return self.text(tokens, keys)
        video, text = tokens[:, :words_from], tokens[:, words_from:]
        for number, (left, right) in enumerate(
            zip(_blocks(self.video), _blocks(self.text), strict=True)
        ):
            kept = (
                (left.drop_path.draw(video), left.drop_path.draw(video)),
                (right.drop_path.draw(text), right.drop_path.draw(text)),
            )
            if self.video.blocks.gradient_checkpointing and torch.is_grad_enabled():
                video, text = checkpoint(
                    _step,
                    left,
                    right,
                    video,
                    text,
                    keys,
                    kept,
                    number >= self.apart,
                    use_reentrant=False,
                )
            else:
                video, text = _step(left, right, video, text, keys, kept, number >= self.apart)
        return torch.cat([self.video.norm(video), self.text.norm(text)], dim=1)


def _blocks(encoder: Encoder) -> Iterable[Block]:
    return cast(Iterable[Block], encoder.blocks)


def _step(
    left: Block,
    right: Block,
    video: Tensor,
    text: Tensor,
    keys: Tensor,
    kept: tuple[Kept, Kept],
    together: bool,
) -> tuple[Tensor, Tensor]:
    """One block of each side over a pair; `keys` bool [B, S] of both sides."""
    count = video.shape[1]
    if not together:
        return left(video, None, kept[0]), right(text, keys[:, None, None, count:], kept[1])
    sides = ((left, video), (right, text))
    q, k, v = (
        torch.cat(parts, dim=2)
        for parts in zip(*(_heads(b.attn, b.norm1(x)) for b, x in sides), strict=True)
    )
    mixed = (
        F.scaled_dot_product_attention(q, k, v, attn_mask=keys[:, None, None, :])
        .transpose(1, 2)
        .flatten(2)
    )  # [B, S, D]
    outputs = []
    for (block, x), part, (first, second) in zip(
        sides, (mixed[:, :count], mixed[:, count:]), kept, strict=True
    ):
        x = x + block.drop_path(block.attn.proj(part), first)
        outputs.append(x + block.drop_path(block.mlp(block.norm2(x)), second))
    return outputs[0], outputs[1]


def _heads(attention: Attention, x: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values of one side, each [B, heads, S, D / heads]."""
    bias = torch.cat([attention.q_bias, torch.zeros_like(attention.v_bias), attention.v_bias])
    qkv = F.linear(x, attention.qkv.weight, bias).unflatten(-1, (3, attention.heads, -1))
    return qkv.permute(2, 0, 3, 1, 4).unbind(0)
