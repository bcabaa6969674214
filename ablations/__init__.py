"""WHAT is compared. One module a paper table, and one for the search; `ABLATIONS` names the function that builds each."""

from collections.abc import Callable

from ablations import data_fraction, losses, mask_ratio, search
from ablations.design import Ablation
from ablations.search import Search

ABLATIONS: dict[str, Callable[..., Ablation | Search]] = {
    "mask_ratio": mask_ratio.build,
    "losses": losses.build,
    "data_fraction": data_fraction.build,
    "search": search.build,
}
