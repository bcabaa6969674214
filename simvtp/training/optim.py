"""AdamW with the published parameter groups, layer-wise decay, clipping and the weight average."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from simvtp.compat.fused_adamw import UnwrappedAdamW
from simvtp.config.train_config import TrainConfig
from simvtp.training.parallel.dtensor import is_dtensor

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")


def decays(name: str, parameter: Tensor) -> bool:
    """Returns True if weight decay applies: not to biases, 1-D tensors (published), learned tokens.

    A learned token, such as a mask token of shape [1, 1, D], is a vector written as a 3-D tensor:
    it does not decay either (released behaviour).
    """
    token = parameter.ndim >= 3 and parameter.squeeze().ndim <= 1
    return not (parameter.ndim <= 1 or name.endswith(".bias") or name == "bias" or token)


def depth_of(name: str, blocks: int) -> int:
    """Returns 0 for embeddings, n + 1 for encoder block n, blocks + 1 for all that follows.

    Norm, heads and decoders follow the encoder blocks.
    """
    if "decoder" in name:
        return blocks + 1
    found = _BLOCK.search(name)
    if found:
        return int(found.group(1)) + 1
    return 0 if "embed" in name else blocks + 1


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Returns groups of parameters with `weight_decay` and `lr_scale`.

    With `layer_decay` below 1 a parameter's rate is scaled by layer_decay ** (blocks + 1 - depth):
    the last layers learn at the full rate, the embeddings slowest (BEiT's rule). Depth is read from
    the names: `...blocks.N...`, not in a decoder.
    """
    named = [
        (name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad
    ]
    numbers = [
        int(found.group(1))
        for name, _ in named
        if "decoder" not in name and (found := _BLOCK.search(name))
    ]
    blocks = max(numbers, default=-1) + 1
    groups: dict[tuple[bool, int], dict[str, Any]] = {}
    for name, parameter in named:
        depth = depth_of(name, blocks) if layer_decay != 1.0 else blocks + 1
        decay = decays(name, parameter)
        scale = layer_decay ** (blocks + 1 - depth)
        group = groups.setdefault(
            (decay, depth),
            {"params": [], "weight_decay": weight_decay if decay else 0.0, "lr_scale": scale},
        )
        group["params"].append(parameter)
    return list(groups.values())


def build_optimizer(
    model: nn.Module, train: TrainConfig, device: torch.device
) -> torch.optim.AdamW:
    """Returns AdamW over `parameter_groups`, fused where torch has it (CPU and CUDA)."""
    groups = parameter_groups(model, train.weight_decay, train.layer_decay)
    fused = device.type in ("cuda", "cpu")
    return UnwrappedAdamW(
        groups, lr=train.lr, betas=(train.beta1, train.beta2), eps=train.eps, fused=fused
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of the next step, scaled for each group."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def clip_gradients(parameters: Iterable[Tensor], limit: float) -> Tensor:
    """Scales the gradients down to the norm `limit` (0 leaves them).

    Returns:
        Their norm before, a 0-d tensor (no host sync).
    """
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(
        [parameter.grad for parameter in parameters if parameter.grad is not None]
    )
    if is_dtensor(norm):  # sharded gradients: the norm over all shards
        norm = cast(Any, norm).full_tensor()
    if limit > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Sets average <- decay * average + (1 - decay) * model; buffers are copied."""
    averaged: list[Tensor] = list(average.parameters())
    current: list[Tensor] = list(model.parameters())
    torch._foreach_lerp_(averaged, current, 1 - decay)
    for copy, buffer in zip(average.buffers(), model.buffers(), strict=True):
        copy.copy_(buffer)
