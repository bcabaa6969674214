"""Runs jobs as processes of this machine.

This goes beyond submitit's local executor: jobs have no time limit of two minutes; each attempt has
its own folder (a reused process id would otherwise find the old job's result); GPUs and cores are
divided; the operating system is asked whether an adopted job is alive, since submitit cannot know.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit

from ablations.design import Point
from simvtp.config.tree import to_dict
from simvtp.errors import UserError
from simvtp.runs.attempts import newest_token
from simvtp.runs.process_identity import NO_GPU_SEEN, process_start
from simvtp.runs.run_records import JobRecord
from sweeps.compat.submitit_private import SubmittingExecutor, supervisor_command
from sweeps.runner.code_snapshot import CodeSnapshot
from sweeps.runner.executor import (
    Job,
    JobOptions,
    checked_line,
    make_private,
    signal_process,
    signal_session,
)
from sweeps.runner.liveness import job_alive
from sweeps.runner.point import PointJob
from sweeps.runner.slurm_queue import SlurmQueue

LAUNCH_LOG = "launch.log"  # output of the setup commands
NO_LIMIT_MIN = 60 * 24 * 365  # submitit requires a limit
LISTING_S = 20  # for nvidia-smi
DRIVER_FILES = (
    *(Path("/dev/nvidiactl"), Path("/proc/driver/nvidia/version")),
    Path("/dev/dxg"),  # of Windows' subsystem for Linux
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def make_local_executor(
    folder: Path, environment: Mapping[str, str], options: JobOptions
) -> SubmittingExecutor:
    """Returns submitit's executor of one attempt, which starts the job in its own session.

    Args:
        folder: of the attempt.
        environment: variables in addition to those of this process.
        options: how the job is run.
    """
    minutes, tasks = options.minutes or NO_LIMIT_MIN, options.ranks_per_node

    def start(command: str) -> submitit.LocalJob[Any]:
        own = {
            "SUBMITIT_LOCAL_NTASKS": str(tasks),
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_TIMEOUT_S": str(60 * minutes),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": "30",
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_STDERR_TO_STDOUT": "",
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
        }
        with open(folder / LAUNCH_LOG, "ab") as log:  # the job must not hold our terminal open
            process = subprocess.Popen(
                job_command(folder, options.setup),
                env={**os.environ, **own, **environment},
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return submitit.LocalJob(
            folder=folder, job_id=str(process.pid), process=process, tasks=list(range(tasks))
        )

    executor = SubmittingExecutor(folder, start)
    executor.update_parameters(timeout_min=minutes)
    return executor


class LocalJobs:
    """Processes on this machine, `slots` at once, with GPUs and cores divided between them."""

    in_process = False
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        options: JobOptions,
        sweep_dir: Path,
        points: int,
        queue: SlurmQueue,
        code: CodeSnapshot | None = None,
    ) -> None:
        self._options, self._folder, self._code = options, sweep_dir / "jobs", code
        self._queue = queue
        self._gpus = visible_gpus()
        self._check_machine()
        cores = len(os.sched_getaffinity(0))
        self._per_job = (1 if options.gpus is None else options.gpus) if self._gpus else 0
        if self._per_job:
            natural = len(self._gpus) // self._per_job
        else:
            natural = min(max(1, cores // options.ranks_per_node), 8)
        self.slots = options.parallel or max(1, min(natural, points))
        self._threads = options.cpus or max(1, cores // (self.slots * options.ranks_per_node))
        self._processes: dict[str, submitit.Job[Any]] = {}
        self._used: dict[str, int] = {}  # job id -> slot

    def _check_machine(self) -> None:
        """Raises UserError if this machine lacks the nodes or GPUs of the options."""
        nodes, gpus = self._options.nodes, self._options.gpus
        if nodes > 1:
            raise UserError(
                f"--nodes {nodes}: this machine is one node; use --executor slurm, "
                "or --tasks for several processes."
            )
        if self._options.gpu_kind:
            raise UserError(
                f"--gpus {self._options.gpu_kind}:{gpus}: a type of GPU is chosen by SLURM; "
                "give the number alone, or use --executor slurm."
            )
        if self._gpus and (gpus or 0) > len(self._gpus):
            raise UserError(
                f"--gpus {gpus}: this machine has {len(self._gpus)}; request fewer, "
                "or use --executor slurm."
            )
        if not self._gpus and gpus:
            raise UserError(
                f"--gpus {gpus}: no GPU is visible on this machine; omit it, "
                "or use --executor slurm."
            )

    def submit(self, points: Sequence[Point]) -> list[Job]:
        return [self._submit(point) for point in points]

    def _submit(self, point: Point) -> Job:
        slot = self._free_slot()
        folder = _new_folder(self._folder / point.fingerprint[:12])
        executor = make_local_executor(folder, self._environment(slot), self._options)
        submitted, attempt = time.time(), newest_token(point.run_dir)
        job = executor.submit(PointJob(), to_dict(point.experiment), self._options.entry)
        self._processes[job.job_id], self._used[job.job_id] = job, slot
        make_private(job.paths.submitted_pickle)
        record = JobRecord(
            executor="local",
            job_id=job.job_id,
            submitted=submitted,
            after_attempt=attempt,
            host=socket.gethostname(),
            pid=int(job.job_id),
            pid_started=process_start(int(job.job_id)),
            stdout=str(job.paths.stdout),
            stderr=str(job.paths.stderr),
            launch=str(folder / LAUNCH_LOG),
            gpus=self._per_job,
            code=str(self._code.path) if self._code else "",
        )
        return Job(point, record, slot)

    def _free_slot(self) -> int:
        return min(set(range(self.slots)) - set(self._used.values()), default=0)

    def _environment(self, slot: int) -> dict[str, str]:
        """Returns the variables of a job: its own GPUs, threads for its cores, the snapshot.

        Threads stay as the user has set them, if so.
        """
        environment = self._code.environment() if self._code else {}
        if not self._gpus and os.environ.get("CUDA_VISIBLE_DEVICES"):
            environment["CUDA_VISIBLE_DEVICES"] = ""  # it names no device: none is billed either
        if not self._gpus:
            environment[NO_GPU_SEEN] = "1"
        if self._per_job:
            first = slot * self._per_job
            numbers = [(first + k) % len(self._gpus) for k in range(self._per_job)]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._gpus[n] for n in numbers)
        for name in THREAD_VARIABLES:
            if self._options.cpus or name not in os.environ:
                environment[name] = str(self._threads)
        return environment

    def recover(self, points: Sequence[Point]) -> list[Job]:
        """Returns nothing: a job without job.json has its process id nowhere.

        The lease of its run directory keeps a second one out.
        """
        return []

    def adopt(self, point: Point, record: JobRecord) -> Job:
        slot = self._free_slot()
        self._used[record.job_id] = slot
        return Job(point, record, slot)

    def alive(self, job: Job) -> bool:
        own = self._processes.get(job.id)
        alive = not own.done() if own else job_alive(job.record, self._queue)
        if not alive:
            self._used.pop(job.id, None)
            self._processes.pop(job.id, None)
        return alive

    def stop(self, job: Job) -> None:
        """Sends SIGTERM to submitit's parent process.

        That forwards it to the experiment only, not to its loader workers.
        """
        signal_process(job.record, signal.SIGTERM)

    def kill(self, job: Job) -> None:
        """Sends SIGKILL to the job's whole session."""
        signal_session(job.record, signal.SIGKILL)

    def preview(self, points: int) -> str:
        command = job_command(self._folder / "FINGERPRINT" / "ATTEMPT", self._options.setup)
        variables = self._environment(0).items()
        words = " ".join(f"{key}={shlex.quote(value)}" for key, value in variables)
        return f"{self.slots} at once, each: {words} {shlex.join(command)}"


