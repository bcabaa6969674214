"""Transformer blocks, the fixed position table, and the initial weights.

Shapes: B batch, S tokens of a sequence, D width. The block is the one of ViT and VideoMAE (method
notes 1.3): pre-norm, biases on queries and values but not on keys, GELU, LayerNorm with eps 1e-6,
no layer scale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# released behaviour; transformers' VideoMAE configs say 1e-12, and its decoder norm has 1e-5
BLOCK_NORM_EPS = 1e-6
INITIAL_STD = 0.02  # embeddings and mask token: BERT's and VideoMAE's value


def sine_cosine_table(positions: int, width: int) -> Tensor:
    """Fixed 1-D position table [positions, width], float32 (method notes 1.1).

    angle = position / 10000^(2 * floor(j / 2) / width), sine at even j, cosine at odd j. Computed
    in float64 and rounded once.
    """
    j = torch.arange(width, dtype=torch.float64, device="cpu")
    position = torch.arange(positions, dtype=torch.float64, device="cpu")
    angle = position[:, None] / 10000 ** (2 * (j // 2) / width)
    return torch.where(j % 2 == 0, angle.sin(), angle.cos()).float()


def take(rows: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B, S'] of `rows` [B, S, ...], each sample its own: [B, S', ...].

    One index_select over the flattened rows, which is several times faster than gather with an
    expanded index.
    """
    batch, length = rows.shape[:2]
    start = torch.arange(batch, device=index.device)[:, None] * length
    return rows.flatten(0, 1).index_select(0, (index + start).flatten()).unflatten(0, index.shape)


@dataclass(frozen=True)
class Place:
    """Where the samples of a micro-batch stand in the global batch: `first` .. `first + count - 1`
    of `total`.
    """

    first: int
    count: int
    total: int


