"""Image ViTs of transformers in the names of timm, of their files and of their modules."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_PATCHES = "embeddings.patch_embeddings.projection.weight"
# the names of files; transformers 5 has shorter ones for its modules
_NAMES = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.mask_token", "mask_token"),
    (r"embeddings\.patch_embeddings\.projection\.(.+)", r"patch_embed.proj.\1"),
    (r"(?:encoder\.layer|layers)\.(\d+)\.layernorm_before\.(.+)", r"blocks.\1.norm1.\2"),
    (r"(?:encoder\.layer|layers)\.(\d+)\.layernorm_after\.(.+)", r"blocks.\1.norm2.\2"),
    (
        r"(?:encoder\.layer|layers)\.(\d+)\.attention\.(?:output\.dense|o_proj)\.(.+)",
        r"blocks.\1.attn.proj.\2",
    ),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (r"layers\.(\d+)\.mlp\.(fc[12]\..+)", r"blocks.\1.mlp.\2"),
    (r"layernorm\.(.+)", r"norm.\1"),
)
_THIRD = re.compile(
    r"(?:encoder\.layer|layers)\.(\d+)\.attention\."
    r"(?:attention\.(q)uery|attention\.(k)ey|attention\.(v)alue|([qkv])_proj)\.(weight|bias)"
)


def is_transformers_vit(state: Mapping[str, Tensor]) -> bool:
    """Returns whether the names are those of an image ViT of transformers."""
    return any(key.endswith(_PATCHES) and value.dim() == 4 for key, value in state.items())


def timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a ViT of transformers in timm's names, with fused queries, keys and values.

    Names that have none, those of heads for example, stay as they are.
    """
    ready: dict[str, Tensor] = {}
    thirds: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        name = key.removeprefix("vit.")
        third = _THIRD.fullmatch(name)
        if third:
            block, kind = third[1], third[6]
            part = next(letter for letter in third.groups()[1:5] if letter)
            thirds.setdefault(f"blocks.{block}.attn.qkv.{kind}", {})[part] = value
        else:
            ready[_timm_name(name)] = value
    fused = {
        name: torch.cat([parts[letter] for letter in "qkv"])
        for name, parts in thirds.items()
        if len(parts) == 3
    }
    return ready | fused


def _timm_name(name: str) -> str:
    for theirs, timm in _NAMES:
        match = re.fullmatch(theirs, name)
        if match:
            return match.expand(timm)
    return name
