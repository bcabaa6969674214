"""Models: what turns a batch and its masks into named outputs. `METHODS` has one line a method."""

from __future__ import annotations

from torch import nn

from simvtp.config.schema import ModelConfig
from simvtp.errors import ConfigError
from simvtp.models.downstream.retrieval_encoders import DualEncoder
from simvtp.models.common.encoder import leaves_padding_out, set_packed_text
from simvtp.models.common.layers import Place, set_gradient_checkpointing, set_place
from simvtp.models.mac.mac_model import MAC
from simvtp.methods.mac_method import MACMethod
from simvtp.methods.method import Method, SimVTPMethod
from simvtp.models.simvtp.simvtp_model import OBJECTIVES, SimVTP, set_merged_passes

__all__ = [
    "MAC",
    "METHODS",
    "OBJECTIVES",
    "DualEncoder",
    "Method",
    "Place",
    "SimVTP",
    "build_model",
    "leaves_padding_out",
    "method_of",
    "set_gradient_checkpointing",
    "set_merged_passes",
    "set_packed_text",
    "set_place",
]

METHODS: dict[str, Method] = {"simvtp": SimVTPMethod(), "mac": MACMethod()}


def method_of(config: ModelConfig) -> Method:
    """The method that `config.method` names; an unknown name raises ConfigError with the list."""
    if config.method not in METHODS:
        raise ConfigError(f"model.method={config.method}: choose one of {', '.join(METHODS)}.")
    return METHODS[config.method]


def build_model(config: ModelConfig, objectives: tuple[str, ...] = OBJECTIVES, seed: int = 0) -> nn.Module:
    """The model of `config.method` with initial weights by `seed`.

    Pre-trained weights are loaded separately, by `Method.initialise`.
    """
    return method_of(config).build(config, objectives, seed)
