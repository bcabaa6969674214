"""Which of the masked tubes are rebuilt, where not all of them are: running cells.

After the decoder masking of VideoMAE V2 (arXiv 2303.16727), read from its description; details are
ours. Places of the grid form cells of 2 x 2. Each place has a number on the ring of its cell, and
from one time slot to the next the ring turns by one, so that over four slots every place of a cell
has its turn. Half of the tubes are those of two neighbouring numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simvtp.config.schema import ModelConfig

RING = 4  # places in a cell
_SCRAMBLE, _LOW = 0x9E3779B1, 0xFFFFFFFF


def rebuilt_count(masked: int, share: float) -> int:
    """How many of `masked` tubes are rebuilt: round(share * masked), halves up, at least one."""
    return max(1, int(share * masked + 0.5))


def rebuilt(masked: Tensor, config: ModelConfig) -> Tensor:
    """The masked tubes that are rebuilt: int64 [B, M] -> [B, K], ascending, K = round(share * M).

    Those whose turn it is come first, then those whose turn comes next, and so on; within a turn
    the order is fixed and without a pattern. It depends on the mask alone, and draws no random
    number.
    """
    _, height, width = config.grid
    slot, place = masked // (height * width), masked % (height * width)
    row, column = place // width % 2, place % width % 2
    ring = torch.where(row == 0, column, 3 - column)  # clockwise from the upper left
    turn = (ring - slot) % RING
    order = ((turn << 32) | ((masked * _SCRAMBLE) & _LOW)).argsort(dim=1, stable=True)
    chosen = order[:, : rebuilt_count(masked.shape[1], config.decoded_share)].sort(dim=1).values
    return masked.gather(1, chosen)
