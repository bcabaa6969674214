"""An image ViT as the beginning of the video encoder.

On a still clip it sees what the image model sees.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from simvtp.config.model_config import SimVTPConfig
from simvtp.errors import CheckpointError
from simvtp.methods import build_model
from simvtp.models.common.embeddings import IMAGENET_MEAN, IMAGENET_STD, cut_tubes
from simvtp.models.weights.pretrained import import_state, import_weights, initialise_from
from tests.models.weight_helpers import shaken

CONFIG = SimVTPConfig(
    image_size=32,
    frames=4,
    patch_size=8,
    tubelet_size=2,
    dim=48,
    depth=2,
    heads=3,
    decoder_dim=16,
    decoder_depth=1,
    decoder_heads=2,
    vocab_size=50,
    text_length=8,
    max_text_positions=12,
)


def still(config: SimVTPConfig) -> tuple[Tensor, Tensor]:
    # A clip of one picture, uint8 [2, T, H, W, 3], and that picture as an image model wants it, [2,
    # 3, H, W].
    g = torch.Generator().manual_seed(0)
    picture = torch.randint(
        0, 256, (2, 1, config.image_size, config.image_size, 3), dtype=torch.uint8, generator=g
    )
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    return picture.repeat(1, config.frames, 1, 1, 1), ((picture[:, 0] / 255 - mean) / std).permute(
        0, 3, 1, 2
    )


def blocks_alone(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    return model.encoder.blocks(tokens)  # type: ignore[union-attr,operator]


def test_transformers_naming(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    settings = ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=192,
        image_size=32,
        patch_size=8,
        layer_norm_eps=1e-6,
    )
    theirs = shaken(ViTModel(settings)).eval()
    theirs.save_pretrained(tmp_path)  # files have other names than modules
    ours = build_model(CONFIG).eval()
    done = import_weights(ours, tmp_path)
    assert done.kind == "image ViT, transformers naming" and len(done.unused) + len(
        done.names
    ) == len(theirs.state_dict())
    clips, picture = still(CONFIG)
    patches = theirs.embeddings.patch_embeddings(picture)  # [2, places, D]
    tubes = ours.video_embedding(cut_tubes(clips, CONFIG)) - ours.video_embedding.position
    torch.testing.assert_close(
        tubes.unflatten(1, (2, -1)), patches[:, None].expand(-1, 2, -1, -1), rtol=1e-4, atol=1e-4
    )
    tokens = torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = tokens
        for layer in theirs.encoder.layer if hasattr(theirs, "encoder") else theirs.layers:
            found = layer(expected)
            expected = found[0] if isinstance(found, tuple) else found
        torch.testing.assert_close(blocks_alone(ours, tokens), expected, rtol=1e-4, atol=1e-4)


def timm_state(depth: int = 2, width: int = 48) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(2)
    shapes = {
        "patch_embed.proj.weight": (width, 3, 8, 8),
        "patch_embed.proj.bias": (width,),
        "cls_token": (1, 1, width),
    }
    shapes |= {
        "pos_embed": (1, 17, width),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (7, width),
        "head.bias": (7,),
    }
    for number in range(depth):
        for name, rows, columns in (
            ("attn.qkv", 3, 1),
            ("attn.proj", 1, 1),
            ("mlp.fc1", 4, 1),
            ("mlp.fc2", 1, 4),
        ):
            shapes[f"blocks.{number}.{name}.weight"] = (rows * width, columns * width)
            shapes[f"blocks.{number}.{name}.bias"] = (rows * width,)
        for name in ("norm1", "norm2"):
            shapes |= {
                f"blocks.{number}.{name}.weight": (width,),
                f"blocks.{number}.{name}.bias": (width,),
            }
    return {name: torch.randn(shape, generator=g) * 0.05 for name, shape in shapes.items()}


def test_timm_naming() -> None:
    state, model = timm_state(), build_model(CONFIG).eval()
    done = import_state(model, state, "vit")
    assert done.kind == "image ViT, timm naming" and set(done.unused) == {
        "cls_token",
        "pos_embed",
        "head.weight",
        "head.bias",
    }
    attention = model.encoder.blocks[1].attn
    torch.testing.assert_close(attention.q_bias, state["blocks.1.attn.qkv.bias"][:48])
    torch.testing.assert_close(attention.v_bias, state["blocks.1.attn.qkv.bias"][96:])
    # the same attention with the bias of k, which softmax does not see
    x = torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(3))
    q, k, v = torch.nn.functional.linear(
        x, state["blocks.1.attn.qkv.weight"], state["blocks.1.attn.qkv.bias"]
    ).chunk(3, dim=-1)
    heads = [part.unflatten(-1, (3, 16)).transpose(1, 2) for part in (q, k, v)]
    mixed = torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    expected = torch.nn.functional.linear(
        mixed, state["blocks.1.attn.proj.weight"], state["blocks.1.attn.proj.bias"]
    )
    torch.testing.assert_close(attention(x, None), expected, rtol=1e-4, atol=1e-5)
    clips, picture = still(CONFIG)
    patches = torch.nn.functional.conv2d(
        picture, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=8
    )
    tubes = model.video_embedding(cut_tubes(clips, CONFIG)) - model.video_embedding.position
    torch.testing.assert_close(
        tubes[:, :16], patches.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("spoil", ["patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"])
def test_an_image_model_of_another_size_is_refused(spoil: str) -> None:
    state = timm_state()
    state[spoil] = state[spoil][..., :5]
    with pytest.raises(CheckpointError):
        import_state(build_model(CONFIG), state, "vit")


def test_a_pre_training_with_fewer_objectives_is_a_beginning(tmp_path: Path) -> None:
    # What `--weights video=RUN/checkpoints/pretrain.safetensors` of the ablation of the initial
    # weights does.
    videos = shaken(build_model(CONFIG, ("mvm",)))
    file = tmp_path / "pretrain.safetensors"
    safetensors.torch.save_file(videos.state_dict(), file)
    model, untouched = build_model(CONFIG, seed=1), build_model(CONFIG, seed=1)
    (done,) = initialise_from(model, replace(CONFIG, init_video=str(file)))
    for name, value in model.state_dict().items():
        source = untouched if name.startswith(("text_decoder.", "match_head.")) else videos
        assert torch.equal(value, source.state_dict()[name]), name
    assert done.kept and all(
        name.startswith(("text_decoder.", "match_head.")) for name in done.kept
    )
    with pytest.raises(CheckpointError, match="are not in this checkpoint"):
        import_weights(model, file)
    other = replace(CONFIG, depth=3, init_video=str(file))
    with pytest.raises(CheckpointError, match="are not in this checkpoint"):
        initialise_from(build_model(other), other)
