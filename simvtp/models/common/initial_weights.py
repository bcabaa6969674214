"""Initial weights that depend on the seed and on a parameter's name alone."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

INITIAL_STD = 0.02  # embeddings and mask token: BERT's and VideoMAE's value


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Fills every parameter of `model` from its own generator, seeded by (seed, parameter name).

    So a parameter starts from the same values, whichever other modules exist. Linear weights:
    Xavier uniform (heads: as released; the rest: VideoMAE's rule, the fused qkv counted as one
    matrix and the tube embedding as a matrix); biases 0; LayerNorm 1 and 0; embeddings and mask
    token: normal with standard deviation 0.02, truncated at 0.04 (ours; BERT does not truncate).
    """
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full_name = f"{path}.{name}" if path else name
            generator = _generator(seed, full_name)
            parameter.copy_(_initial_values(module, name, parameter.shape, generator))


@torch.no_grad()
def draw_default_linear(layer: nn.Module, path: str, seed: int) -> None:
    """Fills weight and bias of a linear layer as torch does by default, by seed and name.

    Both are uniform in ±1 / sqrt(inputs).

    Args:
        path: of the layer in its model.
    """
    assert isinstance(layer, nn.Linear)
    limit = layer.in_features**-0.5
    for name, parameter in layer.named_parameters():
        drawn = torch.empty(parameter.shape)
        nn.init.uniform_(drawn, -limit, limit, generator=_generator(seed, f"{path}.{name}"))
        parameter.copy_(drawn)


def _generator(seed: int, full_name: str) -> torch.Generator:
    """Returns the generator of a parameter."""
    digest = hashlib.sha256(f"{seed}/{full_name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _initial_values(
    module: nn.Module, name: str, shape: torch.Size, generator: torch.Generator
) -> Tensor:
    if name.endswith("bias"):
        return torch.zeros(shape)
    if isinstance(module, nn.LayerNorm):
        return torch.ones(shape)
    if isinstance(module, nn.Linear):
        return nn.init.xavier_uniform_(torch.empty(shape), generator=generator)
    limit = 2 * INITIAL_STD
    return nn.init.trunc_normal_(
        torch.empty(shape), std=INITIAL_STD, a=-limit, b=limit, generator=generator
    )
