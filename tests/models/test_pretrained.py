"""Weights from elsewhere, and back: transformers' models, released naming, our own exports.

Every key is accounted for.
"""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from simvtp.config.model_config import SimVTPConfig
from simvtp.errors import CheckpointError
from simvtp.methods import build_model
from simvtp.methods.exported_model import from_pretrained, save_pretrained
from simvtp.models.common.embeddings import IMAGENET_MEAN, IMAGENET_STD, cut_tubes
from simvtp.models.common.layers import gather_tokens
from simvtp.models.downstream.retrieval_encoders import DualEncoder
from simvtp.models.simvtp.simvtp_model import OBJECTIVES, SimVTP
from simvtp.models.weights.pretrained import (
    export_released,
    import_state,
    import_weights,
    initialise_from,
)
from simvtp.training.losses import masked_pixel_loss, normalise_tubes
from tests.models.small_models import CONFIG, masks_for, random_batch, small
from tests.models.test_parity import DUAL, PRETRAINING, read

FIXTURE = SimVTPConfig(
    image_size=32,
    frames=8,
    patch_size=8,
    tubelet_size=2,
    dim=48,
    depth=3,
    heads=3,
    decoder_dim=24,
    decoder_depth=2,
    decoder_heads=2,
    vocab_size=97,
    text_length=12,
    max_text_positions=24,
)
OTHER = replace(
    FIXTURE,
    image_size=48,
    frames=6,
    patch_size=16,
    tubelet_size=3,
    dim=64,
    depth=2,
    heads=4,
    mlp_ratio=3.0,
    decoder_dim=32,
    decoder_depth=1,
    decoder_heads=4,
)


def released(path: Path = PRETRAINING) -> dict[str, Tensor]:
    return {
        name.removeprefix("state/"): value
        for name, value in read(path)[0].items()
        if name.startswith("state/")
    }


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) and left[name].dtype == right[name].dtype
        for name in left
    )


def shaken(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter, biases and norms included, at a value of its own."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=g) * 0.1)
    return model


# ---- transformers --------------------------------------------------------------------------------


def videomae_config(config: SimVTPConfig, **more: Any) -> Any:
    from transformers import VideoMAEConfig

    return VideoMAEConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_frames=config.frames,
        tubelet_size=config.tubelet_size,
        hidden_size=config.dim,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=round(config.dim * config.mlp_ratio),
        layer_norm_eps=1e-6,
        decoder_hidden_size=config.decoder_dim,
        decoder_num_hidden_layers=config.decoder_depth,
        decoder_num_attention_heads=config.decoder_heads,
        decoder_intermediate_size=round(config.decoder_dim * config.mlp_ratio),
        **more,
    )


def normalised(clips: Tensor) -> Tensor:
    # What transformers' model is given: [B, T, 3, H, W], ImageNet-normalised.
    values = (clips / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    return values.permute(0, 1, 4, 2, 3)


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


# ---- released and original naming ----------------------------------------------------------------


def test_released_file_wrapped_or_not(tmp_path: Path) -> None:
    """.pth with and without {"model".

    ...}, next to the arguments and the optimizer that such files carry; .safetensors.
    """
    state = released()
    torch.save(
        {"model": state, "optimizer": {"step": 3}, "epoch": 7, "args": argparse.Namespace(lr=1e-3)},
        tmp_path / "wrapped.pth",
    )
    torch.save(state, tmp_path / "plain.pth")
    safetensors.torch.save_file(state, tmp_path / "plain.safetensors")
    models = []
    for name in ("wrapped.pth", "plain.pth", "plain.safetensors"):
        models.append(build_model(FIXTURE))
        done = import_weights(models[-1], tmp_path / name)
        assert done.unused == {} and done.kept == () and set(done.names) == set(state)
    assert equal(models[0], models[1]) and equal(models[0], models[2])


def test_original_videomae_naming(tmp_path: Path) -> None:
    state = {
        name: value for name, value in released().items() if not name.startswith(("text_", "vtm_"))
    }
    torch.save({"model": state}, tmp_path / "checkpoint.pth")
    model, whole = build_model(FIXTURE), build_model(FIXTURE)
    done = import_weights(model, tmp_path / "checkpoint.pth")
    import_state(whole, released(), "memory")
    assert done.kind == "VideoMAE, original naming" and {
        name.split(".")[0] for name in done.kept
    } == {
        "text_embedding",
        "text_decoder",
        "match_head",
    }
    assert torch.equal(model.video_decoder.head.weight, whole.video_decoder.head.weight)


def test_conv_weights_are_permuted_to_the_order_of_tubes() -> None:
    state = released()
    model = build_model(FIXTURE, ("vtc",))
    done = import_state(model, state, "memory")
    assert set(done.unused.values()) == {"its objective is off"}
    clips = random_batch(FIXTURE).clips
    weight, bias = (state[f"encoder.patch_embed.proj.{name}"] for name in ("weight", "bias"))
    video = normalised(clips).transpose(1, 2)
    right = (
        torch.nn.functional.conv3d(video, weight, bias, stride=weight.shape[2:])
        .flatten(2)
        .transpose(1, 2)
    )
    ours = model.video_embedding(cut_tubes(clips, FIXTURE)) - model.video_embedding.position
    torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-5)


