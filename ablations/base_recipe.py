"""The experiment that an ablation changes: the default recipe, laptop sizes, its loss weights."""

from __future__ import annotations

from simvtp.config.experiment_config import Experiment
from simvtp.config.train_config import LossConfig

DEFAULT_RECIPE = "tiny_pair"
# Recipes whose ablations take the small grids by default.
SMALL_GRID_RECIPES = ("tiny", "tiny_pair")


def own_weights(base: Experiment) -> dict[str, float]:
    """Returns the weight of each objective in the recipe; 1 where it is off or not there.

    A recipe's weights even out the sizes of its losses (raw pixels have errors of a few
    hundredths), so a cell that switches an objective on gives it the recipe's weight.
    """
    weights = base.losses.weights if isinstance(base.losses, LossConfig) else {}
    return {name: weights.get(name, 0.0) or 1.0 for name in ("mvm", "mlm", "vtc", "vtm")}
