"""Decoder masking: selects the masked tubes that are decoded, where not all of them are.

After the running cells of VideoMAE V2 (arXiv 2303.16727), from its description; details are ours.
Positions of the grid form cells of 2 x 2. Each position has an index on the ring of its cell, and
from one time slot to the next the ring turns by one, so that over four slots every position of a
cell is decoded once. Half of the tubes are those of two neighbouring indices.

Where the ring always begins at the same index (`model.decoder_cells` = fixed), some positions are
never decoded if there are fewer than four slots. `turned` begins at a random tube of the order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simvtp.config.model_config import ModelConfig, SimVTPConfig

RING = 4  # positions in a cell
_SCRAMBLE, _LOW = 0x9E3779B1, 0xFFFFFFFF


def decoded_count(masked: int, ratio: float) -> int:
    """Returns how many of `masked` tubes are decoded: round(ratio * masked), at least one."""
    return max(1, int(ratio * masked + 0.5))


def turns_cells(config: ModelConfig) -> bool:
    """Returns whether the decoded tubes depend on a random number of the sample."""
    return (
        isinstance(config, SimVTPConfig)
        and config.decoder_keep_ratio < 1
        and config.decoder_cells == "turned"
    )


def select_decoded_tubes(
    masked: Tensor, config: SimVTPConfig, noise: Tensor | None = None
) -> Tensor:
    """Returns the masked tubes that are decoded: int64 [B, M] -> [B, K], ascending.

    K is `decoded_count`. The tubes whose ring index has its turn come first, then those of the next
    index, and so on; within a turn the order is fixed and without a pattern. K tubes in a row are
    taken from this order, which is closed to a circle.

    Args:
        noise: [B, 1] in [0, 1), where the row begins: each of the M tubes is then decoded with
            probability K / M, whatever the mask. None begins with the first tube, and the selection
            depends on the mask alone.
    """
    _, height, width = config.grid
    slot, position = masked // (height * width), masked % (height * width)
    row, column = position // width % 2, position % width % 2
    ring = torch.where(row == 0, column, 3 - column)  # clockwise from the upper left
    turn = (ring - slot) % RING
    order = ((turn << 32) | ((masked * _SCRAMBLE) & _LOW)).argsort(dim=1, stable=True)
    count = decoded_count(masked.shape[1], config.decoder_keep_ratio)
    if noise is None or not masked.shape[1]:
        chosen = order[:, :count]
    else:
        total = masked.shape[1]
        start = (noise.to(torch.float64) * total).to(torch.int64)
        chosen = order.gather(1, (start + torch.arange(count, device=masked.device)) % total)
    return masked.gather(1, chosen.sort(dim=1).values)
