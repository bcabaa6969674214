"""Transformer blocks, the fixed position table, and the gathering of tokens.

Shapes: B batch, S tokens of a sequence, D width. The block is the one of ViT and VideoMAE (method
notes 1.3): pre-norm, biases on queries and values but not on keys, GELU, LayerNorm with eps 1e-6,
no layer scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simvtp.models.common.forward_options import (
    DEFAULT_OPTIONS,
    BatchSlice,
    ForwardOptions,
    per_sample_uniform,
)

# released behaviour; transformers' VideoMAE configs say 1e-12, and its decoder norm has 1e-5
BLOCK_NORM_EPS = 1e-6

KeepScales = tuple[Tensor | None, Tensor | None]  # drop path of the two branches of a block


def sine_cosine_table(positions: int, width: int) -> Tensor:
    """Returns the fixed 1-D position table [positions, width], float32 (method notes 1.1).

    angle = position / 10000^(2 * floor(j / 2) / width), sine at even j, cosine at odd j. Computed
    in float64 and rounded once.
    """
    return _sine_cosine(positions, width, 10000.0)


def separable_table(grid: tuple[int, int, int], width: int) -> Tensor:
    """Returns fixed positions [T * H * W, width] in (t, h, w) order, float32 (ours).

    A third of the width (rounded down to an even number) for each of h and w, the rest for t; each
    part is a sine-cosine table of its axis. In the 1-D table of all tubes, the tube above is no
    nearer than any other tube a row away; here neighbours along each axis have similar positions.
    The longest period is about sixty times the longest axis, in place of 10000 * 2 pi.
    """
    across = width // 3 // 2 * 2
    widths = (width - 2 * across, across, across)
    base = 10.0 * max(grid)
    parts = []
    for axis, (length, part) in enumerate(zip(grid, widths, strict=True)):
        shape = [1, 1, 1, part]
        shape[axis] = length
        parts.append(_sine_cosine(length, part, base).view(shape).expand(*grid, part))
    return torch.cat(parts, dim=-1).flatten(0, 2)


def _sine_cosine(positions: int, width: int, base: float) -> Tensor:
    j = torch.arange(width, dtype=torch.float64, device="cpu")
    position = torch.arange(positions, dtype=torch.float64, device="cpu")
    angle = position[:, None] / base ** (2 * (j // 2) / width)
    return torch.where(j % 2 == 0, angle.sin(), angle.cos()).float()


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Returns the tokens `index` [B, S'] of `tokens` [B, S, ...], for each sample its own.

    One index_select over the flattened tokens, which is several times faster than gather with an
    expanded index.

    Returns:
        [B, S', ...].
    """
    batch, length = tokens.shape[:2]
    start = torch.arange(batch, device=index.device)[:, None] * length
    flat = tokens.flatten(0, 1).index_select(0, (index + start).flatten())
    return flat.unflatten(0, index.shape)


class DropPath(nn.Module):
    """Stochastic depth: leaves out a residual branch for random samples in training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def draw(self, x: Tensor, batch_slice: BatchSlice | None) -> Tensor | None:
        """Returns the scale [B, 1, 1] of the branch of each sample of x [B, ...].

        It is 0 or 1 / (1 - rate); None stands for 1 everywhere.
        """
        if self.rate == 0 or not self.training:
            return None
        noise = per_sample_uniform(x.shape[0], (1, 1), batch_slice, x.device)
        return (noise >= self.rate) / (1 - self.rate)

    def forward(self, branch: Tensor, scale: Tensor | None) -> Tensor:
        return branch if scale is None else branch * scale.to(branch.dtype)


class DropTokens(nn.Module):
    """Keeps only a random part of the tokens of each sample in training (ours).

    It is cheaper, and as in masked pre-training.
    """

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def draw(
        self, samples: int, tokens: int, batch_slice: BatchSlice | None, device: torch.device
    ) -> Tensor | None:
        """Returns the indices int64 [samples, V] of the kept tokens, ascending; None keeps all."""
        if self.ratio == 0 or not self.training:
            return None
        noise = per_sample_uniform(samples, (tokens,), batch_slice, device)
        return noise.argsort(dim=1)[:, : tokens - int(self.ratio * tokens)].sort(dim=1).values


class PackedSequence(NamedTuple):
    """A batch of sequences within a packed tensor [R, D] that holds the tokens of several.

    Attributes:
        samples: number of sequences.
        length: tokens of each sequence, padding included.
        key_mask: bool [samples, 1, 1, length], True where a token may be attended to; None for all.
        positions: int64 [r], the tokens of the flattened sequences that are in the packed tensor;
            None for all. The others are padding.
    """

    samples: int
    length: int
    key_mask: Tensor | None
    positions: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens in the packed tensor."""
        return self.samples * self.length if self.positions is None else self.positions.shape[0]

    def unpack(self, packed: Tensor) -> Tensor:
        """Returns packed tokens [r, D] as [samples, length, D], with 0 at padding left out."""
        if self.positions is not None:
            zeros = packed.new_zeros(self.samples * self.length, packed.shape[-1])
            packed = zeros.index_copy(0, self.positions, packed)
        return packed.unflatten(0, (self.samples, self.length))

    def pack(self, sequences: Tensor) -> Tensor:
        """Returns sequences [samples, length, D] as packed tokens [r, D]."""
        flat = sequences.flatten(0, 1)
        return flat if self.positions is None else flat.index_select(0, self.positions)


