"""The slow sweep, killed right after SLURM's answer: `python -m tests.slurm.killed_sweep`.

It is killed (kill -9) between the answer to a submission and our record of it.
"""

import json
import os
import signal
import sys
from pathlib import Path

from simvtp.runs.atomic_files import write_atomically
from sweeps.cli.command import main
from sweeps.runner import slurm
from tests.sweeps.ratio_grid import SWEEP


def write_or_die(path: Path, content: str) -> None:
    if path.parent.name == "submissions" and json.loads(content)["job_ids"]:
        os.kill(os.getpid(), signal.SIGKILL)
    write_atomically(path, content)


if __name__ == "__main__":
    slurm.write_atomically = write_or_die  # type: ignore[assignment]
    sys.exit(main(SWEEP, entry="tests.slurm.slurm_jobs:run"))