def test_released_dual_explains_the_embeddings_that_are_not_used() -> None:
    config = replace(FIXTURE, depth=2, text_length=10)
    done = import_state(DualEncoder(config), released(DUAL), "memory")
    assert done.kept == ()
    assert sorted({key.rsplit(".", 2)[0] for key in done.unused}) == [
        "text_encoder.patch_embed",
        "video_encoder.text_embeddings",
    ]
    with pytest.raises(CheckpointError, match="does not fit a pre-training model"):
        import_state(build_model(config), released(DUAL), "memory")
    with pytest.raises(CheckpointError, match="does not fit a dual encoder"):
        import_state(DualEncoder(FIXTURE), released(), "memory")


def spoilt(change: Callable[[dict[str, Tensor]], Any]) -> dict[str, Tensor]:
    state = released()
    change(state)
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            spoilt(lambda s: s.update({"encoder.blocks.0.attn.gamma": torch.ones(3)})),
            "encoder.blocks.0.attn.gamma",
        ),
        (spoilt(lambda s: s.update({"teacher.weight": torch.ones(3)})), "teacher.weight"),
        (
            spoilt(lambda s: s.update({"encoder.blocks.3.norm1.weight": torch.ones(48)})),
            "same depth",
        ),
        (
            spoilt(lambda s: s.pop("decoder.blocks.1.mlp.fc1.bias")),
            "video_decoder.blocks.1.mlp.fc1.bias",
        ),
        (spoilt(lambda s: s.pop("text_cls.bias")), "text_decoder.head.bias"),
        (
            spoilt(lambda s: s.update({"encoder.norm.weight": torch.ones(49)})),
            r"encoder.norm.weight is \[49\] .* \[48\]",
        ),
        (
            spoilt(
                lambda s: s.update({"text_embeddings.word_embeddings.weight": torch.ones(98, 48)})
            ),
            r"model\.vocab_size .*data\.tokenizer",
        ),
        (
            spoilt(
                lambda s: s.update(
                    {"text_embeddings.position_embeddings.weight": torch.ones(20, 48)}
                )
            ),
            "max_text_positions",
        ),
        ({"weight": torch.ones(1)}, "no known kind"),
    ],
)
def test_what_cannot_be_explained_raises_and_changes_nothing(
    state: dict[str, Tensor], message: str
) -> None:
    model = build_model(FIXTURE)
    with pytest.raises(CheckpointError, match=message):
        import_state(model, state, "memory")
    assert equal(model, build_model(FIXTURE))


def test_a_missing_third_of_qkv_raises() -> None:
    from transformers import VideoMAEModel

    state = VideoMAEModel(videomae_config(FIXTURE)).state_dict()
    del state["encoder.layer.1.attention.attention.key.weight"]
    with pytest.raises(CheckpointError, match=r"encoder\.blocks\.1\.attn\.qkv\.weight"):
        import_state(build_model(FIXTURE), state, "memory")


# ---- sources -------------------------------------------------------------------------------------


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code in a checkpoint was run",)


def test_pickles_are_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": released(), "extra": Harmful()}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Harmful()))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(CheckpointError, match="foreign code"):
            import_weights(build_model(FIXTURE), tmp_path / name)
    assert "was run" not in capsys.readouterr().out


