"""Parameter groups, schedule, clipping, moving average."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from simvtp.config.model_config import MACConfig, SimVTPConfig
from simvtp.config.train_config import TrainConfig
from simvtp.models.downstream.retrieval_encoders import DualEncoder
from simvtp.models.mac.mac_model import MAC
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.training.lr_schedule import learning_rate, stage_rate, stage_steps
from simvtp.training.optim import (
    build_optimizer,
    clip_gradients,
    decays,
    parameter_groups,
    set_rate,
)
from simvtp.training.parallel.parallel_model import update_ema
from tests.training.training_runs import MODEL, make_model


def names_by_group(model: torch.nn.Module, **options: float) -> dict[str, dict]:
    """{parameter name: its group}."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        name_of[id(p)]: group
        for group in parameter_groups(model, 0.05, **options)
        for p in group["params"]
    }


def test_published_groups_decay_matrices_only() -> None:
    model = make_model(config=replace(MODEL, text_decoder_depth=1))
    found = names_by_group(model)
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert found[name]["weight_decay"] == (0.05 if parameter.ndim > 1 else 0.0), name
        assert found[name]["lr_scale"] == 1.0
    assert found["video_decoder.mask_token"]["weight_decay"] == 0.0
    assert found["encoder.blocks.0.attn.q_bias"]["weight_decay"] == 0.0
    assert found["text_embedding.word.weight"]["weight_decay"] == 0.05
    assert sum(len(group["params"]) for group in parameter_groups(model, 0.05)) == len(
        found
    )  # none twice


def test_what_decays() -> None:
    owners: dict[str, torch.nn.Module] = {
        "linear": torch.nn.Linear(3, 1),
        "words": torch.nn.Embedding(4, 3),
        "patches": torch.nn.Conv3d(3, 4, 2),
    }
    for name, owner in owners.items():
        assert decays(owner, "weight"), name
        assert not decays(owner, "bias"), name
    assert not decays(torch.nn.LayerNorm(4), "weight")
    assert not decays(torch.nn.Module(), "weight"), "a learned token or position of any shape"


# Every parameter of both methods, by role: (pattern, layers above it with 2 blocks in the video
# tower and 3 in MAC's text tower, decays). Written by hand from BEiT's rule.
SIMVTP_ROLES = (
    (r"video_embedding\.proj\.weight", 3, True),
    (r"video_embedding\.proj\.bias", 3, False),
    (r"text_embedding\.(word|position|token_type)\.weight", 3, True),
    (r"text_embedding\.norm\.(weight|bias)", 3, False),
    (r"encoder\.blocks\.0\.(attn\.(qkv|proj)|mlp\.fc[12])\.weight", 2, True),
    (r"encoder\.blocks\.0\.(attn\.[qv]_bias|(attn\.proj|mlp\.fc.)\.bias|norm[12]\..+)", 2, False),
    (r"encoder\.blocks\.1\.(attn\.(qkv|proj)|mlp\.fc[12])\.weight", 1, True),
    (r"encoder\.blocks\.1\.(attn\.[qv]_bias|(attn\.proj|mlp\.fc.)\.bias|norm[12]\..+)", 1, False),
    (r"encoder\.norm\..+|video_decoder\.norm\..+|video_decoder\.mask_token", 0, False),
    (r"video_decoder\.(bridge|head)\.weight", 0, True),
    (r"video_decoder\.blocks\.\d\.(attn\.(qkv|proj)|mlp\.fc[12])\.weight", 0, True),
    (r"video_decoder\.blocks\.\d\.(attn\.[qv]_bias|\S+\.bias|norm[12]\.weight)", 0, False),
    (r"(video_decoder|text_decoder)\.head\.bias|match_head\.bias", 0, False),
    (r"(text_decoder\.head|match_head)\.weight", 0, True),
)  # fmt: skip
MAC_ROLES = (
    (r"video_tower\.embedding\.(cls|spatial|temporal|proj\.bias)", 3, False),
    (r"video_tower\.embedding\.proj\.weight", 3, True),
    (r"video_tower\.blocks\.0\.((time_)?attn\.(qkv|proj)|mlp\.fc[12])\.weight", 2, True),
    (r"video_tower\.blocks\.0\.(\S+bias|(time_norm|norm[12])\.weight)", 2, False),
    (r"video_tower\.blocks\.1\.((time_)?attn\.(qkv|proj)|mlp\.fc[12])\.weight", 1, True),
    (r"video_tower\.blocks\.1\.(\S+bias|(time_norm|norm[12])\.weight)", 1, False),
    (r"video_tower\.norm\.(weight|bias)", 0, False),
    (r"text_tower\.embedding\.(word|position)\.weight", 4, True),
    (r"text_tower\.embedding\.norm\.(weight|bias)", 4, False),
    (r"text_tower\.blocks\.0\.(attn\.(qkv|proj)|mlp\.fc[12])\.weight", 3, True),
    (r"text_tower\.blocks\.0\.(\S+bias|norm[12]\.weight)", 3, False),
    (r"text_tower\.blocks\.1\.(attn\.(qkv|proj)|mlp\.fc[12])\.weight", 2, True),
    (r"text_tower\.blocks\.1\.(\S+bias|norm[12]\.weight)", 2, False),
    (r"text_tower\.blocks\.2\.(attn\.(qkv|proj)|mlp\.fc[12])\.weight", 1, True),
    (r"text_tower\.blocks\.2\.(\S+bias|norm[12]\.weight)", 1, False),
    (r"(video|text)_projection\.weight", 0, True),
    (r"(video|text)_projection\.bias", 0, False),
)  # fmt: skip


