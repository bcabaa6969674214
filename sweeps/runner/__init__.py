"""Starts the points of a sweep as jobs: local processes, SLURM jobs, or inside this process.

The grid is the desired state. A call reads each run directory, adopts what is running, submits what
is missing, and reports what failed. It holds nothing that cannot be read again: kill it at any
moment and run it again. Jobs are sessions of their own, so neither Ctrl-C nor a closed terminal
reaches them; their id is written to `job.json` before anything waits for them.

Only this package imports submitit. `point` runs inside a job; `local`, `slurm` and `debug` are the
executors; `executor` is their protocol."""

from __future__ import annotations

import shutil
from pathlib import Path

from simvtp.errors import UserError
from sweeps.runner.code_snapshot import CodeSnapshot
from sweeps.runner.executor import EXECUTORS, Executor, Job, JobOptions, SubmissionDeferred
from sweeps.runner.slurm_queue import SlurmQueue

__all__ = [
    "EXECUTORS",
    "Executor",
    "Job",
    "JobOptions",
    "SubmissionDeferred",
    "make_executor",
    "require_executor",
]


def require_executor(options: JobOptions) -> None:
    """Raises UserError if this machine does not offer the requested executor."""
    if options.executor == "slurm" and not shutil.which("sbatch"):
        raise UserError(
            "--executor slurm needs the command sbatch, which this machine does not have: "
            "use a login node, or --executor local."
        )


def make_executor(
    options: JobOptions,
    sweep_dir: Path,
    name: str,
    points: int,
    queue: SlurmQueue,
    code: CodeSnapshot | None = None,
) -> Executor:
    """Returns the requested executor.

    Args:
        options: how the jobs are run.
        sweep_dir: folder of the sweep.
        name: id of the sweep.
        points: number of its points.
        queue: answers whether SLURM jobs are alive.
        code: what the jobs run; None = the working tree.

    Raises:
        UserError: this machine does not offer it.
    """
    require_executor(options)
    # imported late: submitit is needed by jobs only, and status.py imports this package
    if options.executor == "slurm":
        from sweeps.runner.slurm import SlurmJobs

        return SlurmJobs(options, sweep_dir, name, queue, code)
    if options.executor == "debug":
        from sweeps.runner.debug import InProcessJobs

        return InProcessJobs(options, queue)
    from sweeps.runner.local import LocalJobs

    return LocalJobs(options, sweep_dir, points, queue, code)
