"""Targets of MVM beyond pixels: what is predicted of a masked tube (`losses.mvm_target`).

* `hog`: histograms of oriented gradients of the tube's first frame, as MaskFeat has them (arXiv
  2112.09133; released code: slowfast/models/operators.py and masked.py). Sobel gradients of each
  colour channel, the frame mirrored at its border; each pixel adds its magnitude to one of nine
  bins of unsigned orientation; sums over cells; each histogram, of a cell and a channel, divided by
  its length. Cells are 8 x 8 pixels there; here also smaller, if patches are.
* `difference`: each frame of the tube minus the one before it, pixels in [0, 1]. Ours; MotionMAE
  (arXiv 2210.04154) has differences of nearby frames as a second target.

A tube has fewer such values than pixels. The decoder's last layer has a row for each pixel; the
first rows predict these values and the others nothing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from simvtp.config.mask_counts import hog_cell
from simvtp.config.model_config import ModelConfig
from simvtp.config.train_config import HOG_BINS, FeatureTarget
from simvtp.models.common.layers import gather_tokens


def feature_target(
    target: FeatureTarget, tubes: Tensor, chosen: Tensor, config: ModelConfig
) -> Tensor:
    """Returns the target of the tubes `chosen` int64 [B, M]: float32 [B, M, Q].

    Args:
        target: hog or difference.
        tubes: uint8 [B, N, P], all tubes of the clips: gradients at the border of a patch look at
            its neighbours.
        config: the sizes of the tubes.
    """
    if target == "hog":
        return gather_tokens(oriented_gradients(tubes, config), chosen)
    frames = gather_tokens(tubes, chosen).unflatten(-1, (config.tubelet_size, -1))
    return (frames.float() / 255).diff(dim=-2).flatten(-2)


def oriented_gradients(tubes: Tensor, config: ModelConfig) -> Tensor:
    """Returns the histograms of all tubes: float32 [B, N, cells * 3 * 9], cells by row and column.

    Args:
        tubes: uint8 [B, N, P].
        config: the sizes of the tubes.
    """
    t, h, w = config.grid
    patch, cell = config.patch_size, hog_cell(config)
    first = tubes.unflatten(-1, (config.tubelet_size, patch, patch, 3))[:, :, 0]
    frames = first.unflatten(1, (t, h, w)).permute(0, 1, 6, 2, 4, 3, 5)  # [B, t, 3, h, p, w, p]
    frames = frames.reshape(-1, 3, h * patch, w * patch).float()
    size, orientation = _gradients(frames)
    bins = (orientation * (HOG_BINS / math.pi)).floor().remainder(HOG_BINS)
    # one bin after another: a table of all bins of all pixels would be nine times as large
    sums = [_cell_sums(torch.where(bins == number, size, 0.0), cell) for number in range(HOG_BINS)]
    histograms = F.normalize(torch.stack(sums, dim=-1), dim=-1)  # [B * t, 3, H / c, W / c, 9]
    side = patch // cell
    split = histograms.unflatten(3, (w, side)).unflatten(2, (h, side)).unflatten(0, (-1, t))
    # [B, t, 3, h, side, w, side, 9] -> [B, t, h, w, side, side, 3, 9]
    return split.permute(0, 1, 3, 5, 4, 6, 2, 7).flatten(4).flatten(1, 3)


def _gradients(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Returns magnitude and angle (from the y axis, in [-pi, pi]) of Sobel's gradients.

    Args:
        frames: float32 [n, 3, H, W], whole numbers, so that all sums are exact.
    """
    padded = F.pad(frames, (1, 1, 1, 1), mode="reflect")
    down = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    across = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    x, y = down[..., :-2] - down[..., 2:], across[..., :-2, :] - across[..., 2:, :]
    return torch.hypot(x, y), torch.atan2(x, y)


def _cell_sums(values: Tensor, cell: int) -> Tensor:
    """Returns the sums over cells of [n, 3, H, W]: [n, 3, H / cell, W / cell]."""
    return values.unflatten(3, (-1, cell)).unflatten(2, (-1, cell)).sum(dim=(3, 5))
