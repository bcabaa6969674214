"""Visible tubes that look alike go through the encoder as one token.

After token merging (ToMe, arXiv 2210.09461), read from its description; details are ours. Tubes are
split like the squares of a chess board over time, height and width, so that the neighbours of a
tube are all of the other colour. Each white tube names the black one whose bytes differ least from
its own, and the closest of these pairs are merged. ToMe compares keys inside each block and lets a
merged token weigh more in the attention; here bytes are compared once, before the encoder, and
nothing weighs more. So what is merged is the same on every device, in every precision, with any
weights and however the batch is cut.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simvtp.config.schema import ModelConfig
from simvtp.models.common.layers import take


def merged_count(visible: int, share: float) -> int:
    """How many of `visible` tubes are merged into another: round(share * visible), halves up, at
    most every other one.
    """
    return min(visible // 2, int(share * visible + 0.5))


def merge_groups(tubes: Tensor, visible: Tensor, config: ModelConfig) -> Tensor:
    """The token that each visible tube becomes a part of: int64 [B, V], 0 .. V - merged - 1,
    ascending over those that stay.

    tubes: uint8 [B, V, P], the visible ones; visible: int64 [B, V], their places in the grid. Among
    equally similar tubes the nearest in the grid is taken, then the first: there is no tie that a
    device could break in its own way.
    """
    batch, count = visible.shape
    _, height, width = config.grid
    place = torch.stack(
        [visible // (height * width), visible // width % height, visible % width], dim=-1
    )  # [B, V, 3]
    by_colour = (place.sum(dim=-1) % 2).argsort(dim=1, stable=True)
    white, black = (
        by_colour[:, : count // 2],
        by_colour[:, count // 2 :],
    )  # [B, V/2] each, of fixed size whatever the mask
    values = tubes.double()  # sums of squares of bytes are exact
    one, other = take(values, white), take(values, black)
    difference = (
        one.square().sum(-1)[:, :, None]
        + other.square().sum(-1)[:, None]
        - 2 * one @ other.transpose(1, 2)
    )  # [B, V/2, V/2]
    way = (
        (take(place, white)[:, :, None] - take(place, black)[:, None]).abs().sum(dim=-1)
    )  # steps in the grid
    order = (difference.round().long() * (sum(config.grid) + 1) + way) * count + black[
        :, None
    ]  # all different in a row
    least, nearest = order.min(dim=2)
    closest = (least * count + white).argsort(dim=1)[:, : merged_count(count, config.merged_share)]
    into = torch.arange(count, device=visible.device).repeat(batch, 1)
    into = into.scatter(1, white.gather(1, closest), black.gather(1, nearest.gather(1, closest)))
    stays = into == torch.arange(count, device=visible.device)
    return (stays.cumsum(dim=1) - 1).gather(1, into)


def merge(tokens: Tensor, groups: Tensor, count: int) -> Tensor:
    """Mean of the tokens [B, V, D] of each of `count` groups (int64 [B, V]): [B, count, D]. A
    matrix product: no order of summing is left open.
    """
    member = (groups[:, None] == torch.arange(count, device=groups.device)[:, None]).to(
        tokens.dtype
    )  # [B, count, V]
    return (member / member.sum(dim=2, keepdim=True)) @ tokens
