"""Targets of MVM beyond pixels, against definitions in float64 and Python."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from simvtp.config.mask_counts import hog_cell
from simvtp.config.model_config import SimVTPConfig
from simvtp.config.overrides import override
from simvtp.config.recipes import get_recipe
from simvtp.config.train_config import LossConfig
from simvtp.config.validation import check
from simvtp.errors import ConfigError
from simvtp.methods import build_model
from simvtp.models.common.embeddings import cut_tubes
from simvtp.models.simvtp.video_targets import feature_target, oriented_gradients
from simvtp.training.objectives import PretrainObjective
from tests.models.small_models import masks_for, random_batch, small

SOBEL = ((1, 0, -1), (2, 0, -2), (1, 0, -1))


def mirrored(place: int, size: int) -> int:
    """Place of a pixel beyond the border, which is mirrored without repeating the border."""
    place = abs(place)
    return place if place < size else 2 * (size - 1) - place


def defined_hog(frame: Tensor, patch: int, cell: int) -> Tensor:
    """MaskFeat's histograms of one frame [H, W, 3], pixel by pixel: float64 [patches, Q]."""
    pixels: list[list[list[float]]] = frame.double().tolist()
    height, width, side = len(pixels), len(pixels[0]), patch // cell
    rows, columns = height // patch, width // patch
    shape = (rows, columns, side, side, 3, 9)
    totals = [0.0] * math.prod(shape)
    for y in range(height):
        for x in range(width):
            for channel in range(3):
                around = [
                    [
                        pixels[mirrored(y + i, height)][mirrored(x + j, width)][channel]
                        for j in (-1, 0, 1)
                    ]
                    for i in (-1, 0, 1)
                ]
                across = sum(SOBEL[i][j] * around[i][j] for i in range(3) for j in range(3))
                down = sum(SOBEL[j][i] * around[i][j] for i in range(3) for j in range(3))
                turn = math.floor(math.atan2(across, down) / math.pi * 9) % 9
                place = (y // patch) * columns + x // patch
                place = (place * side + y % patch // cell) * side + x % patch // cell
                totals[(place * 3 + channel) * 9 + turn] += math.hypot(across, down)
    sums = torch.tensor(totals, dtype=torch.float64).view(shape)
    length = sums.square().sum(dim=-1, keepdim=True).sqrt()
    return (sums / length.clamp(min=1e-12)).flatten(2).flatten(0, 1)


@pytest.mark.parametrize(
    ("image", "patch", "cell"), [(8, 4, 4), (16, 8, 8), (32, 16, 8), (24, 12, 6), (14, 7, 7)]
)
def test_gradients_are_those_of_maskfeat(image: int, patch: int, cell: int) -> None:
    config = SimVTPConfig(image_size=image, patch_size=patch, frames=6, tubelet_size=3)
    assert hog_cell(config) == cell
    g = torch.Generator().manual_seed(image)
    clips = torch.randint(0, 256, (2, 6, image, image, 3), dtype=torch.uint8, generator=g)
    clips[0, 0] = (clips[0, 0] > 127).to(torch.uint8) * 200  # gradients along the axes, and none
    clips[1, 3] = 77
    found = oriented_gradients(cut_tubes(clips, config), config)
    assert found.dtype is torch.float32 and found.shape == (
        2,
        config.tubes,
        27 * (patch // cell) ** 2,
    )
    frames = [torch.cat([defined_hog(clip[t], patch, cell) for t in (0, 3)]) for clip in clips]
    torch.testing.assert_close(found.double(), torch.stack(frames), atol=1e-5, rtol=0)
    assert not found[1, config.tubes // 2 :].any(), "a frame of one colour has no gradient"


def test_gradients_know_directions_and_neither_brightness_nor_contrast() -> None:
    config = SimVTPConfig(image_size=16, patch_size=8, frames=2)
    ramp = torch.arange(16) * 5
    down = ramp[:, None, None].expand(16, 16, 3).to(torch.uint8)
    for frame, where in ((down, 0), (down.transpose(0, 1), 4), (255 - down, 0)):
        clips = frame.expand(1, 2, 16, 16, 3).contiguous()
        found = oriented_gradients(cut_tubes(clips, config), config).unflatten(-1, (3, 9))
        assert bool((found.argmax(dim=-1) == where).all())
        for changed in (clips // 5, clips // 5 * 2 + 30):  # exact in bytes
            again = oriented_gradients(cut_tubes(changed, config), config)
            torch.testing.assert_close(again, found.flatten(-2))


def test_differences_are_those_of_the_frames_of_a_tube() -> None:
    config = SimVTPConfig(image_size=16, patch_size=8, frames=6, tubelet_size=3)
    batch = random_batch(config)
    tubes = cut_tubes(batch.clips, config)
    every = torch.arange(config.tubes).expand(len(tubes), -1)
    found = feature_target("difference", tubes, every, config)
    clips = batch.clips.double() / 255
    first, second = clips[:, 1::3] - clips[:, ::3], clips[:, 2::3] - clips[:, 1::3]
    pairs = torch.stack([first, second], dim=2).flatten(1, 2)  # [B, 2 t, H, W, 3]
    patches = pairs.reshape(3, 2, 2, 2, 8, 2, 8, 3).permute(0, 1, 3, 5, 2, 4, 6, 7)
    expected = patches.reshape(3, config.tubes, -1)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)
    chosen = torch.tensor([[5, 0], [1, 2], [7, 7]])
    some = feature_target("difference", tubes, chosen, config)
    assert torch.equal(some, found.gather(1, chosen[..., None].expand(-1, -1, found.shape[2])))


@pytest.mark.parametrize("target", ["hog", "difference"])
def test_mvm_compares_the_first_values_and_asks_nothing_of_the_others(target: str) -> None:
    config = small()
    batch, model = random_batch(config), build_model(config, ("mvm",))
    masks = masks_for(batch, config)
    losses = LossConfig(mlm=0, vtc=0, vtm=0, mvm_target=target)  # type: ignore[arg-type]
    outputs = model(batch, masks)
    found, _ = PretrainObjective(losses, config)(outputs)
    wanted = feature_target(target, outputs["video_tubes"], masks.masked, config)  # type: ignore[arg-type]
    values = wanted.shape[-1]
    assert values == {"hog": 27, "difference": 192}[target] < config.tube_values
    prediction = outputs["video_prediction"]
    torch.testing.assert_close(found["mvm"], (prediction[..., :values] - wanted).square().mean())
    found["mvm"].backward()
    gradient = model.video_decoder.head.weight.grad  # type: ignore[union-attr]
    assert isinstance(gradient, Tensor)
    assert bool(gradient[:values].any(dim=1).all()) and not gradient[values:].any()
    with pytest.raises(ValueError, match="needs the sizes of the tubes"):
        PretrainObjective(losses)(outputs)


@pytest.mark.parametrize("target", ["hog", "difference"])
def test_the_loss_of_parts_is_that_of_the_whole_batch(target: str) -> None:
    config = small()
    batch, model = random_batch(config, 4), build_model(config, ("mvm",))
    masks = masks_for(batch, config)
    objective = PretrainObjective(
        LossConfig(mlm=0, vtc=0, vtm=0, mvm_target=target),  # type: ignore[arg-type]
        config,
    )
    outputs = model(batch, masks)
    whole = objective(outputs)[0]["mvm"]
    parts = [
        objective({name: value[rows] for name, value in outputs.items()})[0]["mvm"]
        for rows in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["losses.mvm_target=difference", "model.tubelet_size=1"], "make it 2 or more"),
        (["losses.mvm_target=hog", "model.patch_size=2"], "raise the patch size"),
    ],
)
def test_tubes_without_the_values_are_refused(settings: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(override(get_recipe("tiny"), settings))
    check(override(get_recipe("tiny"), [*settings, "losses.mvm=0"]))
