"""Parameters and forward operations of MAC by part, from the sizes alone.

Counted as in `simvtp_flops`.
"""

from __future__ import annotations

from simvtp.config.mask_counts import hidden_per_slot
from simvtp.config.model_config import MACConfig, MACMaskConfig
from simvtp.models.flops.meta_init import on_meta_device
from simvtp.models.mac.mac_masks import kept_length
from simvtp.models.mac.mac_model import MAC

_PARTS = {
    "patch embedding": ("video_tower.embedding",),
    "time attention": ("time_attn", "time_norm"),
    "text embedding": ("text_tower.embedding",),
    "text tower": ("text_tower",),
    "projections": ("video_projection", "text_projection"),
    "video tower, the rest": ("video_tower",),
}


def mac_parameter_counts(config: MACConfig) -> dict[str, int]:
    """Returns the parameters of each part. No memory is used."""
    with on_meta_device():
        model = MAC(config)
    counts = dict.fromkeys(_PARTS, 0)
    for name, parameter in model.named_parameters():
        counts[_part_of(name)] += parameter.numel()
    return counts


def _part_of(name: str) -> str:
    for part, modules in _PARTS.items():
        if any(f"{module}." in f"{name}." for module in modules):
            return part
    raise KeyError(name)


def mac_forward_flops(
    config: MACConfig, masks: MACMaskConfig | None = None, slots: int = 0
) -> dict[str, int]:
    """Returns the operations of one forward pass per sample, by part.

    `slots` is the number of visible frames; 0 for all.
    """
    masks = masks or MACMaskConfig()
    _, height, width = config.grid
    slots = slots or config.grid[0]
    each = height * width - hidden_per_slot(config, masks)  # visible patches of a slot
    patches, dim, hidden = slots * each, config.dim, round(config.dim * config.mlp_ratio)
    tokens, length = patches + 1, kept_length(config.text_length, masks)
    cls = _attention(1, tokens, dim)
    space = _linear(tokens, dim, 4 * dim) + cls + slots * _attention(each, each + 1, dim)
    over_time = (
        _attention(tokens, tokens, dim)
        if config.time_attention == "all"
        else cls + patches * _attention(1, slots + 1, dim)
    )
    mlp = 2 * _linear(tokens, dim, hidden)
    width = config.text_width
    text = (
        _linear(length, width, 4 * width)
        + _attention(length, length, width)
        + 2 * _linear(length, width, config.text_hidden)
    )
    return {
        "patch embedding": _linear(patches, config.tube_values, dim),
        "video tower, space and MLP": config.depth * (space + mlp),
        "video tower, time": config.depth * (_linear(tokens, dim, 4 * dim) + over_time),
        "text tower": config.text_depth * text,
        "projections": _linear(1, dim + width, config.projection),
    }


def _linear(rows: int, inputs: int, outputs: int) -> int:
    return 2 * rows * inputs * outputs


def _attention(queries: int, keys: int, width: int) -> int:
    """Returns the operations of scores and mixing."""
    return 4 * queries * keys * width
