"""Encoders for retrieval.

What the shared one has in common with the pre-trained model, and what the two copies do not share.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from simvtp.batch import Batch
from simvtp.config.finetune_config import FinetuneConfig
from simvtp.config.model_config import SimVTPConfig
from simvtp.config.overrides import override
from simvtp.config.recipes import get_recipe
from simvtp.config.validation import check
from simvtp.errors import ConfigError
from simvtp.methods import build_model, method_of
from simvtp.models.downstream.retrieval_encoders import (
    DualEncoder,
    SharedEncoder,
    retrieval_encoder,
)

MODEL = SimVTPConfig(
    image_size=16,
    frames=4,
    patch_size=8,
    tubelet_size=2,
    dim=16,
    depth=3,
    heads=2,
    decoder_dim=8,
    decoder_depth=1,
    decoder_heads=1,
    vocab_size=40,
    text_length=8,
    max_text_positions=8,
    text_dropout=0.0,
)


def batch_of(frames: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(0, 256, (3, frames, 16, 16, 3), generator=generator, dtype=torch.uint8)
    ids = torch.randint(4, 40, (3, 8), generator=generator)
    seen = torch.arange(8)[None] < torch.tensor([[8], [3], [5]])
    return Batch(clips, ids, seen, ids, ("a", "b", "c"))


def test_the_shared_encoder_begins_with_the_features_of_the_pretrained_model() -> None:
    unified, batch = build_model(MODEL, seed=1).eval(), batch_of()
    shared = method_of(MODEL).retrieval(
        unified, MODEL, drop_path=0.5, pooling="content", encoder="shared"
    )
    assert isinstance(shared, SharedEncoder)
    outputs = shared.eval()(batch)
    torch.testing.assert_close(outputs["video_feature"], unified.embed_video(batch.clips))
    torch.testing.assert_close(
        outputs["text_feature"], unified.embed_text(batch.input_ids, batch.attention_mask)
    )
    padded = retrieval_encoder(
        unified, MODEL, drop_path=0.0, pooling="with_pads", encoder="shared"
    ).eval()
    assert not torch.allclose(padded(batch)["text_feature"], outputs["text_feature"])
    assert torch.equal(padded.encoder.norm.weight, unified.encoder.norm.weight)


def test_one_copy_is_moved_by_both_sides_and_two_copies_by_their_own() -> None:
    unified, batch = build_model(MODEL, seed=1), batch_of()
    for encoder, moved in (("shared", True), ("dual", False)):
        model = retrieval_encoder(unified, MODEL, drop_path=0.0, pooling="content", encoder=encoder)  # type: ignore[arg-type]
        before = model.embed_video(batch.clips).detach()
        model.embed_text(batch.input_ids, batch.attention_mask)[
            :, 0
        ].sum().backward()  # a step of the text side alone
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= parameter.grad
        assert torch.equal(model.embed_video(batch.clips), before) != moved
    sizes = [
        sum(
            p.numel()
            for name, p in retrieval_encoder(
                unified, MODEL, drop_path=0.0, pooling="content", encoder=e
            ).named_parameters()
            if "blocks" in name
        )
        for e in ("shared", "dual")
    ]
    assert 2 * sizes[0] == sizes[1]


def test_both_take_clips_of_fewer_frames_than_were_trained_on() -> None:
    unified, short = build_model(MODEL, seed=1), replace(MODEL, frames=2)
    for encoder, kind in (("shared", SharedEncoder), ("dual", DualEncoder)):
        model = retrieval_encoder(unified, short, drop_path=0.0, pooling="content", encoder=encoder)  # type: ignore[arg-type]
        assert isinstance(model, kind) and model.embed_video(batch_of(2).clips).shape == (3, 16)


def test_two_pretrained_encoders_are_not_made_one() -> None:
    apart = replace(MODEL, encoders="two")
    with pytest.raises(
        ConfigError,
        match=r"one encoder for both modalities .* does not go with model\.encoders=two",
    ):
        method_of(apart).retrieval(
            build_model(apart, seed=1), apart, drop_path=0.0, pooling="content", encoder="shared"
        )


def test_the_setting() -> None:
    tiny = get_recipe("tiny")
    assert FinetuneConfig().ranking.encoder == "dual"
    assert tiny.fingerprint == override(tiny, ["finetune.task.encoder=dual"]).fingerprint
    assert tiny.fingerprint != override(tiny, ["finetune.task.encoder=shared"]).fingerprint
    with pytest.raises(
        ConfigError, match=r"it belongs to finetune\.task=retrieval or finetune\.task=imagetext"
    ):
        check(override(tiny, ["finetune.task.encoder=shared", "finetune.task=qa"]))
    with pytest.raises(ConfigError, match="must be one of dual, shared"):
        override(tiny, ["finetune.task.encoder=one"])
