"""sweeps/mask_ratio.py with jobs that pause after each step: `python -m tests.slurm.slow_sweep`."""

import sys

from sweeps.cli.command import main
from tests.sweeps.ratio_grid import SWEEP

if __name__ == "__main__":
    sys.exit(main(SWEEP, entry="tests.slurm.slurm_jobs:run"))
