"""Runs the points of a sweep as jobs: local processes, SLURM jobs, or one after the other in this process.

The grid is the desired state. A call looks at each run directory, adopts what is running, submits what is missing, and reports what
failed. It holds nothing that cannot be read again: kill it at any moment and call it again. Jobs are sessions of their own, so
neither Ctrl-C nor a closed terminal reaches them unasked; their id is written to `job.json` before anything waits for them.

submitit is imported here only. What it does not do by itself and is done here: local jobs have no time limit of two minutes; each
attempt has its own folder (a process id that is given out again would otherwise find the old job's result); GPUs and cores are
shared out; whether an adopted job lives is asked of the operating system, since submitit cannot know.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import submitit
from submitit.core.job_environment import JobEnvironment

from ablations.design import Point
from simvtp.config import to_dict
from simvtp.errors import UserError
from simvtp.journal import write_atomically
from sweeps.job import ENTRY, run_job
from sweeps.rundir import FINISHED, STOPPED, RunState, job_alive, process_mark, read_state

EXECUTORS = ("local", "slurm", "debug")
LAUNCH_LOG = "launch.log"  # what the setup commands print
LONG_MIN = 60 * 24 * 365  # local jobs: submitit wants a limit, we want none


@dataclass(frozen=True)
class Options:
    """How the jobs are run. None of this changes what is computed.

    Attributes:
        parallel: jobs at once; 0 = one per GPU, or one per core up to 8 (SLURM: no limit).
        gpus: GPUs per job (SLURM: per node); None = 1 where there are any (SLURM: none are asked for).
        cpus: CPU cores per job; 0 = local: cores / parallel.
        mem_gb: memory per node (SLURM).
        minutes: time limit; 0 = none locally, 24 hours on SLURM.
        setup: shell commands before each job, for example `module load cuda`.
        entry: the function that runs one experiment, `module:function`.
    """

    executor: Literal["local", "slurm", "debug"] = "local"
    parallel: int = 0
    gpus: int | None = None
    cpus: int = 0
    mem_gb: float = 0
    minutes: int = 0
    nodes: int = 1
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    setup: tuple[str, ...] = ()
    srun_args: tuple[str, ...] = ()
    slurm: dict[str, str] = field(default_factory=dict)  # any other sbatch option
    entry: str = ENTRY


class PointJob:
    """What is pickled into a job. Called with plain values; `checkpoint` lets SLURM's signal requeue it with the same values."""

    def __call__(self, experiment: dict[str, Any], entry: str) -> dict[str, Any]:
        if int(os.environ.get("SLURM_NTASKS") or 1) > 1:
            submitit.helpers.TorchDistributedEnvironment().export()
        status = run_job(experiment, entry)
        on_slurm = os.environ.get("SUBMITIT_EXECUTOR") == "slurm" and os.environ.get("SLURM_PROCID", "0") == "0"
        if on_slurm and status.get("state") == STOPPED and "USR2" in str(status.get("message")):
            # The training loop read the signal, saved and left in good order. What remains is submitit's part: to be started again,
            # and to leave without a result, which would say that the job is over.
            JobEnvironment()._requeue(countdown=0)
            sys.exit(-1)
        return status

    def checkpoint(self, experiment: dict[str, Any], entry: str) -> submitit.helpers.DelayedSubmission:
        """Called by submitit's own handler if the signal comes before the training loop has taken it over."""
        return submitit.helpers.DelayedSubmission(self, experiment, entry)


@dataclass
class Job:
    """One submitted attempt at a point. `record` is what job.json holds."""

    point: Point
    record: dict[str, Any]
    slot: int = -1

    def write(self) -> None:
        write_atomically(self.point.run_dir / "job.json", json.dumps(self.record, indent=1))


class Executor(Protocol):
    """How jobs are started and watched. `slots`: how many at once are handed in. `in_process`: `submit` runs them itself."""

    slots: int
    in_process: bool

    def submit(self, points: Sequence[Point]) -> list[Job]: ...
    def adopt(self, point: Point, record: dict[str, Any]) -> Job: ...
    def alive(self, job: Job) -> bool: ...
    def stop(self, job: Job) -> None: ...
    def kill(self, job: Job) -> None: ...


