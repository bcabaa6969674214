"""VTM with negatives in both directions: wrong clips for texts and wrong texts for clips."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from simvtp.methods import build_model
from simvtp.models.simvtp.simvtp_model import OBJECTIVES
from tests.models.small_models import CONFIG, masks_for, random_batch, small
from tests.models.test_simvtp import total

BOTH = [
    {"vtm_directions": "both", **options}
    for options in (
        {},
        {"reuse_pair_pass": False, "pooling": "with_pads"},
        {"vtm_negatives": "hard"},
        {"contrastive_text": "clean", "contrastive_video": "clean", "vtm_negatives": "hard"},
        {"token_merge_ratio": 0.4},
        {"token_merge_ratio": 0.4, "reuse_pair_pass": False},
        {"encoders": "two"},
    )
]


@pytest.mark.parametrize("options", BOTH, ids=str)
@pytest.mark.parametrize("subset", [("vtm",), OBJECTIVES], ids="+".join)
def test_wrong_texts_are_the_pairs_of_each_clip_with_another_caption(
    options: dict[str, Any], subset: tuple[str, ...]
) -> None:
    """Computed again as true pairs: clip j, with its mask, and the caption that was drawn."""
    config = small(**options)
    batch = random_batch(config, size=4)
    masks = masks_for(batch, config)
    model = build_model(config, subset)
    out = model(batch, masks)
    other = out["wrong_text_index"]
    assert bool((other != torch.arange(4)).all())
    swapped = replace(
        batch, input_ids=batch.input_ids[other], attention_mask=batch.attention_mask[other]
    )
    again = model(swapped, replace(masks, input_ids=masks.input_ids[other]))["match_logits"][:4]
    torch.testing.assert_close(out["wrong_text_logits"], again)
    total(out).backward()
    one = build_model(replace(config, vtm_directions="text"), subset)(batch, masks)
    for name, value in one.items():
        torch.testing.assert_close(out[name], value)


def test_the_two_directions_are_drawn_apart_and_from_the_sample_alone() -> None:
    config = small(vtm_directions="both")
    batch = random_batch(config, size=8)
    masks = masks_for(batch, config)
    noise = masks.text_negative_noise
    assert noise is not None and masks_for(batch, CONFIG).text_negative_noise is None
    assert not torch.equal(noise, masks.negative_noise)
    assert not torch.equal(noise, masks.negative_noise.T)
    part = masks_for(batch.part(0, 5), config).text_negative_noise
    assert part is not None and torch.equal(part, noise[:5, :5])


def test_hard_wrong_texts_are_those_like_the_clip() -> None:
    """With the contrast's features set, the text nearest to a clip is drawn."""
    config = small(vtm_directions="both", vtm_negatives="hard")
    batch = random_batch(config, size=4)
    model = build_model(config, ("vtm",))
    video = F.one_hot(torch.tensor([0, 1, 2, 3]), 4).float()
    text = F.one_hot(torch.tensor([1, 2, 3, 0]), 4).float()  # text b is like clip b + 1
    model._features = lambda encoded, inputs: (video, text)  # type: ignore[method-assign]
    out = model(batch, masks_for(batch, config))
    assert out["negative_index"].tolist() == [1, 2, 3, 0]
    assert out["wrong_text_index"].tolist() == [3, 0, 1, 2]
