"""Parameters and forward operations of SimVTP by part, from the sizes alone.

A multiply-add counts as two floating-point operations. Counted are matrix products and attention,
as torch.utils.flop_counter does; norms, activations and lookups are not. The count is of the
operations that this implementation runs: only visible tubes are embedded, the pixel head sees
masked tubes only, the word head its K slots only, and passes are shared as the options say.
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
from simvtp.models.simvtp.encoder_passes import EncoderPass, PassPlan, plan_passes
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
_PASS_NAMES = {
    EncoderPass.PAIR: "encoder, pair pass",
    EncoderPass.VIDEO: "encoder, video pass",
    EncoderPass.TEXT: "encoder, text pass",
    EncoderPass.MATCH: "encoder, matching passes",
}


def parameter_counts(
    config: ModelConfig, objectives: tuple[str, ...] = OBJECTIVES
) -> dict[str, int]:
    """Returns the parameters of each part. No memory is used.

    The tube embedding counts as encoder, the mask token as video decoder.
    """
    if isinstance(config, MACConfig):
        return mac_parameter_counts(config)
    config = narrow(config, SimVTPConfig)
    with on_meta_device():
        model = SimVTP(config, objectives)
    counts = dict.fromkeys(_PARTS, 0)
    for name, parameter in model.named_parameters():
        counts[_part_of(name)] += parameter.numel()
    return {part: count for part, count in counts.items() if count or part != "temperature"}


def _part_of(name: str) -> str:
    for part, modules in _PARTS.items():
        if any(f"{name}.".startswith(f"{module}.") for module in modules):
            return part
    raise KeyError(name)


def forward_flops(
    config: ModelConfig,
    masks: MaskConfig | None = None,
    objectives: tuple[str, ...] = OBJECTIVES,
    batch: int = 2,
) -> dict[str, int]:
    """Returns the operations of one forward pass *per sample*, by part.

    `batch` matters only for hard VTM negatives, whose scores compare every text with every clip.
    """
    if isinstance(config, MACConfig):
        return mac_forward_flops(config, narrow(masks or MACMaskConfig(), MACMaskConfig))
    masks, config = masks or MaskConfig(), narrow(config, SimVTPConfig)
    t, h, w = config.grid
    masked = hidden_per_slot(config, masks) * {"random": 1, "frame": h * w}.get(masks.video_kind, t)
    plan = plan_passes(config, objectives)
    seen = config.tubes - masked if config.mlm_video == "visible" else 0
    counts = _encoder_flops(config, plan, seen)
    if "mvm" in objectives:
        counts |= _video_decoder_flops(config, masked)
    if "mlm" in objectives:
        counts["text decoder"] = _text_decoder_flops(config, word_slots(config.text_length, masks))
    if EncoderPass.MATCH in plan.passes:
        pairs = plan.match_pairs + plan.pair_gives_positives
        counts["match head"] = pairs * _linear(1, config.dim, 2)
        counts["negative scores"] = plan.scores_negatives * _linear(1, config.dim, batch)
    return {name: count for name, count in counts.items() if count}


def _encoder_flops(config: SimVTPConfig, plan: PassPlan, visible: int) -> dict[str, int]:
    """Returns the operations of the tube embedding, token merging and the encoder passes."""
    length = config.text_length
    encoded = visible - merged_count(visible, config.token_merge_ratio)
    clean = config.contrastive_video == "clean" and plan.passes != (EncoderPass.PAIR,)
    uses_visible = EncoderPass.PAIR in plan.passes or not clean
    contrasted = config.tubes if clean else encoded
    embedded = visible * uses_visible + config.tubes * clean
    counts = {"tube embedding": _linear(embedded, config.tube_values, config.dim)}
    if encoded < visible and uses_visible:
        compared = _linear(visible // 2, config.tube_values, visible - visible // 2)  # in float64
        counts["merging"] = compared + _linear(encoded, visible, config.dim)
    cost = {
        EncoderPass.PAIR: _pair(config, encoded, length),
        EncoderPass.VIDEO: _encoder(config, contrasted),
        EncoderPass.TEXT: _encoder(config, length),
        EncoderPass.MATCH: plan.match_pairs * _pair(config, contrasted, length),
    }
    for name, part in _PASS_NAMES.items():
        counts[part] = cost[name] if name in plan.passes else 0
    return counts


def _video_decoder_flops(config: SimVTPConfig, masked: int) -> dict[str, int]:
    """Returns the operations of the bridge and of the video decoder in training."""
    width, ratio, depth = config.decoder_dim, config.mlp_ratio, config.decoder_depth
    visible, decoded = config.tubes - masked, masked
    if config.decoder_keep_ratio < 1:
        decoded = decoded_count(masked, config.decoder_keep_ratio)
    decoder = max(0, depth - 1) * _block(width, ratio, visible + decoded)
    if depth > 0:
        decoder += _block(width, ratio, visible + decoded, queries=decoded)
    decoder += _linear(decoded, width, config.tube_values)
    return {"bridge": _linear(visible, config.dim, width), "video decoder": decoder}


def _text_decoder_flops(config: SimVTPConfig, words: int) -> int:
    """Returns the operations of the text decoder for `words` positions."""
    depth, length = config.text_decoder_depth, config.text_length
    width = (config.text_decoder_dim or config.decoder_dim) if depth else config.dim
    head = _linear(words, width, config.vocab_size)
    if not depth:
        return head
    blocks = depth * _block(width, config.mlp_ratio, length)
    return head + _linear(length, config.dim, width) + blocks


def describe(
    config: ModelConfig, masks: MaskConfig | None = None, objectives: tuple[str, ...] = OBJECTIVES
) -> str:
    """Returns two tables as text: parameters and forward operations by part.

    `vocab_size` 0 is counted as BERT's 30522.
    """
    masks = masks or MaskConfig()
    if config.vocab_size == 0:
        config = replace(config, vocab_size=30522)
    t, h, w = config.grid
    lines = [
        f"{config.tubes} tubes ({t} x {h} x {w}), width {config.dim}, depth {config.depth}; "
        f"objectives {', '.join(objectives)}; masks: video {masks.video_ratio:g} "
        f"({masks.video_kind}), text {masks.text_ratio:g}"
    ]
    for title, counts, unit, scale in (
        ("parameters", parameter_counts(config, objectives), "M", 1e6),
        ("forward, per sample", forward_flops(config, masks, objectives), "GFLOP", 1e9),
    ):
        total = sum(counts.values())
        lines += ["", f"{title:<28}{unit:>12}{'share':>9}"]
        for name, count in counts.items():
            lines.append(f"  {name:<26}{count / scale:>12.3f}{count / total:>9.1%}")
        lines.append(f"  {'total':<26}{total / scale:>12.3f}")
    return "\n".join(lines)


def _linear(rows: int, inputs: int, outputs: int) -> int:
    return 2 * rows * inputs * outputs


def _block(width: int, mlp_ratio: float, tokens: int, queries: int | None = None) -> int:
    """Returns the operations of a block; `queries` tokens have queries and an MLP (None: all)."""
    queries, hidden = tokens if queries is None else queries, round(width * mlp_ratio)
    attention = 4 * queries * tokens * width  # scores and mix
    return (
        _linear(tokens, width, 2 * width)
        + _linear(queries, width, 2 * width)
        + 2 * _linear(queries, width, hidden)
        + attention
    )


def _encoder(config: SimVTPConfig, tokens: int) -> int:
    return config.depth * _block(config.dim, config.mlp_ratio, tokens)


def _pair(config: SimVTPConfig, video: int, text: int) -> int:
    """Returns the operations of the encoder over a pair.

    Before the fusion blocks of two encoders each modality attends to itself alone.
    """
    apart = config.depth - config.fusion_blocks if config.fusion_blocks else 0
    return _encoder(config, video + text) - apart * 8 * video * text * config.dim