def uniform_rows(
    rows: int, width: tuple[int, ...], place: Place | None, device: torch.device
) -> Tensor:
    """Uniform numbers [rows, *width] for dropout.

    With a place, they are drawn for the whole global batch and this micro-batch keeps its own: what
    a sample gets then depends on the seed and on the sample alone, not on how the batch is cut over
    ranks and micro-batches. `rows` may be a multiple of the samples.
    """
    if place is None:
        return torch.rand(rows, *width, device=device)
    drawn = torch.rand(rows // place.count, place.total, *width, device=device)
    return drawn[:, place.first : place.first + place.count].flatten(0, 1)


def set_place(model: nn.Module, place: Place | None) -> None:
    """Tell every module of `model` that draws random numbers which samples it is about to see;
    None: some samples or other.
    """
    for module in model.modules():
        if isinstance(module, Drawing):
            module.place = place


class Drawing(nn.Module):
    """A module that draws random numbers for each sample while training."""

    place: Place | None = None


class DropPath(Drawing):
    """Leaves out a residual branch for a random share of the samples while training (stochastic
    depth).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def draw(self, x: Tensor) -> Tensor | None:
        """Factors [B, 1, 1] for the branch of each sample of x [B, ...]: 0, or 1 / (1 - rate).
        None: leave it as it is.
        """
        if self.rate == 0 or not self.training:
            return None
        return (uniform_rows(x.shape[0], (1, 1), self.place, x.device) >= self.rate) / (
            1 - self.rate
        )

    def forward(self, branch: Tensor, factor: Tensor | None) -> Tensor:
        return branch if factor is None else branch * factor.to(branch.dtype)


class DropTokens(Drawing):
    """While training, leaves only a random share of the tokens of each sample (ours: cheaper, and
    as in masked pre-training).
    """

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def kept(self, samples: int, tokens: int, device: torch.device) -> Tensor | None:
        """Indices int64 [samples, V] of the tokens that stay, ascending; None: all of them."""
        if self.ratio == 0 or not self.training:
            return None
        luck = uniform_rows(samples, (tokens,), self.place, device)
        return luck.argsort(dim=1)[:, : tokens - int(self.ratio * tokens)].sort(dim=1).values


class Row(NamedTuple):
    """`samples` sequences of up to `length` tokens each, among the rows of several such; keys as
    for `Attention`, or None.

    With `places`, int64 [r], only the tokens at these places of the flattened sequences are there:
    padding is left out.
    """

    samples: int
    length: int
    keys: Tensor | None
    places: Tensor | None = None

    @property
    def tokens(self) -> int:
        """How many rows these sequences take."""
        return self.samples * self.length if self.places is None else self.places.shape[0]

    def padded(self, rows: Tensor) -> Tensor:
        """Rows [r, D] -> [samples, length, D], 0 at padding that was left out."""
        if self.places is not None:
            rows = rows.new_zeros(self.samples * self.length, rows.shape[-1]).index_copy(
                0, self.places, rows
            )
        return rows.unflatten(0, (self.samples, self.length))

    def packed(self, sequences: Tensor) -> Tensor:
        """[samples, length, D] -> rows [r, D]."""
        rows = sequences.flatten(0, 1)
        return rows if self.places is None else rows.index_select(0, self.places)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection; biases on q and v only."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, keys: Tensor | None, rows: tuple[Row, ...] = (), first: int = 0
    ) -> Tensor:
        """x [B, S, D]; keys bool [B, 1, 1, S], True where a token may be attended to, or None for
        all.

        With `rows`, x is [R, D], the tokens of all these sequences one after the other, each
        attending to its own sequence. With `first`, only the tokens from there on ask: [B, S -
        first, D] comes back.
        """
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        if first:
            width = self.q_bias.shape[0]
            q = (
                F.linear(x[:, first:], self.qkv.weight[:width], self.q_bias)
                .unflatten(-1, (self.heads, -1))
                .transpose(1, 2)
            )
            kv = F.linear(x, self.qkv.weight[width:], bias[width:]).unflatten(
                -1, (2, self.heads, -1)
            )
            k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
            return self.proj(mixed.transpose(1, 2).flatten(2))
        qkv = F.linear(x, self.qkv.weight, bias)
        if not rows:
            return self.proj(self._mix(qkv, keys))
        parts = qkv.split([row.tokens for row in rows])
        values = [
            row.packed(self._mix(row.padded(part), row.keys))
            for part, row in zip(parts, rows, strict=True)
        ]
        return self.proj(values[0] if len(values) == 1 else torch.cat(values))

    def _mix(self, qkv: Tensor, keys: Tensor | None) -> Tensor:
        """Projected [B, S, 3D] -> values, mixed [B, S, D]."""
        q, k, v = (
            qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        )  # each [B, heads, S, D/heads]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=keys).transpose(1, 2).flatten(2)


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
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
        keys: Tensor | None,
        kept: tuple[Tensor | None, Tensor | None] = (None, None),
        rows: tuple[Row, ...] = (),
        first: int = 0,
    ) -> Tensor:
        """`kept`: what `DropPath.draw` gave for the two branches (drawn outside, so that a compiled
        block sees tensors only); the others as for `Attention`."""
        x = (x[:, first:] if first else x) + self.drop_path(
            self.attn(self.norm1(x), keys, rows, first), kept[0]
        )
        return x + self.drop_path(self.mlp(self.norm2(x)), kept[1])


class Blocks(nn.ModuleList):
    """`depth` blocks in a row. The drop-path rate rises linearly from 0 to `drop_path`.

    Set `gradient_checkpointing` to keep only the input of each block for the backward pass.
    """

    def __init__(
        self, width: int, depth: int, heads: int, mlp_ratio: float, drop_path: float = 0.0
    ) -> None:
        rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]
        super().__init__([Block(width, heads, mlp_ratio, rate) for rate in rates])
        self.gradient_checkpointing = False

    def forward(self, x: Tensor, keys: Tensor | None = None, first: int = 0) -> Tensor:
        """x [B, S, D]; keys bool [B, S], False at padding, or None where there is none.

        With `first`, only the tokens from there on come back, [B, S - first, D]: the last block
        works on no others.
        """
        mask = None if keys is None else keys[:, None, None, :]
        for i, block in enumerate(cast(Iterator[Block], iter(self))):
            kept = block.drop_path.draw(x), block.drop_path.draw(x)
            x = self._run(block, x, mask, kept, (), first if i == len(self) - 1 else 0)
        return x if len(self) else x[:, first:]

    def together(
        self, sequences: Sequence[tuple[Tensor, Tensor | None]], pack: bool = False
    ) -> list[Tensor]:
        """The same for several (x, keys) of any lengths at once: every linear layer works on the
        tokens of all. Without drop path.

        With `pack`, padding is left out everywhere but inside the attention, and comes back as
        zeros.
        """
        rows = tuple(
            Row(
                x.shape[0],
                x.shape[1],
                None if keys is None else keys[:, None, None, :],
                keys.flatten().nonzero()[:, 0] if pack and keys is not None else None,
            )
            for x, keys in sequences
        )
        parts = [row.packed(x) for row, (x, _) in zip(rows, sequences, strict=True)]
        x = parts[0] if len(parts) == 1 else torch.cat(parts)
        for block in cast(Iterator[Block], iter(self)):
            x = self._run(block, x, None, (None, None), rows, 0)
        return [
            row.padded(part)
            for part, row in zip(x.split([row.tokens for row in rows]), rows, strict=True)
        ]

    def _run(
        self,
        block: Block,
        x: Tensor,
        mask: Tensor | None,
        kept: tuple[Tensor | None, Tensor | None],
        rows: tuple[Row, ...],
        first: int,
    ) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            done: Tensor = checkpoint(block, x, mask, kept, rows, first, use_reentrant=False)
            return done
        result: Tensor = block(x, mask, kept, rows, first)
        return result


def set_gradient_checkpointing(model: nn.Module, on: bool) -> None:
    """Switch gradient checkpointing of every row of blocks in `model`."""
    for module in model.modules():
        if isinstance(module, Blocks):
            module.gradient_checkpointing = on


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Fill every parameter of `model` from its own generator, seeded by (seed, parameter name).

    So a parameter starts from the same values whichever other modules exist. Linear weights: Xavier
    uniform (heads: as released; the rest: VideoMAE's rule, the fused qkv counted as one matrix and
    the tube embedding as a matrix); biases 0; LayerNorm 1 and 0; embeddings and mask token: normal
    with standard deviation 0.02, cut at 0.04 (ours; BERT does not cut).
    """
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full_name = f"{path}.{name}" if path else name
            digest = hashlib.sha256(f"{seed}/{full_name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            parameter.copy_(_initial_values(module, name, parameter.shape, generator))


def _initial_values(
    module: nn.Module, name: str, shape: torch.Size, generator: torch.Generator
) -> Tensor:
    if name.endswith("bias"):
        return torch.zeros(shape)
    if isinstance(module, nn.LayerNorm):
        return torch.ones(shape)
    if isinstance(module, nn.Linear):
        return nn.init.xavier_uniform_(torch.empty(shape), generator=generator)
    return nn.init.trunc_normal_(
        torch.empty(shape),
        std=INITIAL_STD,
        a=-2 * INITIAL_STD,
        b=2 * INITIAL_STD,
        generator=generator,
    )
