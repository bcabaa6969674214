"""Methods of pre-training, by name: `METHODS` has one line for each."""

from __future__ import annotations

from torch import nn

from simvtp.config.model_config import ModelConfig
from simvtp.errors import ConfigError
from simvtp.methods.mac_method import MACMethod
from simvtp.methods.method import Method, SimVTPMethod
from simvtp.models.simvtp.simvtp_model import OBJECTIVES

__all__ = ["METHODS", "Method", "build_model", "method_of"]

METHODS: dict[str, Method] = {"simvtp": SimVTPMethod(), "mac": MACMethod()}


def method_of(config: ModelConfig) -> Method:
    """Returns the method that `config.method` names.

    Raises:
        ConfigError: the name is unknown.
    """
    if config.method not in METHODS:
        raise ConfigError(f"model.method={config.method}: choose from {', '.join(METHODS)}.")
    return METHODS[config.method]


def build_model(
    config: ModelConfig, objectives: tuple[str, ...] = OBJECTIVES, seed: int = 0
) -> nn.Module:
    """Returns the model of `config.method` with initial weights drawn from `seed`.

    Pre-trained weights are loaded separately, by `Method.initialise`.
    """
    return method_of(config).build(config, objectives, seed)
