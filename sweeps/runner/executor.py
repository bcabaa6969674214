"""What the executors have in common: the options, the record of a job, and what an executor can do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ablations.design import Point
from simvtp.runs.atomic_files import write_atomically
from sweeps.monitor.run_state import job_alive
from sweeps.runner.job import ENTRY
from sweeps.runner.slurm_queue import alive

EXECUTORS = ("local", "slurm", "debug")


class NotNow(Exception):
    """The jobs cannot be handed in at the moment (SLURM does not answer, or its limit of jobs is
    reached); later they may be.
    """


@dataclass(frozen=True)
class Options:
    """How the jobs are run. None of this changes what is computed.

    Attributes: parallel: jobs at once; 0 = one per GPU, or one per core up to 8 (SLURM: no limit).
        gpus: GPUs per job (SLURM: per node); None = 1 where there are any (SLURM: none are asked
        for). tasks: processes (ranks) per node; 0 = one per GPU, or one. cpus: CPU cores per job
        (SLURM: per process); 0 = local: cores / parallel. mem_gb: memory per node (SLURM). minutes:
        time limit; 0 = none locally, 24 hours on SLURM. signal_s: how long before the time limit a
        job is asked to save (SLURM). setup: shell commands before each job, for example `module
        load cuda`. continuations: how often a point whose job went away is started again without
        having come further. entry: the function that runs one experiment, `module:function`.
    """

    executor: Literal["local", "slurm", "debug"] = "local"
    parallel: int = 0
    gpus: int | None = None
    tasks: int = 0
    cpus: int = 0
    mem_gb: float = 0
    minutes: int = 0
    signal_s: int = 120
    nodes: int = 1
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    setup: tuple[str, ...] = ()
    srun_args: tuple[str, ...] = ()
    slurm: dict[str, str] = field(default_factory=dict)  # any other sbatch option
    continuations: int = 0
    entry: str = ENTRY

    @property
    def ranks_per_node(self) -> int:
        return self.tasks or max(1, self.gpus or 1)


@dataclass
class Job:
    """One submitted attempt at a point. `record` is what job.json holds."""

    point: Point
    record: dict[str, Any]
    slot: int = -1

    @property
    def id(self) -> str:
        return str(self.record["job_id"])

    def write(self) -> None:
        write_atomically(self.point.run_dir / "job.json", json.dumps(self.record, indent=1))


class Executor(Protocol):
    """How jobs are started and watched. `slots`: how many at once are handed in. `in_process`:
    `submit` runs them itself.

    `submit` raises NotNow if it should be tried again later, UserError if it never will work.
    `recover` returns jobs of an earlier call that were handed in but not written down, because the
    controller was killed in between."""

    slots: int
    in_process: bool

    def submit(self, points: Sequence[Point]) -> list[Job]: ...
    def recover(self, points: Sequence[Point]) -> list[Job]: ...
    def adopt(self, point: Point, record: dict[str, Any]) -> Job: ...
    def alive(self, job: Job) -> bool: ...
    def stop(self, job: Job) -> None: ...
    def kill(self, job: Job) -> None: ...
    def preview(self, points: int) -> str: ...


class Recorded:
    """What an executor does whose jobs are known by their record alone."""

    def adopt(self, point: Point, record: dict[str, Any]) -> Job:
        return Job(point, record)

    def alive(self, job: Job) -> bool:
        return alive(job.record)

    def recover(self, points: Sequence[Point]) -> list[Job]:
        return []


def send(record: dict[str, Any], number: signal.Signals) -> None:
    """A signal to the process of a local job, if it lives."""
    if record.get("executor") == "local" and job_alive(record, {}):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it went away by itself
            os.kill(int(record["pid"]), number)


def send_all(record: dict[str, Any], number: signal.Signals) -> None:
    """A signal to the whole session of a local job."""
    if record.get("executor") == "local" and job_alive(record, {}):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(int(record["pid"]), number)
