"""Operations and parameters of MAC."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from simvtp.config.recipes import get_recipe
from simvtp.models.flops.simvtp_flops import describe, forward_flops, parameter_counts
from simvtp.models.mac.mac_model import MAC


@pytest.mark.parametrize(
    ("ratio", "published"),
    [(0, 93.6), (0.5, 46.8), (0.6, 37.4), (0.7, 28.6), (0.75, 23.9), (0.8, 19.3), (0.9, 10.5)],
)
def test_forward_operations_at_full_size(ratio: float, published: float) -> None:
    # GMAC of one clip of 4 x 224 x 224 with 30 words, counted by torch on the meta device
    # (attention as matrix products).
    recipe = get_recipe("mac")
    config, masks = replace(recipe.model, text_length=30), replace(recipe.masks, video_ratio=ratio)
    with torch.device("meta"):
        model = MAC(config).to("meta")
        visible = torch.zeros(1, 4 * (196 - int(ratio * 196)), dtype=torch.int64)
        clips = torch.zeros(1, 4, 224, 224, 3, dtype=torch.uint8)
        ids, keys = torch.zeros(1, 30, dtype=torch.int64), torch.ones(1, 30, dtype=torch.bool)
        with (
            torch.no_grad(),
            FlopCounterMode(display=False) as counter,
            sdpa_kernel(SDPBackend.MATH),
        ):
            model.video_projection(model.video_tower(clips, visible, 4))
            model.text_projection(model.text_tower(ids, keys)[:, 0])
    assert counter.get_total_flops() == sum(forward_flops(config, masks).values())
    assert counter.get_total_flops() / 2e9 == pytest.approx(published, rel=0.05)


def test_the_description_counts_every_parameter() -> None:
    config = get_recipe("mac").model
    with torch.device("meta"):
        total = sum(parameter.numel() for parameter in MAC(config).parameters())
    assert sum(parameter_counts(config).values()) == total
    assert "time attention" in describe(config, get_recipe("mac").masks, ("vtc",))
