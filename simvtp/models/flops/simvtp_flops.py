"""How large the model is and what one forward pass costs, part by part, from the sizes alone.

A multiply-add counts as two floating-point operations. Counted are matrix products and attention,
as torch.utils.flop_counter does; norms, activations and lookups are not. The count is of what this
implementation runs: only visible tubes are embedded, the pixel head sees masked tubes only, the
word head its K slots only, and passes are shared as the options say.
"""

from __future__ import annotations

from dataclasses import replace

from simvtp.config.mask_counts import hidden_per_slot
from simvtp.config.model_config import (
    MACConfig,
    MACMaskConfig,
    MaskConfig,
    ModelConfig,
    SimVTPConfig,
)
from simvtp.config.tree import narrow
from simvtp.models.common.decoder_masking import decoded_count
from simvtp.models.common.masking import word_slots
from simvtp.models.common.token_merging import merged_count
from simvtp.models.flops.mac_flops import mac_forward_flops, mac_parameter_counts
from simvtp.models.flops.meta_init import on_meta_device
from simvtp.models.simvtp.encoder_passes import plan_passes
from simvtp.models.simvtp.simvtp_model import OBJECTIVES, SimVTP

_PARTS = {
    "encoder": ("video_embedding", "encoder"),
    "bridge": ("video_decoder.bridge",),
    "video decoder": ("video_decoder",),
    "text embedding": ("text_embedding",),
    "text decoder": ("text_decoder",),
    "match head": ("match_head",),
    "temperature": ("temperature_bias",),
}


def parameter_counts(
    config: ModelConfig, objectives: tuple[str, ...] = OBJECTIVES
) -> dict[str, int]:
    """Parameters of each part; the tube embedding counts as encoder, the mask token as video
    decoder. No memory is used.
    """
    if isinstance(config, MACConfig):
        return mac_parameter_counts(config)
    config = narrow(config, SimVTPConfig)
    with on_meta_device():
        model = SimVTP(config, objectives)
    counts = dict.fromkeys(_PARTS, 0)
    for name, parameter in model.named_parameters():
        part = next(
            part
            for part, prefixes in _PARTS.items()
            if f"{name}.".startswith(tuple(f"{prefix}." for prefix in prefixes))
        )
        counts[part] += parameter.numel()
    return {part: count for part, count in counts.items() if count or part != "temperature"}