@pytest.mark.parametrize(("method", "roles"), [("simvtp", SIMVTP_ROLES), ("mac", MAC_ROLES)])
def test_every_parameter_has_the_rate_and_the_decay_of_its_role(
    method: str, roles: tuple[tuple[str, int, bool], ...]
) -> None:
    sizes: dict[str, Any] = {"vocab_size": 50, "dim": 8, "heads": 2, "depth": 2}
    model = (
        MAC(MACConfig(text_depth=3, **sizes))
        if method == "mac"
        else SimVTP(SimVTPConfig(decoder_dim=8, decoder_heads=2, decoder_depth=2, **sizes))
    )
    found = names_by_group(model, layer_decay=0.75)
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, group in found.items():
        (role,) = [role for role in roles if re.fullmatch(role[0], name)]
        expected = (pytest.approx(0.75 ** role[1]), 0.05 if role[2] else 0.0)
        assert (group["lr_scale"], group["weight_decay"]) == expected, name


def test_layer_decay_goes_by_block_and_spares_decoders_and_heads() -> None:
    found = names_by_group(make_model(), layer_decay=0.5)
    assert found["encoder.blocks.1.mlp.fc1.weight"]["lr_scale"] == 0.5
    assert found["encoder.blocks.0.mlp.fc1.weight"]["lr_scale"] == 0.25
    assert (
        found["video_embedding.proj.weight"]["lr_scale"]
        == found["text_embedding.word.weight"]["lr_scale"]
        == 0.125
    )
    for name in (
        "encoder.norm.weight",
        "video_decoder.blocks.0.mlp.fc1.weight",
        "text_decoder.head.weight",
        "match_head.weight",
    ):
        assert found[name]["lr_scale"] == 1.0, name
    dual = names_by_group(DualEncoder(MODEL), layer_decay=0.5)
    assert dual["text_encoder.encoder.blocks.0.attn.proj.bias"]["lr_scale"] == 0.25
    assert dual["video_encoder.embedding.proj.weight"]["lr_scale"] == 0.125
    assert dual["video_encoder.fc_norm.weight"]["lr_scale"] == 1.0


def test_rate_is_scaled_by_group_and_settings_arrive() -> None:
    train = TrainConfig(layer_decay=0.5, beta1=0.8, beta2=0.7, eps=1e-5, weight_decay=0.3)
    optimizer = build_optimizer(make_model(), train, torch.device("cpu"))
    set_rate(optimizer, 0.4)
    assert {group["lr"] for group in optimizer.param_groups} == {0.4, 0.2, 0.1, 0.05}
    for group in optimizer.param_groups:
        assert (
            group["betas"] == (0.8, 0.7)
            and group["eps"] == 1e-5
            and group["weight_decay"] in (0.0, 0.3)
        )


def test_published_schedule_to_the_digit() -> None:
    """Against the released construction.

    Linspace(0, base, warm-up) followed by the half cosine, over the published 2.4 M steps / 1000.
    """
    train = TrainConfig()  # 200 epochs, a fifth of them warm-up, batch 1024
    assert train.lr == pytest.approx(6e-4) and train.min_lr == pytest.approx(4e-5)
    total, warmup = 2400, 480
    iters = np.arange(total - warmup)
    expected = np.concatenate(
        [
            np.linspace(0, train.lr, warmup),
            train.min_lr
            + 0.5 * (train.lr - train.min_lr) * (1 + np.cos(np.pi * iters / len(iters))),
        ]
    )
    np.testing.assert_allclose(
        [stage_rate(step, total, train) for step in range(total)], expected, rtol=1e-12
    )


