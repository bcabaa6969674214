"""Models: what turns a batch and its masks into named outputs."""

from __future__ import annotations

from simvtp.config import ModelConfig
from simvtp.errors import ConfigError
from simvtp.models.dual import DualEncoder
from simvtp.models.layers import Place, set_gradient_checkpointing, set_place
from simvtp.models.simvtp import OBJECTIVES, SimVTP

__all__ = ["METHODS", "OBJECTIVES", "DualEncoder", "Place", "SimVTP", "build_model", "set_gradient_checkpointing", "set_place"]

METHODS: dict[str, type[SimVTP]] = {"simvtp": SimVTP}


def build_model(config: ModelConfig, objectives: tuple[str, ...] = OBJECTIVES, seed: int = 0) -> SimVTP:
    """The model of `config.method` with initial weights by `seed`; an unknown method raises ConfigError.

    Pre-trained weights are loaded separately, by `simvtp.models.pretrained.initialise_from`.
    """
    if config.method not in METHODS:
        raise ConfigError(f"model.method={config.method}: choose one of {', '.join(METHODS)}.")
    model = METHODS[config.method](config, objectives)
    model.initialise(seed)
    return model
