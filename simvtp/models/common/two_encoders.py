"""Two encoders instead of one: video and text have their own weights in every block.

Ours, for the ablation of the unified encoder. Sizes, uses and names are those of `Encoder`, so that
only two things differ: whether weights are shared, and, with `fusion_blocks`, how late the two
modalities of a pair meet. They meet in the attention: each token attends to the tokens of both,
while norms, projections and MLP are those of its own modality. Before the fusion blocks each
modality attends to itself alone (late fusion).

Legend: see simvtp/batch.py; S = V + L tokens of a pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simvtp.config.model_config import SimVTPConfig
from simvtp.models.common.encoder import Encoder, TokenSequence
from simvtp.models.common.forward_options import DEFAULT_OPTIONS, ForwardOptions
from simvtp.models.common.layers import Block, KeepScales, merge_heads


def build_encoder(config: SimVTPConfig) -> Encoder | TwoEncoders:
    """Returns the encoder of the pre-training model, by `config.encoders`."""
    return TwoEncoders(config) if config.encoders == "two" else Encoder(config)


def modality_encoder(encoder: Encoder | TwoEncoders, modality: Literal["video", "text"]) -> Encoder:
    """Returns the encoder of one modality alone; the unified encoder serves both."""
    return encoder if isinstance(encoder, Encoder) else cast(Encoder, getattr(encoder, modality))


class TwoEncoders(nn.Module):
    """A video encoder and a text encoder that attend to one another in a pair."""

    def __init__(self, config: SimVTPConfig) -> None:
        super().__init__()
        self.video = Encoder(config)
        self.text = Encoder(config)
        self.fusion_start = config.depth - (config.fusion_blocks or config.depth)

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        text_start: int | None = None,
        options: ForwardOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """Returns tokens [B, S, D] encoded.

        They are video without `attention_mask` (bool [B, S], False at padding), text with it, and a
        pair with `text_start` as well, the position where its text begins.
        """
        if attention_mask is None:
            return self.video(tokens, options=options)
        if text_start is None:
            return self.text(tokens, attention_mask, options=options)
        video, text = tokens[:, :text_start], tokens[:, text_start:]
        blocks = zip(_blocks(self.video), _blocks(self.text), strict=True)
        for number, (left, right) in enumerate(blocks):
            scales = _draw(left, video, options), _draw(right, text, options)
            fused = number >= self.fusion_start
            inputs = (left, right, video, text, attention_mask, scales, fused)
            if options.gradient_checkpointing and torch.is_grad_enabled():
                video, text = checkpoint(_block_pair, *inputs, use_reentrant=False)
            else:
                video, text = _block_pair(*inputs)
        return torch.cat([self.video.norm(video), self.text.norm(text)], dim=1)

    def forward_many(
        self, sequences: Sequence[TokenSequence], options: ForwardOptions = DEFAULT_OPTIONS
    ) -> list[Tensor]:
        """Returns the encoded tokens of several sequences, one call each."""
        return [self(*sequence, options) for sequence in sequences]


def _blocks(encoder: Encoder) -> Iterable[Block]:
    return cast(Iterable[Block], encoder.blocks)


def _draw(block: Block, x: Tensor, options: ForwardOptions) -> KeepScales:
    draw = block.drop_path.draw
    return draw(x, options.batch_slice), draw(x, options.batch_slice)


def _block_pair(
    left: Block,
    right: Block,
    video: Tensor,
    text: Tensor,
    attention_mask: Tensor,
    scales: tuple[KeepScales, KeepScales],
    fused: bool,
) -> tuple[Tensor, Tensor]:
    """Runs one block of each modality over a pair; `attention_mask` bool [B, S] of both."""
    count = video.shape[1]
    key_mask = attention_mask[:, None, None, :]
    if not fused:
        return left(video, None, scales[0]), right(text, key_mask[..., count:], scales[1])
    sides = ((left, video), (right, text))
    projected = [block.attn.project(block.norm1(x)) for block, x in sides]
    q, k, v = (torch.cat(parts, dim=2) for parts in zip(*projected, strict=True))
    mixed = merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask))  # [B, S, D]
    outputs = []
    parts = (mixed[:, :count], mixed[:, count:])
    for (block, x), part, (first, second) in zip(sides, parts, scales, strict=True):
        x = x + block.drop_path(block.attn.proj(part), first)
        outputs.append(x + block.drop_path(block.mlp(block.norm2(x)), second))
    return outputs[0], outputs[1]
