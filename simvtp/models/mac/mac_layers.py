"""Attention divided over space and time, and the blocks of MAC's two towers (method notes 2).

Shapes: B batch, T time slots, n visible patches of a slot, S = T * n, D width. Tokens of a video
are [CLS], then slot by slot [B, 1 + S, D]. CLS attends to everything; a patch attends to CLS and to

    space   the visible patches of its own slot
    time    `rank`     the patches of the same rank among the visible ones of each slot
            `nearest`  in each slot the visible patch nearest to its own position
            `all`      every visible patch of the clip

Where every slot shows the same positions (no mask, `tube`, `block`), `rank` and `nearest` are the
same and are Frozen's time attention. Where each slot shows its own positions, the published text
does not say what happens: the three ways are our reading, and docs/mac.md says which one was chosen
by measurement.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simvtp.models.common.embeddings import TEXT_NORM_EPS
from simvtp.models.common.forward_options import (
    DEFAULT_OPTIONS,
    ForwardOptions,
    per_sample_uniform,
)
from simvtp.models.common.layers import (
    BLOCK_NORM_EPS,
    Attention,
    DropPath,
    FusedAttention,
    KeepScales,
    Mlp,
    TransformerBlock,
    drop_path_rates,
    merge_heads,
    run_block,
)


class DividedAttention(FusedAttention):
    """Attention of one kind over the tokens of a video.

    It has the weights of a plain attention, but each patch sees only its neighbours.
    """

    def forward(
        self,
        x: Tensor,
        slots: int = 1,
        kind: str = "space",
        partners: Tensor | None = None,
        cls_bias: float = 0.0,
    ) -> Tensor:
        """Returns x [B, 1 + S, D] after the attention.

        Args:
            slots: T.
            kind: `space`, `rank`, `nearest` or `all`, see above.
            partners: for `nearest`: int64 [B, S * T], the patches (0 .. S - 1) that each patch
                attends to.
            cls_bias: added to the score of CLS for the query of CLS.
        """
        q, k, v = self.project(x)  # [B, heads, 1 + S, d]
        if kind == "all":
            return self.proj(merge_heads(F.scaled_dot_product_attention(q, k, v)))
        bias = F.pad(q.new_full((1, 1, 1, 1), cls_bias), (0, k.shape[2] - 1)) if cls_bias else None
        cls = F.scaled_dot_product_attention(q[:, :, :1], k, v, attn_mask=bias)
        if kind == "nearest":
            assert partners is not None
            patches = _attend_nearest(q, k, v, slots, partners)
        else:
            patches = _attend_in_groups(q, k, v, slots, over_time=kind != "space")
        return self.proj(merge_heads(torch.cat([cls, patches], dim=2)))


def _attend_in_groups(q: Tensor, k: Tensor, v: Tensor, slots: int, over_time: bool) -> Tensor:
    """Returns the values [B, heads, S, d] of the patches, from their group and from CLS."""
    batch, heads, _, width = q.shape

    def grouped(x: Tensor, cls: Tensor | None = None) -> Tensor:
        """Returns patches by group [B, heads * groups, members, d], with CLS first in each."""
        groups = x[:, :, 1:].unflatten(2, (slots, -1))  # [B, heads, T, n, d]
        if over_time:
            groups = groups.transpose(2, 3)
        if cls is not None:
            copies = cls[:, :, None].expand(-1, -1, groups.shape[2], -1, -1)
            groups = torch.cat([copies, groups], dim=3)
        return groups.flatten(1, 2)

    keys, values = grouped(k, k[:, :, :1]), grouped(v, v[:, :, :1])
    mixed = F.scaled_dot_product_attention(grouped(q), keys, values).unflatten(1, (heads, -1))
    return (mixed.transpose(2, 3) if over_time else mixed).reshape(batch, heads, -1, width)


def _attend_nearest(q: Tensor, k: Tensor, v: Tensor, slots: int, partners: Tensor) -> Tensor:
    """Returns the values [B, heads, S, d] of the patches, from CLS and the nearest ones."""
    batch, heads, _, width = q.shape
    index = partners[:, None, :, None].expand(-1, heads, -1, width)

    def chosen(x: Tensor) -> Tensor:
        """Returns [B, heads, S, T + 1, d]: CLS, then the partner in each slot."""
        others = x[:, :, 1:].gather(2, index).unflatten(2, (-1, slots))
        copies = x[:, :, None, :1].expand(-1, -1, others.shape[2], -1, -1)
        return torch.cat([copies, others], dim=3)

    keys, values = chosen(k).flatten(1, 2), chosen(v).flatten(1, 2)  # [B, heads * S, T + 1, d]
    queries = q[:, :, 1:].reshape(batch, -1, 1, width)
    return F.scaled_dot_product_attention(queries, keys, values).view(batch, heads, -1, width)


def nearest_partners(visible: Tensor, slots: int, grid: tuple[int, int]) -> Tensor:
    """Returns for each visible patch the nearest visible one in each slot; ties go to the first.

    Args:
        visible: int64 [B, S], slot by slot, indices of patches in (t, h, w) order.
        grid: positions along height and width.

    Returns:
        int64 [B, S * T], positions 0 .. S - 1 in `visible`.
    """
    height, width = grid
    position = visible % (height * width)
    row, column = position // width, position % width
    rows, columns = row[:, :, None] - row[:, None], column[:, :, None] - column[:, None]
    distance = rows**2 + columns**2  # [B, S, S]
    each = visible.shape[1] // slots
    nearest = distance.unflatten(2, (slots, each)).argmin(dim=3)  # [B, S, T], within the slot
    return (nearest + torch.arange(slots, device=visible.device) * each).flatten(1)


class DividedBlock(TransformerBlock):
    """Time attention, then space attention on the sum, then the MLP (Frozen's order).

    The residual of space is the block's *input*. With `cls_per_frame`, CLS counts itself once for
    each frame where it attends over space (ours). Without, as in Frozen, each further frame takes
    weight from CLS itself, and a video of identical frames has not quite the features of the image
    model.
    """

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, drop_path: float, cls_per_frame: bool = True
    ) -> None:
        super().__init__()
        self.cls_per_frame = cls_per_frame
        self.norm1 = nn.LayerNorm(width, eps=BLOCK_NORM_EPS)
        self.attn = DividedAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=BLOCK_NORM_EPS)
        self.mlp = Mlp(width, round(width * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        self.time_norm = nn.LayerNorm(width, eps=BLOCK_NORM_EPS)
        self.time_attn = DividedAttention(width, heads)

    def forward(
        self,
        x: Tensor,
        slots: int,
        kind: str,
        partners: Tensor | None,
        scales: KeepScales = (None, None),
    ) -> Tensor:
        """Returns x [B, 1 + S, D]; arguments as for `DividedAttention`, `scales` as for `Block`."""
        timed = x + self.time_attn(self.time_norm(x), slots, kind, partners)
        cls_bias = math.log(slots) if self.cls_per_frame else 0.0
        x = x + self.drop_path(self.attn(self.norm1(timed), slots, cls_bias=cls_bias), scales[0])
        return x + self.drop_path(self.mlp(self.norm2(x)), scales[1])


class DividedBlocks(nn.ModuleList):
    """`depth` divided blocks in sequence; drop path as in `Blocks`."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        drop_path: float = 0.0,
        cls_per_frame: bool = True,
    ) -> None:
        rates = drop_path_rates(drop_path, depth)
        super().__init__(
            [DividedBlock(width, heads, mlp_ratio, rate, cls_per_frame) for rate in rates]
        )

    def divided_blocks(self) -> Iterator[DividedBlock]:
        """Iterates over the blocks, typed."""
        return cast(Iterator[DividedBlock], iter(self))

    def forward(
        self,
        x: Tensor,
        slots: int,
        kind: str,
        partners: Tensor | None = None,
        options: ForwardOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """Returns x [B, 1 + S, D]; arguments as for `DividedAttention`."""
        for block in self.divided_blocks():
            draw = block.drop_path.draw
            scales = draw(x, options.batch_slice), draw(x, options.batch_slice)
            x = run_block(block, options, x, slots, kind, partners, scales)
        return x


class TextAttention(Attention):
    """Self-attention with dropout of its weights, as DistilBERT has it."""

    def forward_dropped(self, x: Tensor, key_mask: Tensor, keep: Tensor) -> Tensor:
        """Returns x [B, L, D] after attention whose weights are scaled by `keep` [B, heads, L, L].

        key_mask is bool [B, 1, 1, L].
        """
        q, k, v = self.project(x)
        scores = (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
        weights = scores.masked_fill(~key_mask, -math.inf).softmax(dim=-1)
        return self.proj(merge_heads((weights * keep.to(weights.dtype)) @ v))


class PostNormBlock(TransformerBlock):
    """Attention and MLP in BERT's order: each norm comes after its residual, with BERT's eps.

    Dropout is where DistilBERT has it: on the weights of attention and after the MLP.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=TEXT_NORM_EPS)
        self.attn = TextAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=TEXT_NORM_EPS)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor, key_mask: Tensor, scales: KeepScales = (None, None)) -> Tensor:
        """Returns x [B, L, D].

        Args:
            key_mask: bool [B, 1, 1, L].
            scales: of the weights of attention [B, heads, L, L] and of the MLP's output [B, L, D],
                drawn by dropout; None stands for 1 everywhere.
        """
        weights, output = scales
        if weights is None:
            attended = self.attn(x, key_mask)
        else:
            attended = self.attn.forward_dropped(x, key_mask, weights)
        x = self.norm1(x + attended)
        changed = self.mlp(x)
        return self.norm2(x + (changed if output is None else changed * output.to(changed.dtype)))


class PostNormBlocks(nn.ModuleList):
    """`depth` post-norm blocks in sequence, with MLPs of width `hidden`."""

    def __init__(
        self, width: int, depth: int, heads: int, hidden: int, dropout: float = 0.0
    ) -> None:
        super().__init__([PostNormBlock(width, heads, hidden) for _ in range(depth)])
        self.heads, self.dropout = heads, dropout

    def forward(
        self, x: Tensor, attention_mask: Tensor, options: ForwardOptions = DEFAULT_OPTIONS
    ) -> Tensor:
        """Returns x [B, L, D]; attention_mask bool [B, L], False at padding."""
        key_mask = attention_mask[:, None, None, :]
        for block in cast(Iterator[PostNormBlock], iter(self)):
            x = run_block(block, options, x, key_mask, self._draw(x, options))
        return x

    def _draw(self, x: Tensor, options: ForwardOptions) -> KeepScales:
        """Returns the scales of a block by dropout.

        They are drawn outside of it, so that a recomputation in the backward pass has the same.
        """
        if self.dropout == 0 or not self.training:
            return None, None
        batch, length, width = x.shape
        shapes = (self.heads, length, length), (length, width)
        weights, output = (
            (per_sample_uniform(batch, shape, options.batch_slice, x.device) >= self.dropout)
            / (1 - self.dropout)
            for shape in shapes
        )
        return weights, output
