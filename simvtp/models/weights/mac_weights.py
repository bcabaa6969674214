"""Weights for MAC's towers: an image ViT, DistilBERT, Frozen-in-Time, our own exports.

Inflation is Frozen-in-Time's: the parameters of the image model are taken as they are, attention
over time and positions in time keep their initial values, which have no effect. So at first a video
of identical frames has the features of the image model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from simvtp.config.model_config import MACConfig
from simvtp.errors import CheckpointError
from simvtp.models.mac.mac_model import MAC
from simvtp.models.weights.architecture_checks import (
    DISTILBERT_TOWER,
    IMAGE_VIT,
    check_architecture,
    check_sizes,
    check_timm,
)
from simvtp.models.weights.conversion import UNUSED, ConversionReport, Naming, Rule, convert, load
from simvtp.models.weights.frozen_naming import FROZEN_ONLY, NO_KEY_BIAS, is_frozen, split_towers
from simvtp.models.weights.pixel_normalization import with_our_normalization
from simvtp.models.weights.state_dict_maps import NATIVE
from simvtp.models.weights.timm_naming import is_transformers_vit, timm_names

PATCHES = "video_tower.embedding.proj"
TEMPORAL, SPATIAL = "video_tower.embedding.temporal", "video_tower.embedding.spatial"

_VIT = (
    Rule(r"patch\.(weight|bias)", r"video_tower.embedding.proj.\1"),
    Rule(r"(cls|spatial)", r"video_tower.embedding.\1"),
    Rule(r"blocks\.(\d+)\.attn\.k_bias", UNUSED, why=NO_KEY_BIAS),
    Rule(
        r"(blocks\.\d+\.(?:norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.(?:weight|bias))",
        r"video_tower.\1",
    ),
    Rule(r"(blocks\.\d+\.attn\.[qv]_bias)", r"video_tower.\1"),
    Rule(r"(norm\.(?:weight|bias))", r"video_tower.\1"),
    Rule(
        r"(?:head|pre_logits|fc_norm|head_dist|pooler|classifier|decoder)\..+|(?:dist|mask)_token",
        UNUSED,
        why="head of the image model",
    ),
)
_LAYER = r"(?:distilbert\.)?transformer\.layer\.(\d+)\."
_BLOCK = r"text_tower.blocks.\1."
_DISTILBERT = (
    Rule(
        r"(?:distilbert\.)?embeddings\.word_embeddings\.weight", "text_tower.embedding.word.weight"
    ),
    Rule(
        r"(?:distilbert\.)?embeddings\.position_embeddings\.weight",
        "text_tower.embedding.position.weight",
        "cut",
    ),
    Rule(r"(?:distilbert\.)?embeddings\.LayerNorm\.(weight|bias)", r"text_tower.embedding.norm.\1"),
    Rule(r"(?:distilbert\.)?embeddings\.position_ids", UNUSED, why="a constant"),
    *(
        Rule(rf"{_LAYER}attention\.{name}_lin\.weight", f"{_BLOCK}attn.qkv.weight", name)
        for name in "qkv"
    ),
    *(Rule(rf"{_LAYER}attention\.{name}_lin\.bias", f"{_BLOCK}attn.{name}_bias") for name in "qv"),
    Rule(rf"{_LAYER}attention\.k_lin\.bias", UNUSED, why=NO_KEY_BIAS),
    Rule(rf"{_LAYER}attention\.out_lin\.(weight|bias)", rf"{_BLOCK}attn.proj.\2"),
    Rule(rf"{_LAYER}sa_layer_norm\.(weight|bias)", rf"{_BLOCK}norm1.\2"),
    Rule(rf"{_LAYER}ffn\.lin([12])\.(weight|bias)", rf"{_BLOCK}mlp.fc\2.\3"),
    Rule(rf"{_LAYER}output_layer_norm\.(weight|bias)", rf"{_BLOCK}norm2.\2"),
    Rule(
        r"(?:vocab_(?:transform|layer_norm|projector)|(?:pre_)?classifier|qa_outputs)\..+",
        UNUSED,
        why="head of another task",
    ),
)

FROZEN = Naming("Frozen-in-Time, published naming", (*_VIT, *_DISTILBERT, *FROZEN_ONLY), ("",))


def import_mac_state(
    model: MAC, state: Mapping[str, Tensor], where: str, settings: Mapping[str, Any]
) -> ConversionReport:
    """Loads foreign weights or an export of this project into `model`; their keys tell the kind.

    Kinds: an image ViT of timm or of transformers, DistilBERT, Frozen-in-Time.

    Args:
        settings: the config.json of the weights.

    Raises:
        CheckpointError: it does not fit; nothing is changed then.
    """
    config, notes = model.config, tuple[str, ...]()
    if any(key.startswith("video_tower.") for key in state):
        naming, state = NATIVE, _with_frames(state, model)
    elif is_frozen(state):
        naming = FROZEN
        state = _image_model(_with_published_frames(state, config), config, where)
    elif "patch_embed.proj.weight" in state and "pos_embed" in state:
        check_timm(settings, where)
        naming = _naming("image ViT of timm", _VIT, model, "video_tower.")
        state = _image_model(state, config, where)
    elif is_transformers_vit(state):
        check_sizes(settings, config, where)
        notes = check_architecture(settings, IMAGE_VIT, where)
        naming = _naming("image ViT of transformers", _VIT, model, "video_tower.")
        state = _image_model(timm_names(state), config, where)
    elif any(key.endswith("attention.q_lin.weight") for key in state):
        check_sizes(settings, config, where)
        notes = check_architecture(settings, DISTILBERT_TOWER, where)
        naming = _naming("DistilBERT", _DISTILBERT, model, "text_tower.")
    else:
        raise CheckpointError(
            f"{where}: the keys ({', '.join(list(state)[:4])}, ...) are no ViT of timm or of "
            "transformers, no DistilBERT, no Frozen-in-Time and no export of model.method=mac"
            f"{_other_kind(settings)}."
        )
    conversion = convert(state, model, naming, where)
    if naming not in (NATIVE, FROZEN):  # Frozen's pixels are normalised as ours are
        conversion = with_our_normalization(conversion, PATCHES, settings, where)
    load(model, conversion)
    return replace(conversion, notes=(*conversion.notes, *notes))


def _other_kind(settings: Mapping[str, Any]) -> str:
    kind = settings.get("model_type")
    return f" (model_type={kind} in its config.json)" if kind else ""


def _naming(kind: str, rules: tuple[Rule, ...], model: MAC, tower: str) -> Naming:
    """Requires all parameters of the tower but those of time, which an image model lacks."""
    names = (name for name, _ in model.named_parameters() if name.startswith(tower))
    return Naming(
        kind, rules, tuple(name for name in names if "time_" not in name and name != TEMPORAL)
    )


def _image_model(state: Mapping[str, Tensor], config: MACConfig, where: str) -> dict[str, Tensor]:
    """Prepares timm's names and shapes for `_VIT`.

    The fused bias becomes three, and CLS gets its position.
    """
    needed = ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")
    missing = [name for name in needed if name not in state]
    if missing:
        raise CheckpointError(
            f"{where}: this ViT has no {' and no '.join(missing)}, which model.method=mac needs."
        )
    ready: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith("attn.qkv.bias"):  # of attention over space or, of Frozen, over time
            stem = key.removesuffix("qkv.bias")
            ready |= {
                f"{stem}{name}_bias": part for name, part in zip("qkv", value.chunk(3), strict=True)
            }
        elif key not in needed:
            ready[key] = value
    positions = state["pos_embed"][0]
    ready["cls"] = state["cls_token"][0] + positions[:1]
    ready["spatial"] = _resized(positions[1:], config.grid[1:], where)
    kernel = state["patch_embed.proj.weight"]  # [D, 3, p, p]
    ready["patch.weight"] = kernel.permute(0, 2, 3, 1).flatten(1)
    ready["patch.bias"] = state["patch_embed.proj.bias"]
    return ready


def _resized(positions: Tensor, grid: tuple[int, int], where: str) -> Tensor:
    """Returns positions in space [h * w, D] for another grid, by bicubic interpolation."""
    if len(positions) == grid[0] * grid[1]:
        return positions
    side = round(len(positions) ** 0.5)
    if side * side != len(positions):
        raise CheckpointError(
            f"{where}: its {len(positions)} positions are no square grid, so they cannot be "
            f"resized to {grid[0]} x {grid[1]}."
        )
    table = positions.T.unflatten(1, (side, side))[None].float()
    return (
        F.interpolate(table, size=grid, mode="bicubic", antialias=True)[0]
        .flatten(1)
        .T.to(positions.dtype)
    )


def _with_frames(state: Mapping[str, Tensor], model: MAC) -> dict[str, Tensor]:
    """Returns an export of this project with positions in time for the model's frames."""
    ready, frames = dict(state), model.config.grid[0]
    if TEMPORAL in ready and len(ready[TEMPORAL]) != frames:
        ready[TEMPORAL] = expand_frames(ready[TEMPORAL], frames, model.config.more_frames)
    return ready


def _with_published_frames(state: Mapping[str, Tensor], config: MACConfig) -> dict[str, Tensor]:
    """Returns Frozen's state dict for the rules of `FROZEN`, with the model's frames."""
    ready = split_towers(state)
    ready["temporal_embed"] = expand_frames(
        ready["temporal_embed"], config.grid[0], config.more_frames
    )
    return ready


def expand_frames(table: Tensor, frames: int, how: str) -> Tensor:
    """Returns positions in time [T, D] for another number of frames.

    Fewer: the first ones. More: `zero` appends zeros, `nearest` repeats rows, `bilinear` stretches
    the table linearly with its rows as middles of equal parts (these three are Frozen-in-Time's),
    and `interpolate` with its first and last row in place.
    """
    if frames <= len(table):
        return table[:frames]
    if how == "zero":
        return torch.cat([table, table.new_zeros(frames - len(table), table.shape[1])])
    rows = table.T[None].double()
    if how == "nearest":
        wide = F.interpolate(rows, size=frames, mode="nearest")
    else:
        ends = how == "interpolate"
        wide = F.interpolate(rows, size=frames, mode="linear", align_corners=ends)
    return wide[0].T.to(table.dtype)