# ---- local ----------------------------------------------------------------------------------------------------------------


class _Detached(submitit.LocalExecutor):
    """submitit's local executor, each job in a session of its own and with the environment that we choose."""

    def __init__(self, folder: Path, environment: dict[str, str], setup: Sequence[str], minutes: int) -> None:
        super().__init__(folder)
        self._environment = environment
        self._setup = list(setup)
        self.update_parameters(timeout_min=minutes or LONG_MIN)

    def _submit_command(self, command: str) -> submitit.LocalJob[Any]:
        program = [sys.executable, "-m", "submitit.local._local", str(self.folder)]
        minutes = self.parameters["timeout_min"]
        environment = os.environ | {
            "SUBMITIT_LOCAL_NTASKS": "1",
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_TIMEOUT_S": str(60 * minutes),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": "30",
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_STDERR_TO_STDOUT": "",
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
        }
        if self._setup:  # exec: the job keeps the process id that we know it by
            shell = shutil.which("bash") or "/bin/sh"
            program = [shell, "-c", " && ".join([*self._setup, f"exec {shlex.join(program)}"])]
        with open(Path(self.folder) / LAUNCH_LOG, "ab") as log:  # our own terminal or pipe must not be held open by the job
            process = subprocess.Popen(
                program,
                env=environment | self._environment,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return submitit.LocalJob(folder=self.folder, job_id=str(process.pid), process=process, tasks=[0])


class LocalJobs:
    """Processes on this machine, `slots` at once, with the GPUs and cores shared out between them."""

    in_process = False

    def __init__(self, options: Options, sweep_dir: Path, points: int) -> None:
        self._options, self._folder = options, sweep_dir / "jobs"
        self._gpus = visible_gpus()
        cores = len(os.sched_getaffinity(0))
        per_job = 1 if options.gpus is None else options.gpus
        if self._gpus and per_job > len(self._gpus):
            raise UserError(f"--gpus {per_job}: this machine has {len(self._gpus)}; ask for fewer, or use --executor slurm.")
        if not self._gpus and options.gpus:
            raise UserError(f"--gpus {options.gpus}: no GPU is visible on this machine; leave it out, or use --executor slurm.")
        self._per_job = per_job if self._gpus else 0
        natural = len(self._gpus) // self._per_job if self._per_job else min(cores, 8)
        self.slots = options.parallel or max(1, min(natural, points))
        self._threads = options.cpus or max(1, cores // self.slots)
        self._processes: dict[str, submitit.Job[Any]] = {}
        self._used: dict[str, int] = {}  # job id -> slot

    def submit(self, points: Sequence[Point]) -> list[Job]:
        return [self._submit(point) for point in points]

    def _submit(self, point: Point) -> Job:
        slot = min(set(range(self.slots)) - set(self._used.values()), default=0)
        folder = _fresh_folder(self._folder / point.fingerprint[:12])
        executor = _Detached(folder, self._environment(slot), self._options.setup, self._options.minutes)
        submitted = time.time()
        job = executor.submit(PointJob(), to_dict(point.experiment), self._options.entry)
        self._processes[job.job_id], self._used[job.job_id] = job, slot
        files = {"stdout": str(job.paths.stdout), "stderr": str(job.paths.stderr), "result": str(job.paths.result_pickle)}
        files["launch"] = str(folder / LAUNCH_LOG)
        record = {"executor": "local", "job_id": job.job_id, "submitted": submitted, **process_mark(int(job.job_id)), **files}
        return Job(point, record, slot)

    def _environment(self, slot: int) -> dict[str, str]:
        """Each job sees its own GPUs, and as many threads as there are cores for it (unless the user has set that)."""
        environment = {}
        if self._per_job:
            mine = [self._gpus[(slot * self._per_job + number) % len(self._gpus)] for number in range(self._per_job)]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            if self._options.cpus or name not in os.environ:
                environment[name] = str(self._threads)
        return environment

    def adopt(self, point: Point, record: dict[str, Any]) -> Job:
        slot = min(set(range(self.slots)) - set(self._used.values()), default=0)
        self._used[str(record["job_id"])] = slot
        return Job(point, record, slot)

    def alive(self, job: Job) -> bool:
        own = self._processes.get(str(job.record["job_id"]))
        alive = not own.done() if own else is_alive(job.record)
        if not alive:
            self._used.pop(str(job.record["job_id"]), None)
        return alive

    def stop(self, job: Job) -> None:
        """SIGTERM to submitit's parent process, which hands it to the experiment only, not to its loader workers."""
        _signal(job.record, signal.SIGTERM)

    def kill(self, job: Job) -> None:
        """SIGKILL to the job's whole session."""
        if job_alive(job.record, {}) and job.record.get("executor") == "local":
            _quietly(os.killpg, int(job.record["pid"]), signal.SIGKILL)


def visible_gpus() -> list[str]:
    """Names by which CUDA_VISIBLE_DEVICES can hand out the GPUs of this machine (asked without starting CUDA here)."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() and name.strip() != "-1"]
    if not shutil.which("nvidia-smi"):
        return []
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(number) for number, line in enumerate(done.stdout.splitlines()) if line.startswith("GPU ")] if done.returncode == 0 else []


def _fresh_folder(parent: Path) -> Path:
    """The next unused folder `parent/0`, `parent/1`, ...: one an attempt."""
    number = sum(1 for _ in parent.iterdir()) if parent.is_dir() else 0
    while True:
        try:
            (parent / str(number)).mkdir(parents=True)
            return parent / str(number)
        except FileExistsError:
            number += 1


def _signal(record: dict[str, Any], number: signal.Signals) -> None:
    if record.get("executor") == "local" and job_alive(record, {}):
        _quietly(os.kill, int(record["pid"]), number)


def _quietly(function: Callable[..., Any], *arguments: Any) -> None:
    try:
        function(*arguments)
    except (ProcessLookupError, PermissionError):
        return  # it went away by itself


# ---- debug ----------------------------------------------------------------------------------------------------------------


class _Recorded:
    """What an executor does whose jobs are known by their record alone."""

    def adopt(self, point: Point, record: dict[str, Any]) -> Job:
        return Job(point, record)

    def alive(self, job: Job) -> bool:
        return is_alive(job.record)


class InProcess(_Recorded):
    """One point after the other in this very process: a debugger's breakpoints work, Ctrl-C stops where it stands."""

    slots = 1
    in_process = True

    def __init__(self, options: Options) -> None:
        self._options = options

    def submit(self, points: Sequence[Point]) -> list[Job]:
        jobs = []
        for point in points:
            job = Job(point, {"executor": "debug", "job_id": f"debug-{os.getpid()}", "submitted": time.time()})
            job.write()
            try:
                run_job(to_dict(point.experiment), self._options.entry)
            except Exception:  # the point has failed (its status says so); the others go on
                traceback.print_exc()
            jobs.append(job)
        return jobs

    def stop(self, job: Job) -> None:
        _signal(job.record, signal.SIGTERM)

    def kill(self, job: Job) -> None:
        return None


# ---- SLURM ----------------------------------------------------------------------------------------------------------------


class SlurmJobs(_Recorded):
    """Jobs of a SLURM cluster: the missing points go in as one array, at most `parallel` of which run at once."""

    in_process = False

    def __init__(self, options: Options, sweep_dir: Path, name: str) -> None:
        if not shutil.which("sbatch"):
            raise UserError(
                "--executor slurm needs the command sbatch, which this machine does not have: use a login node, or --executor local."
            )
        self.slots = sys.maxsize
        self._options = options
        self._executor = submitit.SlurmExecutor(folder=sweep_dir / "jobs" / "slurm" / "%j", max_num_timeout=1000)
        self._executor.update_parameters(**slurm_parameters(options, name))

    def submit(self, points: Sequence[Point]) -> list[Job]:
        submitted = time.time()
        try:
            with self._executor.batch():
                handles = [self._executor.submit(PointJob(), to_dict(point.experiment), self._options.entry) for point in points]
        except submitit.core.utils.FailedJobError as error:
            raise UserError(f"SLURM refused the jobs: {' '.join(str(error).split())}") from None
        jobs = []
        for point, handle in zip(points, handles, strict=True):
            paths = handle.paths
            files = {"stdout": str(paths.stdout), "stderr": str(paths.stderr), "result": str(paths.result_pickle)}
            jobs.append(Job(point, {"executor": "slurm", "job_id": handle.job_id, "submitted": submitted, **files}))
        return jobs

    def stop(self, job: Job) -> None:
        """The cluster's jobs go on without the controller."""

    def kill(self, job: Job) -> None:
        """As `stop`."""


def slurm_parameters(options: Options, name: str) -> dict[str, Any]:
    """The options in submitit's words. One task per GPU; signal 2 minutes before the limit, so that a checkpoint can be written."""
    tasks = max(1, options.gpus or 1)
    wanted = {
        "job_name": name,
        "time": options.minutes or 24 * 60,
        "nodes": options.nodes,
        "ntasks_per_node": tasks,
        "gpus_per_node": options.gpus,
        "cpus_per_task": options.cpus or None,
        "mem": f"{options.mem_gb:g}G" if options.mem_gb else None,
        "partition": options.partition or None,
        "account": options.account or None,
        "qos": options.qos or None,
        "constraint": options.constraint or None,
        "setup": list(options.setup) or None,
        "srun_args": ["--kill-on-bad-exit=1", *options.srun_args],  # else one dead rank leaves the others waiting for it
        "signal_delay_s": 120,
        "array_parallelism": options.parallel or 256,
        "additional_parameters": {"requeue": True, **options.slurm},
    }
    return {key: value for key, value in wanted.items() if value is not None}


class SlurmQueue:
    """The ids of this user's jobs that SLURM has or will run again: one `squeue` for all of them, at most every few seconds.

    The queue is asked and not the accounting: that may be off or late, calls a job final that SLURM has requeued after a node
    failure, and has cost others a point that ran twice.
    """

    def __init__(self, every_s: float = 5.0) -> None:
        self._every_s, self._asked, self._ids = every_s, 0.0, frozenset[str]()
        self._answered = False

    def has(self, job_id: str) -> bool:
        """If SLURM does not answer, the job is taken to be there."""
        if time.monotonic() - self._asked > self._every_s or not self._asked:
            self._asked = time.monotonic()
            done = subprocess.run(
                ["squeue", "--noheader", "--me", "--array", "--format", "%i"], capture_output=True, text=True, check=False
            )
            self._answered = done.returncode == 0
            self._ids = frozenset(done.stdout.split())
        return job_id in self._ids or not self._answered


# ---- common ---------------------------------------------------------------------------------------------------------------


def require_executor(options: Options) -> None:
    """UserError if this machine cannot offer the executor that was asked for."""
    if options.executor == "slurm" and not shutil.which("sbatch"):
        raise UserError(
            "--executor slurm needs the command sbatch, which this machine does not have: use a login node, or --executor local."
        )


def make_executor(options: Options, sweep_dir: Path, name: str, points: int) -> Executor:
    """The executor that was asked for; UserError if this machine cannot offer it."""
    require_executor(options)
    if options.executor == "slurm":
        return SlurmJobs(options, sweep_dir, name)
    if options.executor == "debug":
        return InProcess(options)
    return LocalJobs(options, sweep_dir, points)


_SLURM_QUEUE = SlurmQueue()  # shared, so that a sweep of a thousand points asks once


def is_alive(record: Mapping[str, Any], status: Mapping[str, Any] | None = None) -> bool:
    """Whether a recorded job lives, whichever executor started it."""
    if record.get("executor") == "slurm" and shutil.which("squeue"):
        return _SLURM_QUEUE.has(str(record["job_id"]))
    return job_alive(record, status or {})


def point_state(point: Point) -> RunState:
    """What is known about a point without having started it: from its run directory, and from SLURM for a job that waits there."""
    state = read_state(point.run_dir)
    if state.state != FINISHED and state.job.get("executor") == "slurm":
        state = read_state(point.run_dir, alive=is_alive(state.job, state.status) or None)
    return state
