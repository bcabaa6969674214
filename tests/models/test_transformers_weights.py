"""Weights of transformers: outputs, losses and names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from simvtp.config.model_config import SimVTPConfig
from simvtp.errors import CheckpointError
from simvtp.methods import build_model
from simvtp.models.common.embeddings import cut_tubes
from simvtp.models.common.layers import gather_tokens
from simvtp.models.weights.pretrained import (
    import_state,
    initialise_from,
)
from simvtp.training.losses import masked_pixel_loss, normalise_tubes
from tests.models.small_models import masks_for, random_batch
from tests.models.weight_helpers import (
    FIXTURE,
    OTHER,
    equal,
    normalised,
    shaken,
    videomae_config,
)


@pytest.mark.parametrize("config", [FIXTURE, OTHER], ids=["small", "other"])
@pytest.mark.parametrize("mean_pooling", [False, True])
def test_encoder_equals_transformers(config: SimVTPConfig, mean_pooling: bool) -> None:
    """Full view and visible tubes only.

    With mean pooling transformers has no final norm, so ours is taken out for the comparison.
    """
    from transformers import VideoMAEModel

    theirs = shaken(VideoMAEModel(videomae_config(config, use_mean_pooling=mean_pooling))).eval()
    model = build_model(config, ("vtc",)).eval()
    done = import_state(model, theirs.state_dict(), "memory")
    assert {name for name in done.kept if not name.startswith("text_embedding.")} == (
        {"encoder.norm.weight", "encoder.norm.bias"} if mean_pooling else set()
    )
    if mean_pooling:
        model.encoder.norm = torch.nn.Identity()
    batch = random_batch(config, size=2)
    masks = masks_for(batch, config)
    hidden = torch.zeros(2, config.tubes, dtype=torch.bool).scatter(1, masks.masked, True)
    tubes = cut_tubes(batch.clips, config)
    with torch.no_grad():
        for visible, bool_masked in ((None, None), (masks.visible, hidden)):
            ours = model.encoder(model.video_embedding(tubes, visible))
            right = theirs(normalised(batch.clips), bool_masked_pos=bool_masked).last_hidden_state
            assert (ours - right).abs().max() / right.abs().max() < 1e-5


@pytest.mark.parametrize("config", [FIXTURE, OTHER], ids=["small", "other"])
def test_pixel_loss_equals_transformers(config: SimVTPConfig) -> None:
    # Video alone through encoder, bridge and decoder. transformers' decoder norm has eps 1e-5 where
    # the original has 1e-6: set.
    from transformers import VideoMAEForPreTraining

    theirs = shaken(VideoMAEForPreTraining(videomae_config(config, use_mean_pooling=False))).eval()
    theirs.decoder.norm.eps = 1e-6
    model = build_model(config, ("mvm",)).eval()
    done = import_state(model, theirs.state_dict(), "memory")
    assert all(name.startswith("text_embedding.") for name in done.kept) and not done.unused
    batch = random_batch(config, size=2)
    masks = masks_for(batch, config)
    hidden = torch.zeros(2, config.tubes, dtype=torch.bool).scatter(1, masks.masked, True)
    with torch.no_grad():
        right = theirs(normalised(batch.clips), bool_masked_pos=hidden)
        tubes = cut_tubes(batch.clips, config)
        tokens = model.encoder(model.video_embedding(tubes, masks.visible))
        prediction = model.video_decoder(tokens, masks.visible, masks.masked)
        loss = masked_pixel_loss(
            prediction, normalise_tubes(gather_tokens(tubes, masks.masked) / 255)
        )
    assert (prediction - right.logits).abs().max() / right.logits.abs().max() < 1e-5
    assert abs(loss - right.loss) / right.loss < 1e-5


@pytest.mark.parametrize("config", [FIXTURE, OTHER], ids=["small", "other"])
def test_transformers_as_it_comes(config: SimVTPConfig) -> None:
    """Its own initial weights, LayerNorm 1e-12 and decoder norm 1e-5 left as they are.

    The loss still agrees.
    """
    from transformers import VideoMAEForPreTraining

    torch.manual_seed(0)
    settings = videomae_config(config, use_mean_pooling=False)
    settings.layer_norm_eps = 1e-12
    theirs = VideoMAEForPreTraining(settings).eval()
    model = build_model(config, ("mvm",)).eval()
    import_state(model, theirs.state_dict(), "memory")
    batch = random_batch(config, size=2)
    masks = masks_for(batch, config)
    hidden = torch.zeros(2, config.tubes, dtype=torch.bool).scatter(1, masks.masked, True)
    tubes = cut_tubes(batch.clips, config)
    with torch.no_grad():
        right = theirs(normalised(batch.clips), bool_masked_pos=hidden).loss
        tokens = model.encoder(model.video_embedding(tubes, masks.visible))
        encoded = theirs.videomae(normalised(batch.clips), bool_masked_pos=hidden).last_hidden_state
        prediction = model.video_decoder(tokens, masks.visible, masks.masked)
        loss = masked_pixel_loss(
            prediction, normalise_tubes(gather_tokens(tubes, masks.masked) / 255)
        )
    assert (tokens - encoded).abs().max() / encoded.abs().max() < 1e-5
    assert abs(loss - right) / right < 1e-5


def test_older_transformers_names_are_the_same_weights() -> None:
    # Checkpoints on the hub have q_bias and v_bias where the present code has query.bias and
    # value.bias.
    from transformers import VideoMAEForPreTraining

    state = shaken(
        VideoMAEForPreTraining(videomae_config(FIXTURE, use_mean_pooling=False))
    ).state_dict()
    older = {
        name.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): value
        for name, value in state.items()
    }
    assert older.keys() != state.keys()
    older["videomae.encoder.layer.0.attention.attention.key.bias"] = torch.ones(48)
    a, b = build_model(FIXTURE), build_model(FIXTURE)
    import_state(a, state, "memory")
    done = import_state(b, older, "memory")
    assert (
        equal(a, b)
        and "softmax" in done.unused["videomae.encoder.layer.0.attention.attention.key.bias"]
    )


@pytest.mark.parametrize("config", [FIXTURE, OTHER], ids=["small", "other"])
def test_text_embedding_equals_transformers(config: SimVTPConfig) -> None:
    from transformers import BertConfig, BertModel

    sizes = BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.dim,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    theirs = shaken(BertModel(sizes)).eval()
    for state in (
        theirs.state_dict(),
        {
            f"bert.{k}".replace("LayerNorm.weight", "LayerNorm.gamma"): v
            for k, v in theirs.state_dict().items()
        },
    ):
        model = build_model(config, ("vtc",)).eval()
        done = import_state(model, state, "memory")
        assert done.notes == (done.notes[0],) and "the first 24 of 40" in done.notes[0]
        assert (
            all(".layer." in key or "pooler" in key for key in done.unused)
            and len(done.unused) == 18
        )
        ids = random_batch(config).input_ids
        with torch.no_grad():
            ours, right = model.text_embedding(ids), theirs.embeddings(ids)
        assert (ours - right).abs().max() / right.abs().max() < 1e-5


def test_initialise_from_folders(tmp_path: Path) -> None:
    """VideoMAE and BERT saved by transformers, named in the settings as folders."""
    from transformers import BertConfig, BertModel, VideoMAEForPreTraining

    video = shaken(VideoMAEForPreTraining(videomae_config(FIXTURE, use_mean_pooling=False)))
    text = shaken(
        BertModel(
            BertConfig(
                vocab_size=97,
                hidden_size=48,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
            )
        )
    )
    video.save_pretrained(tmp_path / "video")
    text.save_pretrained(tmp_path / "text")
    config = replace(FIXTURE, init_video=str(tmp_path / "video"), init_text=str(tmp_path / "text"))
    model = build_model(config)
    before = model.text_decoder.head.weight.clone()
    done = initialise_from(model, config)
    assert [part.kind for part in done] == ["VideoMAE, transformers naming", "BERT"]
    assert torch.equal(model.text_embedding.word.weight, text.embeddings.word_embeddings.weight)
    assert torch.equal(model.video_decoder.mask_token, video.mask_token.flatten())
    assert torch.equal(model.text_decoder.head.weight, before)
    assert initialise_from(build_model(FIXTURE), FIXTURE) == []
    with pytest.raises(CheckpointError, match=r"num_attention_heads=3.*model\.heads=6"):
        initialise_from(build_model(replace(config, heads=6)), config)
