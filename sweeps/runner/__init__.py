"""Starts the points of a sweep as jobs: local processes, SLURM jobs, or one after the other in this
process.

The grid is the desired state. A call looks at each run directory, adopts what is running, submits
what is missing, and reports what failed. It holds nothing that cannot be read again: kill it at any
moment and call it again. Jobs are sessions of their own, so neither Ctrl-C nor a closed terminal
reaches them unasked; their id is written to `job.json` before anything waits for them.

submitit is imported here only. `point` is what runs inside a job; `local`, `slurm` and `debug` are
the executors; `base` is what they have in common."""

from __future__ import annotations

import shutil
from pathlib import Path

from ablations.design import Point
from simvtp.errors import UserError
from sweeps.monitor.run_state import PointState
from sweeps.runner.code_snapshot import Frozen
from sweeps.runner.executor import EXECUTORS, Executor, Job, NotNow, Options
from sweeps.runner.slurm_queue import state_of

__all__ = [
    "EXECUTORS",
    "Executor",
    "Job",
    "NotNow",
    "Options",
    "make_executor",
    "point_state",
    "require_executor",
]


def require_executor(options: Options) -> None:
    """UserError if this machine cannot offer the executor that was asked for."""
    if options.executor == "slurm" and not shutil.which("sbatch"):
        raise UserError(
            "--executor slurm needs the command sbatch, which this machine does not have: use a login node, or --executor local."
        )


def make_executor(
    options: Options, sweep_dir: Path, name: str, points: int, code: Frozen | None = None
) -> Executor:
    """The executor that was asked for; UserError if this machine cannot offer it. `code`: what the
    jobs run; None = the working tree.
    """
    require_executor(options)
    if options.executor == "slurm":
        from sweeps.runner.slurm import SlurmJobs

        return SlurmJobs(options, sweep_dir, name, code)
    if options.executor == "debug":
        from sweeps.runner.debug import InProcess

        return InProcess(options)
    from sweeps.runner.local import LocalJobs

    return LocalJobs(options, sweep_dir, points, code)


def point_state(point: Point) -> PointState:
    """What is known about a point without having started it."""
    return state_of(point.run_dir)
