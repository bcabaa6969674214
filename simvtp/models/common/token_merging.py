"""Token merging: visible tubes that look alike go through the encoder as one token.

After ToMe (arXiv 2210.09461), from its description; details are ours. Tubes are split like the
squares of a chess board over time, height and width, so that the neighbours of a tube are all of
the other colour. Each white tube names the black one whose bytes differ least from its own, and the
closest of these pairs are merged. ToMe compares keys inside each block and gives a merged token
more weight in the attention; here bytes are compared once, before the encoder, and no weights are
changed. So the groups are the same on every device, in every precision, with any weights and
however the batch is split.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simvtp.config.model_config import SimVTPConfig
from simvtp.models.common.layers import gather_tokens


def merged_count(visible: int, ratio: float) -> int:
    """Returns how many of `visible` tubes are merged into another.

    It is round(ratio * visible), halves up, at most every other tube.
    """
    return min(visible // 2, int(ratio * visible + 0.5))


def merge_groups(tubes: Tensor, visible: Tensor, config: SimVTPConfig) -> Tensor:
    """Returns the token that each visible tube is merged into.

    Among equally similar tubes the nearest in the grid is taken, then the first: no tie is left
    that devices could resolve differently.

    Args:
        tubes: uint8 [B, V, P], the visible ones.
        visible: int64 [B, V], their positions in the grid.

    Returns:
        int64 [B, V], 0 .. V - merged - 1, ascending over the tubes that stay.
    """
    batch, count = visible.shape
    _, height, width = config.grid
    slot, row = visible // (height * width), visible // width % height
    position = torch.stack([slot, row, visible % width], dim=-1)  # [B, V, 3]
    by_colour = (position.sum(dim=-1) % 2).argsort(dim=1, stable=True)
    # [B, V/2] each, of fixed size for every mask
    white, black = by_colour[:, : count // 2], by_colour[:, count // 2 :]
    values = tubes.double()  # sums of squares of bytes are exact
    one, other = gather_tokens(values, white), gather_tokens(values, black)
    norms = one.square().sum(-1)[:, :, None] + other.square().sum(-1)[:, None]
    difference = norms - 2 * one @ other.transpose(1, 2)  # [B, V/2, V/2]
    from_white, to_black = gather_tokens(position, white), gather_tokens(position, black)
    steps = (from_white[:, :, None] - to_black[:, None]).abs().sum(dim=-1)
    # all different in a row: difference, then distance in the grid, then index
    order = difference.round().long() * (sum(config.grid) + 1) + steps
    order = order * count + black[:, None]
    least, nearest = order.min(dim=2)
    closest = (least * count + white).argsort(dim=1)[
        :, : merged_count(count, config.token_merge_ratio)
    ]
    own = torch.arange(count, device=visible.device)
    target = black.gather(1, nearest.gather(1, closest))
    into = own.repeat(batch, 1).scatter(1, white.gather(1, closest), target)
    return ((into == own).cumsum(dim=1) - 1).gather(1, into)


def merge(tokens: Tensor, groups: Tensor, count: int) -> Tensor:
    """Returns the mean [B, count, D] of the tokens [B, V, D] of each group (int64 [B, V]).

    It is a matrix product, so that no order of summation is left open.
    """
    numbers = torch.arange(count, device=groups.device)
    member = (groups[:, None] == numbers[:, None]).to(tokens.dtype)  # [B, count, V]
    return (member / member.sum(dim=2, keepdim=True)) @ tokens


def unmerge(tokens: Tensor, groups: Tensor | None) -> Tensor:
    """Returns for each tube the token it was merged into: [B, G, D] -> [B, V, D]."""
    return tokens if groups is None else gather_tokens(tokens, groups)
