"""Jobs as processes of this machine.

What submitit does not do by itself: local jobs have no time limit of two minutes; each attempt has
its own folder (a process id that is given out again would otherwise find the old job's result);
GPUs and cores are shared out; whether an adopted job lives is asked of the operating system, since
submitit cannot know."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit

from ablations.design import Point
from simvtp.config.schema import to_dict
from simvtp.errors import UserError
from sweeps.monitor.run_state import process_mark
from sweeps.runner.code_snapshot import Frozen
from sweeps.runner.executor import Job, Options, send, send_all
from sweeps.runner.point import PointJob
from sweeps.runner.slurm_queue import alive

LAUNCH_LOG = "launch.log"  # what the setup commands print
LONG_MIN = 60 * 24 * 365  # submitit wants a limit, we want none


class _Detached(submitit.LocalExecutor):
    """submitit's local executor, each job in a session of its own and with the environment that we
    choose.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], options: Options) -> None:
        super().__init__(folder)
        self._environment, self._setup, self._tasks = (
            environment,
            list(options.setup),
            options.ranks_per_node,
        )
        self.update_parameters(timeout_min=options.minutes or LONG_MIN)

    def _submit_command(self, command: str) -> submitit.LocalJob[Any]:
        environment = os.environ | {
            "SUBMITIT_LOCAL_NTASKS": str(self._tasks),
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_TIMEOUT_S": str(60 * self.parameters["timeout_min"]),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": "30",
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_STDERR_TO_STDOUT": "",
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
        }
        with open(
            Path(self.folder) / LAUNCH_LOG, "ab"
        ) as log:  # our own terminal or pipe must not be held open by the job
            process = subprocess.Popen(
                _program(self.folder, self._setup),
                env=environment | dict(self._environment),
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return submitit.LocalJob(
            folder=self.folder,
            job_id=str(process.pid),
            process=process,
            tasks=list(range(self._tasks)),
        )


class LocalJobs:
    """Processes on this machine, `slots` at once, with the GPUs and cores shared out between them."""

    in_process = False

    def __init__(
        self, options: Options, sweep_dir: Path, points: int, code: Frozen | None = None
    ) -> None:
        self._options, self._folder, self._code = options, sweep_dir / "jobs", code
        self._gpus = visible_gpus()
        cores = len(os.sched_getaffinity(0))
        per_job = 1 if options.gpus is None else options.gpus
        if options.nodes > 1:
            raise UserError(
                f"--nodes {options.nodes}: this machine is one node; use --executor slurm, or --tasks for several processes."
            )
        if self._gpus and per_job > len(self._gpus):
            raise UserError(
                f"--gpus {per_job}: this machine has {len(self._gpus)}; ask for fewer, or use --executor slurm."
            )
        if not self._gpus and options.gpus:
            raise UserError(
                f"--gpus {options.gpus}: no GPU is visible on this machine; leave it out, or use --executor slurm."
            )
        self._per_job = per_job if self._gpus else 0
        natural = (
            len(self._gpus) // self._per_job
            if self._per_job
            else min(max(1, cores // options.ranks_per_node), 8)
        )
        self.slots = options.parallel or max(1, min(natural, points))
        self._threads = options.cpus or max(1, cores // (self.slots * options.ranks_per_node))
        self._processes: dict[str, submitit.Job[Any]] = {}
        self._used: dict[str, int] = {}  # job id -> slot

    def submit(self, points: Sequence[Point]) -> list[Job]:
        return [self._submit(point) for point in points]

    def _submit(self, point: Point) -> Job:
        slot = min(set(range(self.slots)) - set(self._used.values()), default=0)
        folder = _fresh_folder(self._folder / point.fingerprint[:12])
        executor = _Detached(folder, self._environment(slot), self._options)
        submitted = time.time()
        job = executor.submit(PointJob(), to_dict(point.experiment), self._options.entry)
        self._processes[job.job_id], self._used[job.job_id] = job, slot
        record = {
            "executor": "local",
            "job_id": job.job_id,
            "submitted": submitted,
            **process_mark(int(job.job_id)),
            "stdout": str(job.paths.stdout),
            "stderr": str(job.paths.stderr),
            "launch": str(folder / LAUNCH_LOG),
            "gpus": self._per_job,
            "nodes": 1,
            "code": str(self._code.path) if self._code else "",
        }
        return Job(point, record, slot)

    def _environment(self, slot: int) -> dict[str, str]:
        """Each job sees its own GPUs, as many threads as there are cores for it (unless the user
        has set that), and the frozen code.
        """
        environment = self._code.environment() if self._code else {}
        if self._per_job:
            mine = [
                self._gpus[(slot * self._per_job + number) % len(self._gpus)]
                for number in range(self._per_job)
            ]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            if self._options.cpus or name not in os.environ:
                environment[name] = str(self._threads)
        return environment

    def recover(self, points: Sequence[Point]) -> list[Job]:
        """A job that was not written down has its process id nowhere; the lease of its run
        directory keeps a second one out.
        """
        return []

    def adopt(self, point: Point, record: dict[str, Any]) -> Job:
        slot = min(set(range(self.slots)) - set(self._used.values()), default=0)
        self._used[str(record["job_id"])] = slot
        return Job(point, record, slot)

    def alive(self, job: Job) -> bool:
        own = self._processes.get(job.id)
        living = not own.done() if own else alive(job.record)
        if not living:
            self._used.pop(job.id, None)
            self._processes.pop(job.id, None)
        return living

    def stop(self, job: Job) -> None:
        """SIGTERM to submitit's parent process, which hands it to the experiment only, not to its
        loader workers.
        """
        send(job.record, signal.SIGTERM)

    def kill(self, job: Job) -> None:
        """SIGKILL to the job's whole session."""
        send_all(job.record, signal.SIGKILL)

    def preview(self, points: int) -> str:
        command = shlex.join(
            _program(self._folder / "FINGERPRINT" / "ATTEMPT", self._options.setup)
        )
        variables = " ".join(
            f"{key}={shlex.quote(value)}" for key, value in self._environment(0).items()
        )
        return f"{self.slots} at once, each: {variables} {command}"


def _program(folder: str | Path, setup: Sequence[str]) -> list[str]:
    """submitit's supervisor of one job, after the setup commands."""
    program = [sys.executable, "-m", "submitit.local._local", str(folder)]
    if not setup:
        return program
    shell = (
        shutil.which("bash") or "/bin/sh"
    )  # exec: the job keeps the process id that we know it by
    return [shell, "-c", " && ".join([*setup, f"exec {shlex.join(program)}"])]


def visible_gpus() -> list[str]:
    """Names by which CUDA_VISIBLE_DEVICES can hand out the GPUs of this machine (asked without
    starting CUDA here).
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() and name.strip() != "-1"]
    if not shutil.which("nvidia-smi"):
        return []
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return (
        [
            str(number)
            for number, line in enumerate(done.stdout.splitlines())
            if line.startswith("GPU ")
        ]
        if done.returncode == 0
        else []
    )


def _fresh_folder(parent: Path) -> Path:
    """The next unused folder `parent/0`, `parent/1`, ...: one an attempt."""
    number = sum(1 for _ in parent.iterdir()) if parent.is_dir() else 0
    while True:
        try:
            (parent / str(number)).mkdir(parents=True)
            return parent / str(number)
        except FileExistsError:
            number += 1
