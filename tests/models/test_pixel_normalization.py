"""Imported models see pixels as they were trained to: a picture through both embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from simvtp.config.model_config import MACConfig
from simvtp.errors import CheckpointError
from simvtp.methods import build_model
from simvtp.models.common.embeddings import cut_tubes
from simvtp.models.mac.mac_model import MAC
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.models.weights.pixel_normalization import normalization_of
from simvtp.models.weights.pretrained import import_weights
from tests.models.test_image_vit import CONFIG, timm_state

SIZES: dict[str, Any] = {
    "image_size": 32,
    "frames": 4,
    "patch_size": 8,
    "dim": 48,
    "depth": 2,
    "heads": 3,
    "vocab_size": 50,
    "text_length": 8,
    "max_text_positions": 12,
}
NORMS = {
    "half": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    "ImageNet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "uneven": ([0.1, 0.4, 0.7], [0.2, 0.3, 0.6]),
}


def picture() -> Tensor:
    """Returns a picture, uint8 [1, 32, 32, 3]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8, generator=generator)


def patches_of(state: dict[str, Tensor], mean: list[float], std: list[float]) -> Tensor:
    """Returns what the image model computes of the picture: [1, 16, D], by a convolution."""
    pixels = (picture().double() / 255 - torch.tensor(mean)) / torch.tensor(std)
    kernel, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    image = pixels.permute(0, 3, 1, 2)
    return torch.nn.functional.conv2d(image, kernel.double(), bias.double(), stride=8).flatten(2).mT


def saved(folder: Path, files: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    state = timm_state()
    safetensors.torch.save_file(state, folder / "model.safetensors")
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return state


@pytest.mark.parametrize("method", ["simvtp", "mac"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_a_picture_gives_the_same_patches(
    tmp_path: Path, method: str, norm: str, file: str
) -> None:
    mean, std = NORMS[norm]
    timm, transformers = {"mean": mean, "std": std}, {"image_mean": mean, "image_std": std}
    content = {"pretrained_cfg": timm} if file == "config.json" else transformers
    state = saved(tmp_path, {file: content})
    clips = picture()[:, None].repeat(1, 4, 1, 1, 1)
    expected = patches_of(state, mean, std)
    if method == "mac":
        mac = MAC(MACConfig(**SIZES)).eval()
        mac.initialise(0)
        import_weights(mac, tmp_path)
        tokens = mac.video_tower.embedding(clips, None, 4)[:, 1:17]
        found = tokens - mac.video_tower.embedding.spatial  # time starts at 0
    else:
        model = build_model(CONFIG).eval()
        assert isinstance(model, SimVTP)
        import_weights(model, tmp_path)
        tokens = model.video_embedding(cut_tubes(clips, CONFIG))
        found = (tokens - model.video_embedding.position)[:, :16]
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_a_file_without_a_config_is_taken_as_imagenet_and_says_so(tmp_path: Path) -> None:
    saved(tmp_path, {})
    report = import_weights(build_model(CONFIG), tmp_path)
    assert any("no preprocessing config" in note for note in report.notes)


@pytest.mark.parametrize(
    "config",
    [
        {"pretrained_cfg": {"mean": [0.5, 0.5], "std": [0.5, 0.5, 0.5]}},
        {"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.0, 0.5]}},
        {"preprocessor_config": {"image_mean": "bright", "image_std": [1, 1, 1]}},
        {"preprocessor_config": {"image_mean": [0.5, 0.5, 0.5]}},
    ],
)
def test_a_config_without_three_numbers_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="vit: "):
        normalization_of(config, "vit")


def test_pixels_that_are_not_normalised() -> None:
    found = normalization_of({"preprocessor_config": {"do_normalize": False}}, "vit")
    assert found is not None and found.mean == (0.0, 0.0, 0.0) and found.std == (1.0, 1.0, 1.0)
