"""Counts of parameters and operations against the published figures and torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from simvtp.config.model_config import MaskConfig, SimVTPConfig
from simvtp.config.recipes import huge, large, released, tiny
from simvtp.methods import build_model
from simvtp.models.flops.simvtp_flops import describe, forward_flops, parameter_counts
from simvtp.models.simvtp.simvtp_model import OBJECTIVES
from tests.models.small_models import masks_for, random_batch, small

SIZES = {
    "small": small(),
    "wider": SimVTPConfig(
        image_size=64,
        frames=8,
        patch_size=8,
        dim=96,
        depth=3,
        heads=4,
        mlp_ratio=3.0,
        decoder_dim=48,
        decoder_depth=2,
        decoder_heads=3,
        vocab_size=301,
        text_length=16,
        max_text_positions=20,
        text_decoder_depth=2,
    ),
}
CASES = [
    (OBJECTIVES, {}),
    (OBJECTIVES, {"reuse_pair_pass": False}),
    (OBJECTIVES, {"contrastive_text": "clean", "vtm_negatives": "hard"}),
    (("mvm",), {}),
    (("mlm",), {"text_decoder_depth": 0}),
    (("mlm",), {"mlm_video": "none"}),
    (("vtc",), {}),
    (("vtm",), {}),
    (("vtm",), {"vtm_negatives": "hard"}),
    (("vtm",), {"vtm_directions": "both"}),
    (("mvm", "vtc"), {}),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("objectives", "options"), CASES, ids=lambda v: "+".join(v))
@pytest.mark.parametrize(
    "masks",
    [MaskConfig(), MaskConfig(video_kind="random", video_ratio=0.3, text_rule="bernoulli")],
    ids=["tube", "random"],
)
def test_flops_agree_with_torch(
    size: str, objectives: tuple[str, ...], options: dict[str, object], masks: MaskConfig
) -> None:
    # Attention through the plain matrix products, which the counter knows on every device and
    # version.
    from dataclasses import replace

    config = replace(SIZES[size], **options)
    batch = random_batch(config, size=3)
    drawn = masks_for(batch, config, masks)
    model = build_model(config, objectives)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(batch, drawn)
    counted = counter.get_total_flops() / 3
    assert sum(forward_flops(config, masks, objectives, batch=3).values()) == pytest.approx(
        counted, rel=0.01
    )


def test_published_parameter_counts() -> None:
    """Method notes 1.6, in millions."""
    counts = {
        name: round(count / 1e6, 2) for name, count in parameter_counts(SimVTPConfig()).items()
    }
    assert counts == {
        "encoder": 86.23,
        "bridge": 0.29,
        "video decoder": 7.69,
        "text embedding": 23.84,
        "text decoder": 23.47,
        "match head": 0.0,
    }
    assert sum(parameter_counts(SimVTPConfig()).values()) == pytest.approx(141.5e6, rel=1e-3)


def test_counts_are_those_of_the_built_model() -> None:
    for objectives in (OBJECTIVES, ("vtc",)):
        built = sum(p.numel() for p in build_model(small(), objectives).parameters())
        assert sum(parameter_counts(small(), objectives).values()) == built


def test_large_and_huge_by_settings() -> None:
    """ViT-L and ViT-H encoders of VideoMAE: 303.9 M and 631.7 M with their tube embedding."""
    assert parameter_counts(large().model)["encoder"] / 1e6 == pytest.approx(303.9, abs=0.5)
    assert parameter_counts(huge().model)["encoder"] / 1e6 == pytest.approx(631.7, abs=1.5)


def test_released_wiring_costs_what_the_design_says() -> None:
    # 175.2 GFLOP a sample in the design's arithmetic, which saves 0.86 in the last decoder block
    # and scores 24 words, not 30.
    recipe = released()
    assert sum(forward_flops(recipe.model, recipe.masks).values()) / 1e9 == pytest.approx(
        175.2 + 0.86 + 0.28, rel=0.01
    )


def test_table_names_every_part() -> None:
    text = describe(tiny().model, objectives=("mlm",))
    assert (
        "text decoder" in text
        and "encoder, pair pass" in text
        and "encoder, video pass" not in text
    )
    assert text.count("total") == 2
