"""The grid of both mask ratios without the row outside it, so that tests count cells of the grid.

`python -m tests.sweeps.ratio_grid` is `sweeps/mask_ratio.py` with that grid.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from ablations import mask_ratio
from ablations.design import Ablation
from simvtp.config.experiment_config import Experiment
from sweeps.cli.command import main
from sweeps.mask_ratio import SWEEP as WHOLE


def build(
    base: Experiment,
    video_ratios: Sequence[float] | None = None,
    text_ratios: Sequence[float] | None = None,
    seeds: Sequence[int] = (0,),
    full: bool = False,
) -> Ablation:
    """Returns `mask_ratio.build` without controls."""
    return replace(mask_ratio.build(base, video_ratios, text_ratios, seeds, full), controls={})


SWEEP = replace(WHOLE, build=build)

if __name__ == "__main__":
    sys.exit(main(SWEEP))
