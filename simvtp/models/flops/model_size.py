"""Size of a pre-training model for the tables: parameters and forward operations per sample."""

from __future__ import annotations

from simvtp.config.model_config import MaskConfig, ModelConfig
from simvtp.models.flops.simvtp_flops import forward_flops, parameter_counts


def model_size(config: ModelConfig, masks: MaskConfig, wanted: tuple[str, ...]) -> dict[str, int]:
    """Returns `parameters` and `forward_flops` per sample of pre-training with these masks.

    The heads of the wanted objectives are included. A multiply-add counts as two operations; see
    `simvtp_flops` and `mac_flops` for the operations that are counted. No memory is used.
    """
    parameters, flops = parameter_counts(config, wanted), forward_flops(config, masks, wanted)
    return {"parameters": sum(parameters.values()), "forward_flops": sum(flops.values())}
