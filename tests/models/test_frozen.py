"""Frozen-in-Time as published: the reference file, its definition at many sizes, its recipes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from simvtp.config.model_config import MACConfig
from simvtp.config.recipes import get_recipe
from simvtp.config.tree import flatten, narrow
from simvtp.config.validation import check
from simvtp.errors import CheckpointError
from simvtp.experiment.parity import check_reference_file, main
from simvtp.methods import build_model
from simvtp.models.common.forward_options import DEFAULT_OPTIONS
from simvtp.models.mac.mac_layers import DividedBlock, TextAttention
from simvtp.models.mac.mac_model import MAC
from simvtp.training.lr_schedule import stage_rate
from tests.models.published_frozen import Sizes, other, results, with_frames, write_file
from tests.models.small_models import random_batch

PUBLISHED = (
    Path(__file__).resolve().parents[2] / "../shared/fixtures/frozen_published_a.safetensors"
)


def published() -> Path:
    if not PUBLISHED.is_file():
        pytest.skip("the reference file of Frozen-in-Time is not here")
    return PUBLISHED


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["config"])


def write(path: Path, tensors: dict[str, torch.Tensor], config: dict) -> Path:
    safetensors.torch.save_file(tensors, path, metadata={"config": json.dumps(config)})
    return path


# ---- the model -----------------------------------------------------------------------------------


def test_the_published_file_holds(capsys: pytest.CaptureFixture[str]) -> None:
    path = published()
    found = check_reference_file(path)
    assert [one for one in found if not one.ok] == [] and all(one.limit == 1e-5 for one in found)
    names = {one.name.split()[1] for one in found}
    assert names == {name for name in read(path)[0] if name.startswith(("grad", "out/"))} - {
        "out/loss"
    } | {"loss"}
    assert main(path) == 0 and capsys.readouterr().out.splitlines()[-1].endswith("hold")


def test_the_definition_gives_what_the_published_file_has() -> None:
    tensors, config = read(published())
    known = {name: config[name] for name in Sizes.__dataclass_fields__ if name in config}
    sizes = other(**known)
    state = {
        name.removeprefix("state/module."): value
        for name, value in tensors.items()
        if name.startswith("state/")
    }
    inputs = (tensors[f"in/{name}"] for name in ("pixels_uint8", "input_ids", "attention_mask"))
    found = results(with_frames(state, sizes), sizes, *inputs)
    largest = max(value.abs().max() for name, value in found.items() if name.startswith("grad/"))
    for name in (name for name in tensors if name.startswith(("out/", "grad"))):
        expected = tensors[name].double()
        limit = 1e-6 * max(float(expected.abs().max()), 1e-9 * float(largest))
        assert float((found[name] - expected).abs().max()) <= limit, name


CASES = {
    "as the file": (Sizes(), 0),
    "one frame of four": (other(frames_given=1), 0),
    "three frames of eight": (other(num_frames=8, frames_given=3), 0),
    "weights of two frames, zeros": (other(), 2),
    "weights of one frame, repeated": (other(load_temporal_fix="interp"), 1),
    "weights of three frames, repeated": (
        other(num_frames=7, frames_given=7, load_temporal_fix="interp"),
        3,
    ),
    "weights of three frames, stretched": (
        other(num_frames=8, frames_given=5, load_temporal_fix="bilinear"),
        3,
    ),
    "weights of eight frames": (other(num_frames=3, frames_given=2), 8),
    "an image model": (other(num_frames=1, frames_given=1), 0),
    "other sizes": (
        other(
            image_size=30,
            patch_size=6,
            num_frames=2,
            frames_given=2,
            embed_dim=16,
            depth=3,
            heads=1,
            hidden_dim=17,
            text_dim=36,
            text_depth=1,
            text_heads=6,
            projection_dim=5,
            temperature=0.2,
            batch=5,
            text_length=11,
        ),
        0,
    ),
    "one patch a frame": (other(image_size=8, num_frames=6, frames_given=6, embed_dim=12), 0),
}


@pytest.mark.parametrize("case", CASES)
def test_the_model_is_frozen_by_its_definition_at_any_size(case: str, tmp_path: Path) -> None:
    sizes, trained = CASES[case]
    prefix = "" if case == "other sizes" else "module."
    path = write_file(tmp_path / "made.safetensors", sizes, trained, prefix)
    found = check_reference_file(path, (torch.float64,))
    assert [one for one in found if not one.ok] == []
    elements = [one for one in found if " grad/" in one.name]
    assert len(elements) == sum(name.startswith("grad/") for name in read(path)[0])
    assert max(one.relative for one in found) < 1e-6


@pytest.mark.parametrize(
    "name",
    [
        "out/video_embedding",
        "out/loss",
        "grad/video_model.blocks.1.timeattn.qkv.weight",
        "grad/video_model.cls_token",
        "grad/text_model.transformer.layer.0.attention.v_lin.bias",
        "grad_norm/video_model.temporal_embed",
        "state/module.video_model.blocks.0.timeattn.qkv.bias",
        "state/module.txt_proj.1.bias",
    ],
)
def test_a_changed_element_is_found(name: str, tmp_path: Path) -> None:
    tensors, config = read(write_file(tmp_path / "made.safetensors", Sizes()))
    changed = tensors[name].clone()
    changed.view(-1)[0] += 1e-3 * changed.abs().max()
    path = write(tmp_path / "off.safetensors", {**tensors, name: changed}, config)
    assert any(not one.ok for one in check_reference_file(path, (torch.float64,)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("image_size", "has no 'image_size'"),
        ("heads", "has no 'heads'"),
        ("temperature", "has no 'temperature'"),
        ("in/pixels_uint8", "no tensor 'in/pixels_uint8'"),
        ("out/similarity", "no tensor 'out/similarity'"),
        ("state/module.txt_proj.1.weight", "txt_proj|text_projection.weight"),
        ("state/module.vid_proj.0.weight", "no weight 'vid_proj.0.weight'"),
        ("state/module.video_model.pos_embed", "no weight 'video_model.pos_embed'"),
        ("state/module.video_model.cls_token", "no cls_token"),
        ("state/module.text_model.embeddings.word_embeddings.weight", "no weight 'text_model"),
        ("state/module.video_model.blocks.1.norm3.weight", "time_norm.weight"),
    ],
)
def test_what_a_file_lacks_is_one_sentence(name: str, message: str, tmp_path: Path) -> None:
    tensors, config = read(write_file(tmp_path / "made.safetensors", Sizes()))
    tensors.pop(name, None)
    config.pop(name, None)
    path = write(tmp_path / "less.safetensors", tensors, config)
    with pytest.raises(CheckpointError, match=message):
        check_reference_file(path, (torch.float64,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 40}, "does not give the 16 positions"),
        ({"image_size": "32"}, "must be a whole number"),
        ({"num_frames": 2.5}, "must be a whole number"),
        ({"num_frames": 3}, "has 4 frames, but the model has positions for 3"),
        ({"heads": 5}, "heads=5 in its metadata does not divide the width 24"),
        ({"depth": 3}, "'depth' in its metadata is 3, but its weights have 2"),
        ({"layer_norm_eps_text": 1e-5}, "layer_norm_eps_text=1e-05"),
        ({"load_temporal_fix": "cubic"}, "load_temporal_fix=cubic"),
    ],
)
def test_contradictions_are_one_sentence(change: dict, message: str, tmp_path: Path) -> None:
    tensors, config = read(write_file(tmp_path / "made.safetensors", Sizes()))
    path = write(tmp_path / "odd.safetensors", tensors, {**config, **change})
    with pytest.raises(CheckpointError, match=message):
        check_reference_file(path, (torch.float64,))


# ---- the recipes ---------------------------------------------------------------------------------

# of Frozen's released code; sizes, batches and schedule are apart
PUBLISHED_SETTINGS = {
    "masks.video_ratio": 0.0,
    "masks.text_ratio": 0.0,
    "model.cls_counts": "once",
    "model.time_attention": "rank",
    "model.text_projection": "relu",
    "model.time_init": "zero_qkv",
    "model.projection_init": "torch",
    "model.more_frames": "zero",
    "model.frames": 4,
    "model.text_dropout": 0.1,
    "model.text_block_dropout": 0.1,
    "model.text_padding": "longest",
    "model.drop_path": 0.0,
    "losses.temperature": 0.05,
    "losses.vtc_negatives": "global",
    "data.frame_window": "parts",
    "evaluate.segments": 1,
    "evaluate.crops": 1,
    "data.train_crop": "random_resized",
    "data.crop_area": 0.5,
    "finetune.train_crop": "random_resized",
    "finetune.crop_area": 0.5,
}
PUBLISHED_OPTIMISER = {
    "weight_decay": 0.0,
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-6,
    "clip_norm": 0.0,
    "layer_decay": 1.0,
    "ema_decay": 0.0,
    "precision": "fp32",
}


@pytest.mark.parametrize("name", ["frozen", "tiny_frozen"])
def test_the_recipes_have_the_published_settings(name: str) -> None:
    recipe = get_recipe(name)
    check(replace(recipe, data=replace(recipe.data, dataset="shapes", tokenizer="builtin")))
    settings = flatten(recipe)
    expected = PUBLISHED_SETTINGS | {
        f"{stage}.{key}": value
        for stage in ("pretrain", "finetune.train")
        for key, value in PUBLISHED_OPTIMISER.items()
    }
    assert {key: settings[key] for key in expected} == expected


def test_the_rate_of_frozen_is_constant_and_the_small_recipe_flips_nothing() -> None:
    recipe = get_recipe("frozen")
    for train in (recipe.pretrain, recipe.finetune.train):
        assert [stage_rate(step, 50, train) for step in range(50)] == [pytest.approx(3e-5)] * 50
    assert recipe.data.flip == recipe.finetune.flip == 0.5
    small = get_recipe("tiny_frozen")
    assert small.data.flip == small.finetune.flip == 0.0  # captions name left and right


def test_the_start_is_the_published_one() -> None:
    """Time attention gives 0 and can move; the projections are torch's default."""
    config = replace(narrow(get_recipe("tiny_frozen").model, MACConfig), vocab_size=50)
    model = build_model(config, ("vtc",), 0)
    assert isinstance(model, MAC)
    for block in model.video_tower.blocks.divided_blocks():
        attention = block.time_attn
        assert not attention.qkv.weight.any() and not attention.fused_bias().any()
        assert (attention.proj.weight == 1).all() and not attention.proj.bias.any()
    assert not model.video_tower.embedding.temporal.any()
    for layer in (model.video_projection, model.text_projection):
        limit = layer.in_features**-0.5
        for parameter in layer.parameters():
            assert parameter.abs().max() <= limit and parameter.std() > limit / 3
    outputs = model(random_batch(config), None)
    outputs["video_feature"].square().sum().backward()
    first = model.video_tower.blocks[0]
    assert isinstance(first, DividedBlock)
    moves = first.time_attn.qkv.weight.grad
    assert moves is not None and moves[2 * config.dim :].any() and not moves[: config.dim].any()


