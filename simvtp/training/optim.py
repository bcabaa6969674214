"""AdamW with the published parameter groups, layer-wise decay, clipping and the weight average."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from simvtp.compat.fused_adamw import UnwrappedAdamW
from simvtp.config.train_config import TrainConfig
from simvtp.models.common.decoders import TokenDecoder
from simvtp.models.common.embeddings import InputEmbedding
from simvtp.models.common.layers import TransformerBlock
from simvtp.training.parallel.dtensor import is_dtensor

# layers whose weights are matrices; all other parameters are vectors, tokens or positions
_MATRIX_LAYERS = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def decays(owner: nn.Module, name: str) -> bool:
    """Returns True if weight decay applies to the parameter `name` of the module `owner`.

    It applies to the weights of linear layers, convolutions and tables of words (published), and
    not to biases, norms, and learned tokens and positions (CLS, mask token), whatever their shape.
    """
    return name == "weight" and isinstance(owner, _MATRIX_LAYERS)


@dataclass(frozen=True)
class _Stack:
    """The encoder blocks of one tower: the path of their list, and their number."""

    path: str
    blocks: int


def _encoder_stacks(model: nn.Module) -> list[_Stack]:
    """Returns the stacks of blocks of `model` that are in no decoder."""
    decoders = [path for path, module in model.named_modules() if isinstance(module, TokenDecoder)]
    stacks = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{decoder}.") for decoder in decoders)
        if not isinstance(module, nn.ModuleList) or inside or not len(module):
            continue
        if all(isinstance(block, TransformerBlock) for block in module):
            stacks.append(_Stack(path, len(module)))
    return stacks


def _nearest_stack(path: str, stacks: list[_Stack]) -> _Stack:
    """Returns the stack that shares the longest beginning of its path with `path`."""

    def shared(stack: _Stack) -> int:
        parts = zip(path.split("."), stack.path.split("."), strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], parts))

    return max(stacks, key=shared, default=_Stack("", 0))


def layers_above(model: nn.Module) -> dict[str, int]:
    """Returns for each module path of an encoder the number of layers above it.

    The last block of a tower has 1 layer above it (the norm and the heads), the first of n has n,
    and the embedding n + 1. Modules that are not listed have none: norms, heads, decoders.
    """
    stacks = _encoder_stacks(model)
    above = {}
    for stack in stacks:
        for number in range(stack.blocks):
            above[f"{stack.path}.{number}"] = stack.blocks - number
    for path, module in model.named_modules():
        if isinstance(module, InputEmbedding):
            above[path] = _nearest_stack(path, stacks).blocks + 1
    return above


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Returns groups of parameters with `weight_decay` and `lr_scale`.

    With `layer_decay` below 1 a parameter's rate is scaled by layer_decay ** `layers_above` (BEiT's
    rule): the last layers learn at the full rate, the embeddings slowest. Each tower counts its own
    blocks.
    """
    above = layers_above(model) if layer_decay != 1.0 else {}
    groups: dict[tuple[bool, int], dict[str, Any]] = {}
    seen: set[Tensor] = set()  # a parameter of two modules belongs to the first
    for path, owner in model.named_modules():
        layers = max(
            (above[part] for part in above if f"{path}.".startswith(f"{part}.")), default=0
        )
        for name, parameter in owner.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            decay = decays(owner, name)
            group = groups.setdefault(
                (decay, layers),
                {
                    "params": [],
                    "weight_decay": weight_decay if decay else 0.0,
                    "lr_scale": layer_decay**layers,
                },
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
