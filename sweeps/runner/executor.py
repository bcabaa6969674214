"""Defines what all executors have in common: options, the record of a job, and the protocol."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from ablations.design import Point
from simvtp.runs.run_records import JobRecord
from sweeps.monitor.point_state import SETUP_FAILED, process_alive, write_job
from sweeps.runner.job import ENTRY
from sweeps.runner.liveness import job_alive
from sweeps.runner.slurm_queue import SlurmQueue

EXECUTORS = ("local", "slurm", "debug")


class SubmissionDeferred(Exception):
    """SLURM does not accept the jobs now (no answer, or its job limit is reached); later it may."""


@dataclass(frozen=True)
class JobOptions:
    """Options of the jobs. None of them changes what is computed.

    Attributes:
        executor: where the jobs run.
        parallel: jobs at once; 0 = one per GPU, or one per core up to 8 (SLURM: no limit).
        gpus: GPUs per job (SLURM: per node); None = 1 where there are any (SLURM: none).
        gpu_kind: type of the GPUs (SLURM), for example `a100`; empty = any.
        tasks: processes (ranks) per node; 0 = one per GPU, or one.
        cpus: CPU cores per job (SLURM: per process); 0 = local: cores / parallel.
        memory: memory per node as sbatch writes it (SLURM), such as `480G`; empty = its default.
        minutes: time limit; 0 = none locally, 24 hours on SLURM.
        signal_s: seconds before the time limit at which a job is asked to save (SLURM).
        nodes: nodes per job (SLURM).
        partition, account, qos, constraint: SLURM's options of these names.
        setup: shell commands before each job, for example `module load cuda`.
        srun_args: arguments for srun.
        slurm: any other sbatch option; True for a flag.
        continuations: how often a lost point is restarted without having made progress.
        entry: function that runs one experiment, `module:function`.
    """

    executor: Literal["local", "slurm", "debug"] = "local"
    parallel: int = 0
    gpus: int | None = None
    gpu_kind: str = ""
    tasks: int = 0
    cpus: int = 0
    memory: str = ""
    minutes: int = 0
    signal_s: int = 120
    nodes: int = 1
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    setup: tuple[str, ...] = ()
    srun_args: tuple[str, ...] = ()
    slurm: dict[str, str | bool] = field(default_factory=dict)
    continuations: int = 0
    entry: str = ENTRY

    @property
    def ranks_per_node(self) -> int:
        return self.tasks or max(1, self.gpus or 1)


@dataclass
class Job:
    """One submitted attempt at a point. `record` is the content of job.json."""

    point: Point
    record: JobRecord
    slot: int = -1

    @property
    def id(self) -> str:
        return self.record.job_id

    @property
    def executor(self) -> str:
        return self.record.executor

    def write(self) -> None:
        """Writes job.json."""
        write_job(self.point.run_dir, self.record)


class Executor(Protocol):
    """Starts and watches jobs.

    Attributes:
        slots: how many jobs are submitted at once.
        in_process: `submit` runs the jobs itself.
        notes: sentences for the user, for example about ignored variables.
    """

    slots: int
    in_process: bool
    notes: tuple[str, ...]

    def submit(self, points: Sequence[Point]) -> list[Job]:
        """Submits points, or the first few of them, and returns their jobs.

        Raises:
            SubmissionDeferred: none was accepted; try again later.
            UserError: they will never be accepted.
        """

    def recover(self, points: Sequence[Point]) -> list[Job]:
        """Returns jobs of an earlier call that were submitted but not written to job.json."""

    def adopt(self, point: Point, record: JobRecord) -> Job:
        """Returns the job of a record, from now on watched by this executor."""

    def alive(self, job: Job) -> bool:
        """Returns whether the job is alive."""

    def stop(self, job: Job) -> None:
        """Asks the job to save and leave."""

    def kill(self, job: Job) -> None:
        """Ends the job at once."""

    def preview(self, points: int) -> str:
        """Returns the submission of that many points as text."""


class RecordedJobs:
    """Base class of executors whose jobs are known by their record alone."""

    def __init__(self, queue: SlurmQueue) -> None:
        self.queue = queue
        self.notes: tuple[str, ...] = ()

    def adopt(self, point: Point, record: JobRecord) -> Job:
        return Job(point, record)

    def alive(self, job: Job) -> bool:
        return job_alive(job.record, self.queue)

    def recover(self, points: Sequence[Point]) -> list[Job]:
        return []


def checked_line(line: str) -> str:
    """Returns shell code that runs `line` in the same shell and exits with its status if it fails.

    The exit status of the job is that of the line, and its last line of output names it.
    """
    message = shlex.quote(f"{SETUP_FAILED}: {' '.join(line.split())}")
    return f"{{ {line}\n}} || {{ status=$?; echo {message} >&2; exit $status; }}"


def make_private(path: Path) -> None:
    """Takes the right to write away from everybody but the owner."""
    path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o022)


def signal_process(record: JobRecord, number: signal.Signals) -> None:
    """Sends a signal to the process of a local job, if it is alive."""
    if record.executor == "local" and process_alive(record):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it ended by itself
            os.kill(record.pid, number)


def signal_session(record: JobRecord, number: signal.Signals) -> None:
    """Sends a signal to the whole session of a local job."""
    if record.executor == "local" and process_alive(record):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(record.pid, number)
