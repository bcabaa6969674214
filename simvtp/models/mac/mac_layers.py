"""Attention that is divided over space and time, and the blocks of MAC's two towers (method notes
2).

Shapes: B batch, T time slots, n visible patches of a slot, S = T * n, D width. Tokens of a video
are [CLS], then slot by slot [B, 1 + S, D]. CLS attends to everything; what else a patch attends to,
beside CLS:

    space   the visible patches of its own slot
    time    `rank`     the patches of the same rank among the visible ones of each slot
            `nearest`  in each slot the visible patch that lies nearest to its own place
            `all`      every visible patch of the clip

Where every slot shows the same places (no mask, `tube`, `block`), `rank` and `nearest` are the same
and are Frozen's time attention. Where each slot shows places of its own, the published text does
not say what happens: the three ways are our reading, and docs/mac.md says which one was chosen by
measurement.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simvtp.models.common.layers import BLOCK_NORM_EPS, Attention, Block, Blocks

TEXT_NORM_EPS = 1e-12  # BERT's and DistilBERT's


class DividedAttention(Attention):
    """Attention of one kind over the tokens of a video: the weights of a plain attention, but each
    patch sees only its neighbours.
    """

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        keys: Tensor | None,
        slots: int = 1,
        kind: str = "space",
        partners: Tensor | None = None,
        cls_bias: float = 0.0,
    ) -> Tensor:
        """x [B, 1 + S, D] -> [B, 1 + S, D].

        Args:
            keys: None; a video has no padding.
            slots: T.
            kind: `space`, `rank`, `nearest` or `all`, see above.
            partners: for `nearest`: int64 [B, S * T], which patches (0 .. S - 1) each patch attends
                to.
            cls_bias: added to the score of CLS where CLS asks.
        """
        assert keys is None
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias).unflatten(
            -1, (3, self.heads, -1)
        )  # [B, 1 + S, 3, heads, d]
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, 1 + S, d]
        if kind == "all":
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            own = (
                F.pad(q.new_full((1, 1, 1, 1), cls_bias), (0, k.shape[2] - 1)) if cls_bias else None
            )
            cls = F.scaled_dot_product_attention(q[:, :, :1], k, v, attn_mask=own)
            mixed = torch.cat([cls, _patches(q, k, v, slots, kind, partners)], dim=2)
        return self.proj(mixed.transpose(1, 2).flatten(2))


def _patches(
    q: Tensor, k: Tensor, v: Tensor, slots: int, kind: str, partners: Tensor | None
) -> Tensor:
    """What the patches take from their group and from CLS: [B, heads, S, d]."""
    batch, heads, _, width = q.shape

    def grouped(x: Tensor, shared: Tensor | None = None) -> Tensor:
        """Patches in groups, with the token of CLS in front of each: [B, heads * groups, members,
        d].
        """
        groups = x[:, :, 1:].unflatten(2, (slots, -1))  # [B, heads, T, n, d]
        if kind != "space":
            groups = groups.transpose(2, 3)
        if shared is not None:
            groups = torch.cat(
                [shared[:, :, None].expand(-1, -1, groups.shape[2], -1, -1), groups], dim=3
            )
        return groups.flatten(1, 2)

    if kind == "nearest":
        return _nearest(q, k, v, slots, partners)
    mixed = F.scaled_dot_product_attention(
        grouped(q), grouped(k, k[:, :, :1]), grouped(v, v[:, :, :1])
    )
    mixed = mixed.unflatten(1, (heads, -1))
    return (mixed if kind == "space" else mixed.transpose(2, 3)).reshape(batch, heads, -1, width)


def _nearest(q: Tensor, k: Tensor, v: Tensor, slots: int, partners: Tensor | None) -> Tensor:
    assert partners is not None
    batch, heads, _, width = q.shape
    index = partners[:, None, :, None].expand(-1, heads, -1, width)

    def chosen(x: Tensor) -> Tensor:
        """[B, heads, S, T + 1, d]: CLS, then the partner in each slot."""
        others = x[:, :, 1:].gather(2, index).unflatten(2, (-1, slots))
        return torch.cat([x[:, :, None, :1].expand(-1, -1, others.shape[2], -1, -1), others], dim=3)

    keys, values = chosen(k).flatten(1, 2), chosen(v).flatten(1, 2)  # [B, heads * S, T + 1, d]
    return F.scaled_dot_product_attention(
        q[:, :, 1:].reshape(batch, -1, 1, width), keys, values
    ).view(batch, heads, -1, width)


def nearest_partners(visible: Tensor, slots: int, grid: tuple[int, int]) -> Tensor:
    """For each visible patch the nearest visible one in each slot; ties go to the first.

    visible: int64 [B, S], slot by slot, indices of patches in (t, h, w) order; grid: places along
    height and width. Returns int64 [B, S * T]: positions 0 .. S - 1 in `visible`.
    """
    height, width = grid
    place = visible % (height * width)
    row, column = place // width, place % width
    distance = (row[:, :, None] - row[:, None]) ** 2 + (
        column[:, :, None] - column[:, None]
    ) ** 2  # [B, S, S]
    each = visible.shape[1] // slots
    nearest = distance.unflatten(2, (slots, each)).argmin(dim=3)  # [B, S, T], within the slot
    return (nearest + torch.arange(slots, device=visible.device) * each).flatten(1)


class DividedBlock(Block):
    """Time attention, then space attention on the sum, then the MLP; the residual of space is the
    block's *input* (Frozen's order).

    With `cls_per_frame`, CLS counts itself once for each frame where it attends over space (ours).
    Without, as in Frozen, each further frame takes weight from CLS itself, and a video of identical
    frames has not quite the features of the image model.
    """

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, drop_path: float, cls_per_frame: bool = True
    ) -> None:
        super().__init__(width, heads, mlp_ratio, drop_path)
        self.cls_per_frame = cls_per_frame
        self.attn = DividedAttention(width, heads)
        self.time_norm = nn.LayerNorm(width, eps=BLOCK_NORM_EPS)
        self.time_attn = DividedAttention(width, heads)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        slots: int,
        kind: str,
        partners: Tensor | None,
        kept: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> Tensor:
        """x [B, 1 + S, D]; the other arguments as for `DividedAttention`; `kept` as for `Block`."""
        timed = x + self.time_attn(self.time_norm(x), None, slots, kind, partners)
        own = math.log(slots) if self.cls_per_frame else 0.0
        x = x + self.drop_path(self.attn(self.norm1(timed), None, slots, cls_bias=own), kept[0])
        return x + self.drop_path(self.mlp(self.norm2(x)), kept[1])


class DividedBlocks(Blocks):
    """`depth` divided blocks in a row; drop path and gradient checkpointing as in `Blocks`."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        drop_path: float = 0.0,
        cls_per_frame: bool = True,
    ) -> None:
        rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]
        nn.ModuleList.__init__(
            self, [DividedBlock(width, heads, mlp_ratio, rate, cls_per_frame) for rate in rates]
        )
        self.gradient_checkpointing = False

    def forward(self, x: Tensor, slots: int, kind: str, partners: Tensor | None = None) -> Tensor:  # type: ignore[override]
        for block in self:
            assert isinstance(block, DividedBlock)
            kept = block.drop_path.draw(x), block.drop_path.draw(x)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, slots, kind, partners, kept, use_reentrant=False)
            else:
                x = block(x, slots, kind, partners, kept)
        return x


class PostNormBlock(Block):
    """BERT's order: each norm comes after its residual. Norms have BERT's eps."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__(width, heads, mlp_ratio, 0.0)
        self.norm1 = nn.LayerNorm(width, eps=TEXT_NORM_EPS)
        self.norm2 = nn.LayerNorm(width, eps=TEXT_NORM_EPS)

    def forward(self, x: Tensor, keys: Tensor | None) -> Tensor:  # type: ignore[override]
        """x [B, L, D]; keys bool [B, 1, 1, L]."""
        x = self.norm1(x + self.attn(x, keys))
        return self.norm2(x + self.mlp(x))


class PostNormBlocks(Blocks):
    """`depth` such blocks in a row; gradient checkpointing as in `Blocks`."""

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float) -> None:
        nn.ModuleList.__init__(self, [PostNormBlock(width, heads, mlp_ratio) for _ in range(depth)])
        self.gradient_checkpointing = False

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:  # type: ignore[override]
        """x [B, L, D]; keys bool [B, L], False at padding."""
        mask = keys[:, None, None, :]
        for block in self:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, mask, use_reentrant=False)
            else:
                x = block(x, mask)
        return x
