"""Methods: what an experiment needs of SimVTP and of MAC. `METHODS` has one line a method."""

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

    Raises ConfigError with the list of methods if the name is unknown.
    """
    if config.method not in METHODS:
        raise ConfigError(f"model.method={config.method}: choose one of {', '.join(METHODS)}.")
    return METHODS[config.method]


def build_model(
    config: ModelConfig, objectives: tuple[str, ...] = OBJECTIVES, seed: int = 0
) -> nn.Module:
    """Returns the model of `config.method` with initial weights drawn from `seed`.

    Pre-trained weights are loaded separately, by `Method.initialise`.
    """
    return method_of(config).build(config, objectives, seed)