def forward_flops(
    config: ModelConfig,
    masks: MaskConfig | None = None,
    objectives: tuple[str, ...] = OBJECTIVES,
    batch: int = 2,
) -> dict[str, int]:
    """Operations of one forward pass *per sample*, by part.

    `batch` matters only for hard VTM negatives, whose scores compare every text with every clip.
    """
    if isinstance(config, MACConfig):
        return mac_forward_flops(config, narrow(masks or MACMaskConfig(), MACMaskConfig))
    masks, config = masks or MaskConfig(), narrow(config, SimVTPConfig)
    t, h, w = config.grid
    masked = hidden_per_slot(config, masks) * {"random": 1, "frame": h * w}.get(masks.video_kind, t)
    visible, length, words = (
        config.tubes - masked,
        config.text_length,
        word_slots(config.text_length, masks),
    )
    merged = merged_count(visible, config.token_merge_ratio)
    encoded = visible - merged
    contrasted = encoded if config.contrastive_video == "masked" else config.tubes
    plan = plan_passes(config, objectives)
    reuse = plan.pair_gives_positives
    matching = "vtm" in objectives
    hard = matching and config.vtm_negatives == "hard"
    single = "vtc" in objectives or hard
    pair = "mvm" in objectives or "mlm" in objectives or (matching and reuse)

    from_all = config.contrastive_video == "clean" and (single or matching)
    masked_too = pair or not from_all
    embedded = visible * masked_too + config.tubes * from_all
    counts = {
        "tube embedding": _linear(embedded, config.tube_values, config.dim)
        if pair or single or matching
        else 0
    }
    if merged and masked_too:
        compared = _linear(visible // 2, config.tube_values, visible - visible // 2)  # in float64
        counts["merging"] = compared + _linear(encoded, visible, config.dim)
    counts["encoder, pair pass"] = pair * _pair(config, encoded, length)
    counts["encoder, video pass"] = single * _encoder(config, contrasted)
    counts["encoder, text pass"] = single * _encoder(config, length)
    counts["encoder, matching passes"] = (
        matching * (1 if reuse else 2) * _pair(config, contrasted, length)
    )
    if "mvm" in objectives:
        width = config.decoder_dim
        counts["bridge"] = _linear(visible, config.dim, width)
        built = (
            decoded_count(masked, config.decoder_keep_ratio)
            if config.decoder_keep_ratio < 1
            else masked
        )
        full, ratio = max(0, config.decoder_depth - 1), config.mlp_ratio
        counts["video decoder"] = full * _block(width, ratio, visible + built)
        counts["video decoder"] += (config.decoder_depth > 0) * _block(
            width, ratio, visible + built, asking=built
        )
        counts["video decoder"] += _linear(built, width, config.tube_values)
    if "mlm" in objectives:
        depth = config.text_decoder_depth
        width = (config.text_decoder_dim or config.decoder_dim) if depth else config.dim
        counts["text decoder"] = _linear(words, width, config.vocab_size)
        if depth:
            counts["text decoder"] += _linear(length, config.dim, width) + depth * _block(
                width, config.mlp_ratio, length
            )
    if matching:
        counts["match head"] = 2 * _linear(1, config.dim, 2)
        counts["negative scores"] = hard * _linear(1, config.dim, batch)
    return {name: count for name, count in counts.items() if count}


def describe(
    config: ModelConfig, masks: MaskConfig | None = None, objectives: tuple[str, ...] = OBJECTIVES
) -> str:
    """Two tables as text: parameters and forward operations by part. `vocab_size` 0 is counted as
    BERT's 30522.
    """
    masks = masks or MaskConfig()
    if config.vocab_size == 0:
        config = replace(config, vocab_size=30522)
    t, h, w = config.grid
    lines = [
        f"{config.tubes} tubes ({t} x {h} x {w}), width {config.dim}, depth {config.depth}; objectives {', '.join(objectives)}; "
        f"masks: video {masks.video_ratio:g} ({masks.video_kind}), text {masks.text_ratio:g}"
    ]
    for title, counts, unit, scale in (
        ("parameters", parameter_counts(config, objectives), "M", 1e6),
        ("forward, per sample", forward_flops(config, masks, objectives), "GFLOP", 1e9),
    ):
        total = sum(counts.values())
        lines += ["", f"{title:<28}{unit:>12}{'share':>9}"]
        lines += [
            f"  {name:<26}{count / scale:>12.3f}{count / total:>9.1%}"
            for name, count in counts.items()
        ]
        lines.append(f"  {'total':<26}{total / scale:>12.3f}")
    return "\n".join(lines)


def _linear(rows: int, inputs: int, outputs: int) -> int:
    return 2 * rows * inputs * outputs


def _block(width: int, mlp_ratio: float, tokens: int, asking: int | None = None) -> int:
    """A block over `tokens`; `asking` of them have queries and an MLP (None: all)."""
    asking, hidden = tokens if asking is None else asking, round(width * mlp_ratio)
    attention = 4 * asking * tokens * width  # scores and mix
    return (
        _linear(tokens, width, 2 * width)
        + _linear(asking, width, 2 * width)
        + 2 * _linear(asking, width, hidden)
        + attention
    )


def _encoder(config: SimVTPConfig, tokens: int) -> int:
    return config.depth * _block(config.dim, config.mlp_ratio, tokens)


def _pair(config: SimVTPConfig, video: int, text: int) -> int:
    """The encoder over a pair: before the fusion blocks of two encoders each side attends to itself
    alone.
    """
    apart = config.depth - config.fusion_blocks if config.fusion_blocks else 0
    return _encoder(config, video + text) - apart * 8 * video * text * config.dim
