"""Two numbers of a pre-training model for the tables: parameters, and operations of one forward
pass per sample.
"""

from __future__ import annotations

from simvtp.config.model_config import MaskConfig, ModelConfig
from simvtp.models.flops.simvtp_flops import forward_flops, parameter_counts


def model_size(config: ModelConfig, masks: MaskConfig, wanted: tuple[str, ...]) -> dict[str, int]:
    """`parameters`, those of the heads of the wanted objectives included, and `forward_flops` per
    sample of pre-training with these masks.

    A multiply-add counts as two operations; see flops.py and mac_flops.py for what is counted. No
    memory is used.
    """
    parameters, flops = parameter_counts(config, wanted), forward_flops(config, masks, wanted)
    return {"parameters": sum(parameters.values()), "forward_flops": sum(flops.values())}
