"""MLM whose encoder never sees the video (`model.mlm_video=none`)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from simvtp.methods import build_model
from simvtp.models.common.forward_options import ForwardOptions
from tests.models.small_models import masks_for, random_batch, small


@pytest.mark.parametrize("encoders", ["one", "two"])
def test_text_alone_sees_no_video_and_trains_nothing_of_it(encoders: str) -> None:
    config = small(mlm_video="none", encoders=encoders)
    model, twin = build_model(config, ("mlm",)), build_model(small(encoders=encoders), ("mlm",))
    for name, value in twin.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), "the twin starts from the same weights"
    batch, other = random_batch(config), random_batch(config, seed=1)
    masks = masks_for(batch, config)
    shown = replace(batch, clips=other.clips)
    words = model(batch, masks)["word_logits"]
    assert torch.equal(words, model(shown, masks)["word_logits"])
    assert not torch.equal(twin(batch, masks)["word_logits"], twin(shown, masks)["word_logits"])
    text = model.text_embedding(masks.input_ids)
    alone = model.encoder(text, batch.attention_mask)
    expected = model.text_decoder(
        alone, batch.attention_mask, masks.word_positions, ForwardOptions()
    )
    torch.testing.assert_close(words, expected)
    words.sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        of_video = name.startswith(("video_embedding.", "encoder.video."))
        assert parameter.requires_grad != of_video, name