def test_dropout_of_the_text_blocks_has_its_rate_and_only_in_training() -> None:
    config = replace(narrow(get_recipe("tiny_frozen").model, MACConfig), vocab_size=50)
    config = replace(config, text_dropout=0.0, text_block_dropout=0.3)
    model = build_model(config, ("vtc",), 0)
    assert isinstance(model, MAC)
    batch = random_batch(config, size=6)
    with torch.no_grad():
        plain = model.eval().embed_text(batch.input_ids, batch.attention_mask)
        repeated = model.embed_text(batch.input_ids, batch.attention_mask)
        model.train()
        torch.manual_seed(0)
        drawn = [model.embed_text(batch.input_ids, batch.attention_mask) for _ in range(2)]
    assert torch.equal(plain, repeated) and not torch.equal(*drawn)
    x = torch.zeros(400, 5, config.text_width)
    weights, output = model.text_tower.blocks._draw(x, DEFAULT_OPTIONS)
    assert weights is not None and output is not None
    for scale in (weights, output):
        assert scale.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]
        assert (scale == 0).double().mean() == pytest.approx(0.3, abs=0.02)


def test_attention_without_dropped_weights_is_plain_attention() -> None:
    attention = TextAttention(12, 3).double()
    x = torch.randn(4, 6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = (torch.arange(6) < torch.tensor([[6], [4], [2], [1]]))[:, None, None]
    torch.testing.assert_close(
        attention.forward_dropped(x, seen, torch.ones(4, 3, 6, 6)), attention(x, seen)
    )
