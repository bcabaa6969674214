"""Subsets of the objectives and their weights: `python sweeps/losses.py --help`."""

import sys

from ablations import losses
from sweeps.cli.command import AxisOption, Sweep, main

SWEEP = Sweep(
    name="losses",
    build=losses.build,
    axes=(
        AxisOption(
            "--subsets",
            "subsets",
            f"sets of objectives (default: {', '.join(losses.SMALL)} for tiny, else all eleven sensible ones)",
            read=str,
        ),
        AxisOption(
            "--weights",
            "weights",
            "weights to try for an objective, such as vtc=0.5,1,2 (default: 1)",
            read=str,
        ),
    ),
    description="Which objectives: subsets of MVM, MLM, VTC and VTM, and their weights. As published: all four with weight 1.",
    examples="  python sweeps/losses.py --subsets MVM+MLM+VTC+VTM --weights vtc=0.5,1,2\n",
)

if __name__ == "__main__":
    sys.exit(main(SWEEP))
