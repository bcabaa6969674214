"""Transformers' VideoMAE in the names of its authors' files."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_NAMES = (
    (r"embeddings\.patch_embeddings\.projection\.(.+)", r"patch_embed.proj.\1"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.query\.bias", r"blocks.\1.attn.q_bias"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.value\.bias", r"blocks.\1.attn.v_bias"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(.+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (r"encoder\.layer\.(\d+)\.layernorm_before\.(.+)", r"blocks.\1.norm1.\2"),
    (r"encoder\.layer\.(\d+)\.layernorm_after\.(.+)", r"blocks.\1.norm2.\2"),
    (r"layernorm\.(.+)", r"norm.\1"),
    (r"classifier\.(.+)", r"head.\1"),
    (r"(fc_norm\..+)", r"\1"),
)
_QUERY = r"encoder\.layer\.(\d+)\.attention\.attention\.query\.weight"


def official_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the encoder, and the head of a classifier, as the authors' code stores them."""
    plain = {name.removeprefix("videomae."): value for name, value in state.items()}
    found: dict[str, Tensor] = {}
    for name, value in plain.items():
        query = re.fullmatch(_QUERY, name)
        if query:
            parts = [plain[name.replace("query", part)] for part in ("query", "key", "value")]
            found[f"blocks.{query[1]}.attn.qkv.weight"] = torch.cat(parts)
        for theirs, official in _NAMES:
            match = re.fullmatch(theirs, name)
            if match:
                found[match.expand(official)] = value
    return found
