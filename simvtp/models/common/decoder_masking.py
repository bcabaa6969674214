"""Decoder masking: selects the masked tubes that are decoded, where not all of them are.

After the running cells of VideoMAE V2 (arXiv 2303.16727), from its description; details are ours.
Positions of the grid form cells of 2 x 2. Each position has an index on the ring of its cell, and
from one time slot to the next the ring turns by one, so that over four slots every position of a
cell is decoded once. Half of the tubes are those of two neighbouring indices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simvtp.config.model_config import SimVTPConfig

RING = 4  # positions in a cell
_SCRAMBLE, _LOW = 0x9E3779B1, 0xFFFFFFFF


def decoded_count(masked: int, ratio: float) -> int:
    """Returns how many of `masked` tubes are decoded: round(ratio * masked), at least one."""
    return max(1, int(ratio * masked + 0.5))


def select_decoded_tubes(masked: Tensor, config: SimVTPConfig) -> Tensor:
    """Returns the masked tubes that are decoded: int64 [B, M] -> [B, K], ascending.

    K is `decoded_count`. The tubes whose ring index has its turn come first, then those of the next
    index, and so on; within a turn the order is fixed and without a pattern. The selection depends
    on the mask alone and draws no random number.
    """
    _, height, width = config.grid
    slot, position = masked // (height * width), masked % (height * width)
    row, column = position // width % 2, position % width % 2
    ring = torch.where(row == 0, column, 3 - column)  # clockwise from the upper left
    turn = (ring - slot) % RING
    order = ((turn << 32) | ((masked * _SCRAMBLE) & _LOW)).argsort(dim=1, stable=True)
    count = decoded_count(masked.shape[1], config.decoder_keep_ratio)
    return masked.gather(1, order[:, :count].sort(dim=1).values)