def job_command(folder: Path, setup: Sequence[str]) -> list[str]:
    """Returns the command of submitit's supervisor of one job, after the setup commands."""
    program = supervisor_command(folder)
    if not setup:
        return program
    shell = shutil.which("bash") or "/bin/sh"
    # exec: the job keeps the process id that job.json records
    lines = [*map(checked_line, setup), f"exec {shlex.join(program)}"]
    return [shell, "-c", "\n".join(lines)]


def visible_gpus() -> list[str]:
    """Returns the names by which CUDA_VISIBLE_DEVICES can hand out this machine's GPUs.

    Does not start CUDA in this process.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        if not has_driver():
            return []
        numbers = [str(number) for number in range(torch_devices())]
        return (divided_gpus() or numbers) if numbers else []
    names = [name.strip() for name in given.split(",")]
    if not any(name not in ("", "-1", "NoDevFiles") for name in names):
        return []
    if all(name.startswith("MIG-") for name in names):  # of several slices a process sees the first
        return names if torch_devices() else []
    # CUDA uses the names up to the first that is no device; a device may also be a MIG slice
    return names[: torch_devices()]


def has_driver() -> bool:
    """Returns whether this machine shows any sign of a GPU; slim containers lack nvidia-smi."""
    return bool(shutil.which("nvidia-smi") or any(path.exists() for path in DRIVER_FILES))


def divided_gpus() -> list[str]:
    """Returns the devices of a machine of whose GPUs some are divided into MIG slices, by UUID.

    A process can use one slice, so each is a device of its own. None if no GPU is divided, or
    nvidia-smi does not say.
    """
    program = shutil.which("nvidia-smi")
    if not program:
        return []
    try:
        done = subprocess.run(
            [program, "-L"], capture_output=True, text=True, check=False, timeout=LISTING_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = re.findall(r"^(?: *MIG |GPU \d).*\(UUID: ((?:MIG|GPU)-[^)\s]+)\)", done.stdout, re.M)
    if not any(name.startswith("MIG-") for name in found):
        return []
    following = [*found[1:], ""]
    # a GPU with slices is listed before them, and is no device itself
    return [
        name
        for name, after in zip(found, following, strict=True)
        if name.startswith("MIG-") or not after.startswith("MIG-")
    ]


def torch_devices() -> int:
    """Returns how many GPUs torch sees: what a job will have, whatever the variables say."""
    program = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    last = done.stdout.split()[-1:]
    return int(last[0]) if done.returncode == 0 and last and last[0].isdigit() else 0


def _new_folder(parent: Path) -> Path:
    """Creates the next unused folder `parent/0`, `parent/1`, ...: one per attempt."""
    number = sum(1 for _ in parent.iterdir()) if parent.is_dir() else 0
    while True:
        try:
            folder = parent / str(number)
            folder.mkdir(parents=True)
            make_private(folder)
            return folder
        except FileExistsError:
            number += 1
