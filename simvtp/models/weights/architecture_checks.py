"""Checks of what the shapes of foreign weights do not show.

Kind of model, activation, LayerNorm's eps, pad id, heads and sizes come from the config.json that
lies with the weights; a table of positions is compared with ours. A difference that changes what
the weights mean is refused with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from simvtp.config.model_config import MACConfig, ModelConfig, SimVTPConfig
from simvtp.errors import CheckpointError
from simvtp.models.common.embeddings import PAD_ID, TEXT_NORM_EPS
from simvtp.models.common.layers import BLOCK_NORM_EPS, sine_cosine_table

GELU = ("gelu", "gelu_python")  # both are the exact function
# transformers' configs of VideoMAE and ViT say 1e-12 where the authors' code has 1e-6: below the
# rounding of float32 for inputs of unit variance
EPS_TOLERANCE = 1e-6
POSITION_TOLERANCE = 1e-4  # of a sine-cosine table that was stored in half precision or computed
ROBERTA = (
    "RoBERTa's positions begin after its pad id and its vocabulary is not BERT's: "
    "use BERT (bert-base-uncased)"
)
REASONS = {
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "distilbert": "DistilBERT has no token types, and its layers serve model.method=mac",
}


@dataclass(frozen=True)
class Architecture:
    """Properties of the model that a naming stands for.

    Attributes:
        model_types: `model_type` of transformers' configs.
        activation: key of the activation; "" where the activation is not used.
        eps: LayerNorm's; None where the config has none.
        pads: the pad id matters.
    """

    model_types: tuple[str, ...]
    activation: str = "hidden_act"
    eps: float | None = BLOCK_NORM_EPS
    pads: bool = False


VIDEOMAE = Architecture(("videomae",))
IMAGE_VIT = Architecture(("vit", "vit_mae"))
BERT_EMBEDDINGS = Architecture(("bert",), activation="", eps=TEXT_NORM_EPS, pads=True)
DISTILBERT_TOWER = Architecture(("distilbert",), activation="activation", eps=None, pads=True)


def check_architecture(
    settings: Mapping[str, Any], expected: Architecture, where: str
) -> tuple[str, ...]:
    """Checks a config of transformers; what it does not say is not checked.

    Returns:
        Notes on differences without effect.

    Raises:
        CheckpointError: the weights are of another architecture.
    """
    kind = settings.get("model_type")
    if kind is not None and kind not in expected.model_types:
        reason = REASONS.get(str(kind), "its weights do not mean what they mean there")
        types = " or ".join(expected.model_types)
        raise CheckpointError(
            f"{where}: model_type={kind} in its config.json, expected {types}: {reason}."
        )
    activation = settings.get(expected.activation) if expected.activation else None
    if activation is not None and activation not in GELU:
        raise _refusal(where, expected.activation, activation, "gelu")
    if expected.pads and settings.get("pad_token_id") not in (None, PAD_ID):
        raise _refusal(where, "pad_token_id", settings["pad_token_id"], PAD_ID)
    positions = settings.get("position_embedding_type")
    if positions not in (None, "absolute"):
        raise _refusal(where, "position_embedding_type", positions, "absolute")
    return _check_eps(settings, expected, where)


def _check_eps(settings: Mapping[str, Any], expected: Architecture, where: str) -> tuple[str, ...]:
    eps = settings.get("layer_norm_eps")
    if eps is None or expected.eps is None or eps == expected.eps:
        return ()
    if not isinstance(eps, int | float) or abs(eps - expected.eps) > EPS_TOLERANCE:
        raise _refusal(where, "layer_norm_eps", eps, expected.eps)
    return (f"layer_norm_eps={eps:g} in its config.json, {expected.eps:g} here",)


def _refusal(where: str, key: str, found: Any, ours: Any) -> CheckpointError:
    return CheckpointError(
        f"{where}: {key}={found} in its config.json, but this model has {ours}: the same weights "
        "would compute something else."
    )


def check_timm(settings: Mapping[str, Any], where: str) -> None:
    """Checks a config of timm, which names an architecture.

    Raises:
        CheckpointError: its activation, or the eps or the place of its norms, is not ours.
    """
    name = str(settings.get("architecture", ""))
    arguments = settings.get("model_args")
    arguments = arguments if isinstance(arguments, Mapping) else {}
    activation = arguments.get("act_layer", "quick_gelu" if "quickgelu" in name else None)
    if activation is not None and activation not in GELU:
        raise _refusal(where, "activation", activation, "gelu")
    if "clip" in name or arguments.get("pre_norm"):
        raise CheckpointError(
            f"{where}: architecture={name} in its config.json has a norm before its blocks and "
            f"eps 1e-05, but this model has none and {BLOCK_NORM_EPS:g}."
        )


def check_sizes(settings: Mapping[str, Any], config: ModelConfig, where: str) -> None:
    """Checks heads and sizes of patches, which shapes do not show.

    Raises:
        CheckpointError: they differ.
    """
    pairs: dict[str, tuple[str, int]] = {
        "num_attention_heads": ("heads", config.heads),
        "patch_size": ("patch_size", config.patch_size),
        "tubelet_size": ("tubelet_size", config.tubelet_size),
    }
    if isinstance(config, SimVTPConfig) and settings.get("model_type") != "vit_mae":
        pairs["decoder_num_attention_heads"] = "decoder_heads", config.decoder_heads
    if isinstance(config, MACConfig):
        pairs["n_heads"] = "text_heads", config.text_head_count
    for foreign, (name, ours) in pairs.items():
        found = settings.get(foreign, ours)
        if found != ours and found != [ours, ours]:
            raise CheckpointError(
                f"{where}: {foreign}={found} in its config.json, but model.{name}={ours}."
            )


def check_fixed_positions(state: Mapping[str, Tensor], keys: tuple[str, ...], where: str) -> None:
    """Checks tables of positions [1, N, D] of a model whose positions are not learned here.

    Raises:
        CheckpointError: a table is not the sine-cosine table.
    """
    for key in keys:
        if key not in state:
            continue
        table = state[key].flatten(0, -2).double()
        fixed = sine_cosine_table(*table.shape).double()
        if not torch.allclose(table, fixed, rtol=0, atol=POSITION_TOLERANCE):
            raise CheckpointError(
                f"{where}: {key} is a learned table of positions, but this model has the fixed "
                "sine-cosine table, which these weights were not trained with."
            )


def check_finite(values: Mapping[str, Tensor], where: str) -> None:
    """Checks that all weights are numbers.

    Raises:
        CheckpointError: one is NaN or infinite.
    """
    damaged = [
        f"{name} ({int((~value.isfinite()).sum())} of {value.numel()})"
        for name, value in values.items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]
    if damaged:
        raise CheckpointError(
            f"{where}: {len(damaged)} weights hold values that are NaN or infinite, such as "
            f"{damaged[0]}: its training diverged or the file is damaged."
        )