@pytest.mark.parametrize("warmup_ratio", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("total", [1, 2, 7, 100])
def test_schedule_stays_between_zero_and_peak(total: int, warmup_ratio: float) -> None:
    rates = [
        learning_rate(step, total, peak=1.0, low=0.1, warmup_ratio=warmup_ratio)
        for step in range(total)
    ]
    assert all(0 <= rate <= 1 for rate in rates)
    after = rates[round(warmup_ratio * total) :]
    assert after == sorted(after, reverse=True)
    assert not after or after[0] == 1.0


@pytest.mark.parametrize("total", [10, 97, 240])
@pytest.mark.parametrize(("warmup", "decay"), [(0.0, 0.2), (0.1, 0.2), (0.5, 0.5), (0.1, 0.0)])
def test_warmup_stable_decay(total: int, warmup: float, decay: float) -> None:
    train = TrainConfig(schedule="wsd", warmup_ratio=warmup, decay_ratio=decay)
    rates = [stage_rate(step, total, train) for step in range(total)]
    cosine = [stage_rate(step, total, TrainConfig(warmup_ratio=warmup)) for step in range(total)]
    first, falling = round(warmup * total), total - round(decay * total)
    assert rates[:first] == cosine[:first]
    assert rates[first:falling] == [train.lr] * (falling - first)
    steps = np.diff([*rates[falling:], train.min_lr])
    if decay:
        np.testing.assert_allclose(steps, (train.min_lr - train.lr) / round(decay * total))


def test_a_run_with_wsd_is_that_of_a_longer_one_until_it_decays() -> None:
    """With a warm-up of as many steps; so its scores before are those of every longer run."""
    short = TrainConfig(schedule="wsd", warmup_ratio=0.1, decay_ratio=0.2)
    long = TrainConfig(schedule="wsd", warmup_ratio=0.05, decay_ratio=0.2)
    rates = [[stage_rate(step, n, t) for step in range(80)] for n, t in ((100, short), (200, long))]
    assert rates[0] == rates[1]


def test_steps_of_a_stage() -> None:
    assert stage_steps(TrainConfig(epochs=10, batch_size=32), 62) == 620
    assert stage_steps(TrainConfig(epochs=0.5, batch_size=32), 62) == 31
    assert stage_steps(TrainConfig(epochs=0.1, batch_size=32), 1) == 1
    assert stage_steps(TrainConfig(epochs=10, batch_size=32, max_steps=7), 62) == 7


def test_clipping_reports_the_norm_from_before() -> None:
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 3.0)
    assert float(clip_gradients([parameter], 0.0)) == 6.0
    assert torch.equal(parameter.grad, torch.full((4,), 3.0))
    assert float(clip_gradients(iter([parameter]), 1.5)) == 6.0
    torch.testing.assert_close(parameter.grad.norm(), torch.tensor(1.5), rtol=1e-5, atol=0)


def test_moving_average_follows_its_formula() -> None:
    average, model = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    with torch.no_grad():
        average.weight.fill_(2.0)
        model.weight.fill_(4.0)
        model.running_mean.fill_(7.0)
    update_ema(average, model, 0.75)
    torch.testing.assert_close(average.weight, torch.full((3,), 2.5))
    assert torch.equal(average.running_mean, torch.full((3,), 7.0))


def test_fused_adamw_follows_the_formula_of_adamw() -> None:
    """Two steps by hand (Loshchilov & Hutter): decoupled decay, bias correction."""
    layer = torch.nn.Linear(2, 1).double()
    train = TrainConfig(batch_size=256, base_lr=0.1, weight_decay=0.2, beta1=0.9, beta2=0.95)
    optimizer = build_optimizer(layer, train, torch.device("cpu"))
    expected, m, v = layer.weight.detach().clone(), 0.0, 0.0
    for step in (1, 2):
        gradient = torch.tensor([[1.0, -2.0 * step]], dtype=torch.float64)
        layer.weight.grad, layer.bias.grad = gradient.clone(), torch.zeros(1, dtype=torch.float64)
        set_rate(optimizer, 0.1)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.95 * v + 0.05 * gradient**2
        expected = expected * (1 - 0.1 * 0.2) - 0.1 * (m / (1 - 0.9**step)) / (
            (v / (1 - 0.95**step)).sqrt() + 1e-8
        )
    torch.testing.assert_close(layer.weight.detach(), expected)


def test_published_sizes_have_a_group_for_every_parameter_at_vit_b_depth() -> None:
    with torch.device("meta"):
        model = DualEncoder(SimVTPConfig(dim=48, heads=3))
    scales = {group["lr_scale"] for group in parameter_groups(model, 0.05, 0.75)}
    assert scales == {0.75**i for i in range(14)}


def test_the_optimizer_is_that_of_torch_bit_for_bit_also_after_loading_its_state() -> None:
    torch.manual_seed(0)
    ours, theirs = make_model(), make_model()
    theirs.load_state_dict(ours.state_dict())
    train, device = TrainConfig(base_lr=1e-2), torch.device("cpu")
    one = build_optimizer(ours, train, device)
    other = torch.optim.AdamW(
        parameter_groups(theirs, train.weight_decay),
        lr=train.lr,
        betas=(train.beta1, train.beta2),
        eps=train.eps,
        fused=True,
    )
    assert isinstance(one, torch.optim.AdamW)
    for turn in range(4):
        for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            its.grad = mine.grad.clone()
        one.step()
        other.step()
        one.zero_grad(set_to_none=True)
        other.zero_grad(set_to_none=True)
        assert all(
            torch.equal(mine, its)
            for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True)
        )
        assert all(mine.grad is None and mine.requires_grad for mine in ours.parameters())
        if turn == 1:
            state = one.state_dict()
            one = build_optimizer(ours, train, device)
            one.load_state_dict(state)
