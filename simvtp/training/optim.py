"""AdamW with the published parameter groups, layer-wise decay, clipping and the moving average of
the weights.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from simvtp.config.train_config import TrainConfig
from simvtp.training.parallel.dtensor import is_cut

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: not to biases and 1-D tensors (published), nor to learned
    tokens.

    A learned token, such as a mask token of shape [1, 1, D], is a vector written as a 3-D tensor:
    it does not decay either (released behaviour).
    """
    token = parameter.ndim >= 3 and parameter.squeeze().ndim <= 1
    return not (parameter.ndim <= 1 or name.endswith(".bias") or name == "bias" or token)


def depth_of(name: str, blocks: int) -> int:
    """0 for embeddings, n + 1 for encoder block n, blocks + 1 for what comes after (norm, heads,
    decoders).
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
    """Groups of parameters with `weight_decay` and `lr_scale`.

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


def _unguarded(name: str) -> Any:
    """torch's method itself, below what was wrapped around it."""
    return inspect.unwrap(getattr(torch.optim.AdamW, name))


class _AdamW(torch.optim.AdamW):
    """torch's AdamW without its guard against being compiled.

    torch wraps these methods so that torch.compile leaves them alone, and imports its whole
    compiler at the first call of one: seconds of processor time at the start of each experiment.
    Only blocks are compiled here, never the optimizer. The methods are torch's own; where a version
    of torch does not wrap one, nothing changes.
    """

    add_param_group = _unguarded("add_param_group")
    zero_grad = _unguarded("zero_grad")
    state_dict = _unguarded("state_dict")
    load_state_dict = _unguarded("load_state_dict")
    step = torch.no_grad()(_unguarded("step"))


def build_optimizer(
    model: nn.Module, train: TrainConfig, device: torch.device
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, in its fused form where torch has one for the device (CPU and
    CUDA).
    """
    groups = parameter_groups(model, train.weight_decay, train.layer_decay)
    fused = device.type in ("cuda", "cpu")
    return _AdamW(groups, lr=train.lr, betas=(train.beta1, train.beta2), eps=train.eps, fused=fused)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next step, scaled for each group."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def clip_gradients(parameters: Iterable[Tensor], limit: float) -> Tensor:
    """Norm of all gradients, before they are scaled down to `limit` (0 = leave them); 0-d tensor,
    no host sync.
    """
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(
        [parameter.grad for parameter in parameters if parameter.grad is not None]
    )
    if is_cut(norm):  # gradients cut over the ranks: the norm of all parts
        norm = cast(Any, norm).full_tensor()
    if limit > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * model, parameter by parameter; buffers are copied."""
    averaged: list[Tensor] = list(average.parameters())
    current: list[Tensor] = list(model.parameters())
    torch._foreach_lerp_(averaged, current, 1 - decay)
    for kept, buffer in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(buffer)
