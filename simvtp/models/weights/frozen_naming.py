"""The published naming of Frozen-in-Time (arXiv 2104.00650), in both directions.

Its video tower bears the names of an image ViT of timm below `video_model.`, with attention over
time as `timeattn` and its norm as `norm3`; its text tower those of DistilBERT below `text_model.`.
Only what these two lack has rules here (`FROZEN_ONLY`). CLS and its position are one vector of
ours, their sum, and keys have no bias, which softmax does not see.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from simvtp.models.weights.conversion import UNUSED, Rule

PARALLEL = "module."  # torch's DataParallel puts it before every name
TOWERS = ("video_model.", "text_model.")
TEMPORAL = "video_model.temporal_embed"
SPATIAL = "video_model.pos_embed"
NO_KEY_BIAS = "shifts all scores of a query alike, which softmax does not see"

FROZEN_ONLY = (
    Rule(r"temporal_embed", "video_tower.embedding.temporal"),
    Rule(r"(blocks\.\d+)\.norm3\.(weight|bias)", r"video_tower.\1.time_norm.\2"),
    Rule(r"(blocks\.\d+)\.timeattn\.k_bias", UNUSED, why=NO_KEY_BIAS),
    Rule(r"(blocks\.\d+)\.timeattn\.([qv]_bias)", r"video_tower.\1.time_attn.\2"),
    Rule(r"(blocks\.\d+)\.timeattn\.qkv\.weight", r"video_tower.\1.time_attn.qkv.weight"),
    Rule(r"(blocks\.\d+)\.timeattn\.proj\.(weight|bias)", r"video_tower.\1.time_attn.proj.\2"),
    Rule(r"vid_proj\.0\.(weight|bias)", r"video_projection.\1"),
    Rule(r"txt_proj\.1\.(weight|bias)", r"text_projection.\1"),
)

# (ours, published) for `to_frozen`; fused projections, patches, CLS and positions are apart
_NAMES = (
    (
        r"video_tower\.(blocks\.\d+)\.time_attn\.(proj\..+|qkv\.weight)",
        r"video_model.\1.timeattn.\2",
    ),
    (r"video_tower\.(blocks\.\d+)\.time_norm\.(.+)", r"video_model.\1.norm3.\2"),
    (r"video_tower\.embedding\.proj\.bias", "video_model.patch_embed.proj.bias"),
    (r"video_tower\.((?:blocks|norm)\..+)", r"video_model.\1"),
    (r"text_tower\.embedding\.word\.(.+)", r"text_model.embeddings.word_embeddings.\1"),
    (r"text_tower\.embedding\.position\.(.+)", r"text_model.embeddings.position_embeddings.\1"),
    (r"text_tower\.embedding\.norm\.(.+)", r"text_model.embeddings.LayerNorm.\1"),
    (
        r"text_tower\.blocks\.(\d+)\.attn\.proj\.(.+)",
        r"text_model.transformer.layer.\1.attention.out_lin.\2",
    ),
    (
        r"text_tower\.blocks\.(\d+)\.norm1\.(.+)",
        r"text_model.transformer.layer.\1.sa_layer_norm.\2",
    ),
    (
        r"text_tower\.blocks\.(\d+)\.norm2\.(.+)",
        r"text_model.transformer.layer.\1.output_layer_norm.\2",
    ),
    (
        r"text_tower\.blocks\.(\d+)\.mlp\.fc([12])\.(.+)",
        r"text_model.transformer.layer.\1.ffn.lin\2.\3",
    ),
    (r"video_projection\.(.+)", r"vid_proj.0.\1"),
    (r"text_projection\.(.+)", r"txt_proj.1.\1"),
)


def without_parallel(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the state dict without the prefix `module.` of its names."""
    return {name.removeprefix(PARALLEL): value for name, value in state.items()}


def is_frozen(state: Mapping[str, Tensor]) -> bool:
    """Returns whether the names are those of Frozen-in-Time."""
    return TEMPORAL in state or PARALLEL + TEMPORAL in state


def split_towers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns Frozen's state dict in the names of timm, DistilBERT and `FROZEN_ONLY`.

    Positions in time are [T, D] there.
    """
    ready: dict[str, Tensor] = {}
    for name, value in without_parallel(state).items():
        tower = next((prefix for prefix in TOWERS if name.startswith(prefix)), "")
        ready[name.removeprefix(tower)] = value.flatten(0, -2) if name == TEMPORAL else value
    return ready


def to_frozen(gradients: Mapping[str, Tensor], patch: int) -> dict[str, Tensor]:
    """Returns gradients of a MAC model in the published naming and shapes.

    CLS and its position have the gradient of their sum; the bias of the keys has none.

    Args:
        gradients: by our names, of all parameters.
        patch: height and width of a patch.
    """
    named: dict[str, Tensor] = {}
    for name, value in gradients.items():
        for ours, published in _NAMES:
            match = re.fullmatch(ours, name)
            if match and not re.search(r"text_tower.*qkv|[qv]_bias", name):
                named[match.expand(published)] = value
                break
    for name in gradients:
        if name.endswith("attn.qkv.weight"):
            named |= _fused(name.removesuffix("qkv.weight"), gradients)
    embedding = "video_tower.embedding."
    cls, spatial = gradients[f"{embedding}cls"], gradients[f"{embedding}spatial"]
    kernel = gradients[f"{embedding}proj.weight"].unflatten(1, (patch, patch, 3))
    return named | {
        "video_model.cls_token": cls[None],
        SPATIAL: torch.cat([cls, spatial])[None],
        TEMPORAL: gradients[f"{embedding}temporal"][None],
        "video_model.patch_embed.proj.weight": kernel.permute(0, 3, 1, 2),
    }


def _fused(attention: str, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the projection to queries, keys and values of one attention as published."""
    weight = gradients[f"{attention}qkv.weight"]
    q, v = gradients[f"{attention}q_bias"], gradients[f"{attention}v_bias"]
    biases = q, torch.zeros_like(q), v
    layer = re.fullmatch(r"text_tower\.blocks\.(\d+)\.attn\.", attention)
    if layer is None:
        own = attention.replace("video_tower.", "video_model.").replace("time_attn", "timeattn")
        return {f"{own}qkv.weight": weight, f"{own}qkv.bias": torch.cat(biases)}
    own = f"text_model.transformer.layer.{layer[1]}.attention."
    parts = zip("qkv", weight.chunk(3), biases, strict=True)
    return {
        f"{own}{name}_lin.{kind}": value
        for name, matrix, bias in parts
        for kind, value in (("weight", matrix), ("bias", bias))
    }
