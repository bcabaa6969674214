"""Methods of pre-training, by name: `METHODS` has one line for each."""

from __future__ import annotations

from torch import nn

from simvtp.config.model_config import ModelConfig
from simvtp.errors import ConfigError
from simvtp.methods.mac_method import MACMethod
from simvtp.methods.method import Method, SimVTPMethod
from simvtp.models.simvtp.simvtp_model import OBJECTIVES
from simvtp.plugins import extensions

__all__ = ["METHODS", "Method", "build_model", "method_of"]

METHODS: dict[str, Method] = {"simvtp": SimVTPMethod(), "mac": MACMethod()}


def method_of(config: ModelConfig) -> Method:
    """Returns the method that `config.method` names.

    Raises:
        ConfigError: the name is unknown.
    """
    if config.method in METHODS:
        return METHODS[config.method]
    known: dict[str, Method] = {**METHODS, **extensions("METHODS")}
    if config.method not in known:
        raise ConfigError(f"model.method={config.method}: choose from {', '.join(known)}.")
    return known[config.method]


def build_model(
    config: ModelConfig, objectives: tuple[str, ...] = OBJECTIVES, seed: int = 0
) -> nn.Module:
    """Returns the model of `config.method` with initial weights drawn from `seed`.

    Pre-trained weights are loaded separately, by `Method.initialise`.
    """
    return method_of(config).build(config, objectives, seed)
