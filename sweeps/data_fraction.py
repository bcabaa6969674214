"""Share of the pre-training data: `python sweeps/data_fraction.py --help`."""

import sys

from ablations import data_fraction
from sweeps.cli.command import AxisOption, Sweep, main

SWEEP = Sweep(
    name="data_fraction",
    build=data_fraction.build,
    axes=(
        AxisOption(
            "--fractions",
            "fractions",
            "shares in (0, 1] (default: 0.1,0.5,1 for tiny, else 0.01,0.05,0.1,0.25,0.5,1)",
        ),
    ),
    description="How much data: the share that pre-training sees, at an equal number of steps; fine-tuning sees all of its data.",
    examples="  python sweeps/data_fraction.py --fractions 0.1,1 --seeds 0,1,2\n",
)

if __name__ == "__main__":
    sys.exit(main(SWEEP))