def test_sources_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "cut.safetensors").write_bytes(PRETRAINING.read_bytes()[:5000])
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 nothing")
    (tmp_path / "list.pth").write_bytes(b"")
    (tmp_path / "weights.txt").write_text("")
    torch.save([1, 2], tmp_path / "numbers.pth")
    (tmp_path / "folder").mkdir()
    for source, message in (
        (tmp_path / "cut.safetensors", "cannot be read"),
        (tmp_path / "cut.pth", "cannot be read"),
        (tmp_path / "list.pth", "cannot be read"),
        (tmp_path / "weights.txt", "checkpoints end in"),
        (tmp_path / "numbers.pth", "not a state dict"),
        (tmp_path / "folder", "no weights there"),
        (tmp_path / "absent.pth", "no such file or folder"),
        ("someone/no-such-videomae", "give the path of the folder"),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            import_weights(build_model(FIXTURE), source)
        assert "\n" not in str(caught.value)


def test_sharded_folder(tmp_path: Path) -> None:
    state = released()
    first = dict(list(state.items())[:20])
    rest = dict(list(state.items())[20:])
    safetensors.torch.save_file(first, tmp_path / "model-1.safetensors")
    safetensors.torch.save_file(rest, tmp_path / "model-2.safetensors")
    shards = {name: f"model-{1 if name in first else 2}.safetensors" for name in state}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    a, b = build_model(FIXTURE), build_model(FIXTURE)
    import_weights(a, tmp_path)
    import_state(b, state, "memory")
    assert equal(a, b)


# ---- our exports ---------------------------------------------------------------------------------


@pytest.mark.parametrize("objectives", [OBJECTIVES, ("vtc",)], ids="+".join)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_round_trip_is_bit_exact(
    tmp_path: Path, objectives: tuple[str, ...], dtype: torch.dtype
) -> None:
    model = shaken(build_model(small(text_decoder_depth=1, drop_path=0.1), objectives, seed=9)).to(
        dtype
    )
    save_pretrained(model, tmp_path / "here")
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    again = from_pretrained(tmp_path / "here")
    assert (
        isinstance(again, SimVTP)
        and again.config == model.config
        and again.objectives == model.objectives
    )
    assert equal(model, again)
    batch = random_batch(CONFIG)
    if dtype == torch.float32:
        a, b = (
            model.eval()(batch, masks_for(batch, CONFIG)),
            again.eval()(batch, masks_for(batch, CONFIG)),
        )
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_round_trip_of_the_dual_encoder(tmp_path: Path) -> None:
    dual = shaken(DualEncoder.from_unified(build_model(CONFIG), drop_path=0.2, pooling="with_pads"))
    save_pretrained(dual, tmp_path)
    again = from_pretrained(tmp_path)
    assert isinstance(again, DualEncoder) and again.config == dual.config and equal(dual, again)


def test_an_export_serves_as_starting_point(tmp_path: Path) -> None:
    model = shaken(build_model(CONFIG))
    save_pretrained(model, tmp_path)
    start = build_model(small(init_video=str(tmp_path)), seed=5)
    initialise_from(start, start.config)
    assert equal(model, start)


def test_damaged_exports(tmp_path: Path) -> None:
    save_pretrained(build_model(CONFIG), tmp_path)
    description = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"format": 99}, "export the model again"),
        ({"model": {**description["model"], "depth": 3}}, "same depth"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(description | change))
        with pytest.raises(CheckpointError, match=message):
            from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        from_pretrained(tmp_path / "absent")


def test_released_naming_round_trip(tmp_path: Path) -> None:
    state = released()
    model = build_model(FIXTURE)
    import_state(model, state, "memory")
    export_released(model, tmp_path / "out.safetensors")
    written = safetensors.torch.load_file(tmp_path / "out.safetensors")
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], state[name]) for name in state)


def test_released_dual_naming_round_trip(tmp_path: Path) -> None:
    """The unused embedding of each copy comes from the other copy.

    All that is used comes back bit by bit.
    """
    state = released(DUAL)
    model = DualEncoder(replace(FIXTURE, depth=2))
    done = import_state(model, state, "memory")
    export_released(model, tmp_path / "out.safetensors")
    written = safetensors.torch.load_file(tmp_path / "out.safetensors")
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], state[name]) for name in done.names)
    word = "text_embeddings.word_embeddings.weight"
    assert torch.equal(written[f"video_encoder.{word}"], state[f"text_encoder.{word}"])


def test_a_deeper_text_decoder_has_no_released_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="text_decoder_depth=0"):
        export_released(build_model(small(text_decoder_depth=1)), tmp_path / "out.safetensors")