class FusedAttention(nn.Module):
    """Base class of the attentions: one fused projection, biases on queries and values only."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def fused_bias(self) -> Tensor:
        """Returns the bias [3D] of the fused projection; that of the keys is 0."""
        return torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Returns queries, keys and values of x [B, S, D], each [B, heads, S, D / heads]."""
        return self.split_heads(F.linear(x, self.qkv.weight, self.fused_bias()))

    def split_heads(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Splits projected tokens [B, S, nD] into n tensors [B, heads, S, D / heads]."""
        parts = qkv.shape[-1] // self.q_bias.shape[0]
        return qkv.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(values: Tensor) -> Tensor:
    """Returns values [B, heads, S, D / heads] as [B, S, D]."""
    return values.transpose(1, 2).flatten(2)


class Attention(FusedAttention):
    """Multi-head self-attention."""

    def forward(
        self,
        x: Tensor,
        key_mask: Tensor | None,
        packing: tuple[PackedSequence, ...] = (),
        query_start: int = 0,
    ) -> Tensor:
        """Attends within each sequence.

        Args:
            x: [B, S, D]; with `packing` [R, D], the tokens of all these sequences in a row.
            key_mask: bool [B, 1, 1, S], True where a token may be attended to; None for all.
            packing: the sequences of a packed tensor, each attending to itself alone.
            query_start: only the tokens from there on are queries.

        Returns:
            [B, S - query_start, D], or [R, D].
        """
        if packing:
            return self._packed(x, packing)
        if query_start:
            return self._late_queries(x, key_mask, query_start)
        return self.proj(self._attend(F.linear(x, self.qkv.weight, self.fused_bias()), key_mask))

    def _late_queries(self, x: Tensor, key_mask: Tensor | None, query_start: int) -> Tensor:
        width, bias = self.q_bias.shape[0], self.fused_bias()
        queries = F.linear(x[:, query_start:], self.qkv.weight[:width], self.q_bias)
        (q,) = self.split_heads(queries)
        k, v = self.split_heads(F.linear(x, self.qkv.weight[width:], bias[width:]))
        return self.proj(merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask)))

    def _packed(self, x: Tensor, packing: tuple[PackedSequence, ...]) -> Tensor:
        qkv = F.linear(x, self.qkv.weight, self.fused_bias())
        parts = qkv.split([sequence.tokens for sequence in packing])
        values = [
            sequence.pack(self._attend(sequence.unpack(part), sequence.key_mask))
            for part, sequence in zip(parts, packing, strict=True)
        ]
        return self.proj(values[0] if len(values) == 1 else torch.cat(values))

    def _attend(self, qkv: Tensor, key_mask: Tensor | None) -> Tensor:
        """Returns the mixed values [B, S, D] of projected tokens [B, S, 3D]."""
        q, k, v = self.split_heads(qkv)
        return merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask))


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class TransformerBlock(nn.Module):
    """Base class of the blocks: the unit of sharding and of gradient checkpointing."""


class Block(TransformerBlock):
    """Pre-norm attention and MLP, each with a residual."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=BLOCK_NORM_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=BLOCK_NORM_EPS)
        self.mlp = Mlp(width, round(width * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        x: Tensor,
        key_mask: Tensor | None,
        scales: KeepScales = (None, None),
        packing: tuple[PackedSequence, ...] = (),
        query_start: int = 0,
    ) -> Tensor:
        """Returns x after the block; the arguments are those of `Attention`.

        `scales` is what `DropPath.draw` gave for the two branches; it is drawn outside, so that a
        compiled block sees tensors only.
        """
        residual = x[:, query_start:] if query_start else x
        attended = self.attn(self.norm1(x), key_mask, packing, query_start)
        x = residual + self.drop_path(attended, scales[0])
        return x + self.drop_path(self.mlp(self.norm2(x)), scales[1])


def drop_path_rates(drop_path: float, depth: int) -> list[float]:
    """Returns the rate of each of `depth` blocks, rising linearly from 0 to `drop_path`."""
    return [drop_path * i / max(1, depth - 1) for i in range(depth)]


def run_block(block: TransformerBlock, options: ForwardOptions, *inputs: Any) -> Tensor:
    """Returns block(*inputs), recomputed in the backward pass with gradient checkpointing."""
    if options.gradient_checkpointing and torch.is_grad_enabled():
        return cast(Tensor, checkpoint(block, *inputs, use_reentrant=False))
    return cast(Tensor, block(*inputs))


class Blocks(nn.ModuleList):
    """`depth` blocks in sequence."""

    def __init__(
        self, width: int, depth: int, heads: int, mlp_ratio: float, drop_path: float = 0.0
    ) -> None:
        rates = drop_path_rates(drop_path, depth)
        super().__init__([Block(width, heads, mlp_ratio, rate) for rate in rates])

    def forward(
        self,
        x: Tensor,
        attention_mask: Tensor | None = None,
        options: ForwardOptions = DEFAULT_OPTIONS,
        query_start: int = 0,
    ) -> Tensor:
        """Returns x [B, S, D] after all blocks.

        Args:
            attention_mask: bool [B, S], False at padding; None where there is none.
            query_start: only the tokens from there on come back, [B, S - query_start, D]; the last
                block computes no others.
        """
        key_mask = None if attention_mask is None else attention_mask[:, None, None, :]
        for i, block in enumerate(cast(Iterator[Block], iter(self))):
            draw = block.drop_path.draw
            scales = draw(x, options.batch_slice), draw(x, options.batch_slice)
            start = query_start if i == len(self) - 1 else 0
            x = run_block(block, options, x, key_mask, scales, (), start)
        return x if len(self) else x[:, query_start:]

    def forward_many(
        self,
        sequences: Sequence[tuple[Tensor, Tensor | None]],
        options: ForwardOptions = DEFAULT_OPTIONS,
        pack: bool = False,
    ) -> list[Tensor]:
        """Runs several (x, attention mask) of any lengths at once, without drop path.

        Every linear layer works on the tokens of all. With `pack`, padding is left out everywhere
        but inside the attention, and comes back as zeros.
        """
        packing = tuple(_packed_sequence(x, mask, pack) for x, mask in sequences)
        parts = [sequence.pack(x) for sequence, (x, _) in zip(packing, sequences, strict=True)]
        x = parts[0] if len(parts) == 1 else torch.cat(parts)
        for block in cast(Iterator[Block], iter(self)):
            x = run_block(block, options, x, None, (None, None), packing, 0)
        outputs = x.split([sequence.tokens for sequence in packing])
        return [sequence.unpack(part) for part, sequence in zip(outputs, packing, strict=True)]


def _packed_sequence(x: Tensor, attention_mask: Tensor | None, pack: bool) -> PackedSequence:
    if attention_mask is None:
        return PackedSequence(x.shape[0], x.shape[1], None)
    positions = attention_mask.flatten().nonzero()[:, 0] if pack else None
    return PackedSequence(x.shape[0], x.shape[1], attention_mask[:, None, None, :], positions)
