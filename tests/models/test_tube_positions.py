"""Fixed positions of the tubes, of their running number and of each axis apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from simvtp.config.model_config import SimVTPConfig
from simvtp.models.common.embeddings import tube_positions
from simvtp.models.common.layers import separable_table, sine_cosine_table

GRIDS = [(2, 8, 8), (8, 14, 14), (1, 4, 4), (4, 3, 5), (2, 1, 1)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("width", [32, 64, 96, 100, 384])
def test_every_tube_has_a_position_of_its_own(grid: tuple[int, int, int], width: int) -> None:
    table = separable_table(grid, width)
    t, h, w = grid
    assert table.shape == (t * h * w, width)
    distance = torch.cdist(table.double(), table.double())
    distance.fill_diagonal_(float("inf"))
    assert distance.min() > 1e-2


@pytest.mark.parametrize("grid", GRIDS[:2])
@pytest.mark.parametrize("width", [64, 96])
def test_the_nearest_positions_are_neighbours_along_an_axis(
    grid: tuple[int, int, int], width: int
) -> None:
    table = separable_table(grid, width).double()
    t, h, w = grid
    where = torch.cartesian_prod(torch.arange(t), torch.arange(h), torch.arange(w))
    steps = (where[:, None] - where[None]).abs().sum(-1)
    distance = torch.cdist(table, table)
    one, far = distance[steps == 1], distance[steps >= 6]
    assert one.max() < far.min()
    flat = torch.cdist(*[sine_cosine_table(len(table), width).double()] * 2)
    assert flat[steps == 1].max() > flat[steps >= 6].min()  # where the 1-D table does not say so


def test_the_released_positions_are_the_default() -> None:
    config = SimVTPConfig(image_size=32, frames=4, patch_size=8)
    assert torch.equal(tube_positions(config, 64), sine_cosine_table(config.tubes, 64))
    axes = replace(config, tube_positions="axes")
    assert torch.equal(tube_positions(axes, 64), separable_table(config.grid, 64))
