"""WHAT is compared. One module a paper table; `ABLATIONS` names the function that builds each."""

from collections.abc import Callable

from ablations import mask_ratio
from ablations.design import Ablation

ABLATIONS: dict[str, Callable[..., Ablation]] = {
    "mask_ratio": mask_ratio.build,
}
