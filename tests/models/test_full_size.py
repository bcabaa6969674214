"""The released recipe at its published size, one step on the CPU.

Run with -m slow; needs about 8 GB.
"""

from __future__ import annotations

import resource

import pytest
import torch

from simvtp.batch import Batch
from simvtp.config.recipes import released
from simvtp.methods import build_model
from simvtp.models.common.masking import draw_masks
from simvtp.training.losses import (
    contrastive_loss,
    masked_pixel_loss,
    matching_loss,
    normalise_tubes,
    word_loss,
)


@pytest.mark.slow
def test_released_recipe_does_a_step_at_full_size(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = released()
    config = recipe.model
    sizes = config.dim, config.depth, config.frames, config.image_size
    assert (*sizes, config.text_length, config.vocab_size) == (768, 12, 16, 224, 32, 30522)
    g = torch.Generator().manual_seed(0)
    clips = torch.randint(0, 256, (2, 16, 224, 224, 3), dtype=torch.uint8, generator=g)
    places = torch.arange(32)
    words = torch.tensor([[12], [29]])
    ids = torch.randint(1000, 30522, (2, 32), generator=g)
    ids = torch.where(
        places == 0,
        101,
        torch.where(places == words + 1, 102, torch.where(places <= words, ids, 0)),
    )
    inside = (places >= 1) & (places <= words)
    batch = Batch(clips, ids, places <= words + 1, torch.where(inside, places - 1, -1), ("a", "b"))
    masks = draw_masks(batch, config, recipe.masks, mask_id=103, seed=0, step=0, first_sample=0)
    assert masks.visible.shape == (2, 160) and masks.masked.shape == (2, 1408)

    model = build_model(config)
    stage = recipe.pretrain
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=stage.lr,
        betas=(stage.beta1, stage.beta2),
        weight_decay=stage.weight_decay,
        fused=True,
    )
    out = model(batch, masks)
    losses = {
        "mvm": masked_pixel_loss(out["video_prediction"], normalise_tubes(out["video_pixels"])),
        "mlm": word_loss(out["word_logits"], out["word_labels"]),
        "vtc": contrastive_loss(
            out["video_feature"], out["text_feature"], recipe.losses.temperature
        ),
        "vtm": matching_loss(out["match_logits"]),
    }
    torch.stack(list(losses.values())).sum().backward()
    before = model.encoder.blocks[0].mlp.fc1.weight.detach().clone()
    optimizer.step()
    assert all(value.isfinite() for value in losses.values())
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert not torch.equal(before, model.encoder.blocks[0].mlp.fc1.weight)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    shown = ", ".join(f"{name} {value.item():.4f}" for name, value in losses.items())
    with capsys.disabled():
        print(f"\n{shown}; peak memory {peak:.2f} GiB")
