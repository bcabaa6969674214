"""Runs jobs on a SLURM cluster: missing points are submitted as arrays.

Each submission is recorded twice: before it with its name and its points, after it with the ids
that SLURM gave. A controller that was killed in between finds the jobs again by the name, and
nothing is submitted a second time."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import submitit

from ablations.design import Point
from simvtp.config.tree import to_dict
from simvtp.errors import UserError
from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.runs.attempts import newest_token
from simvtp.runs.run_records import JobRecord
from sweeps.compat.submitit_private import BatchExecutor
from sweeps.runner.code_snapshot import CodeSnapshot
from sweeps.runner.executor import (
    Job,
    JobOptions,
    RecordedJobs,
    SubmissionDeferred,
    checked_line,
    make_private,
)
from sweeps.runner.point import PointJob
from sweeps.runner.slurm_environment import describe_dropped, dropped_variables
from sweeps.runner.slurm_queue import SlurmQueue, cancel_jobs, run_slurm

DEFAULT_MIN = 24 * 60  # minutes
# options that `slurm_parameters` gives and whose names have a dash
OWN_OPTIONS = ("ntasks-per-node", "gpus-per-node", "cpus-per-task")
ARRAY_MAX = 1000  # SLURM's own default of MaxArraySize is 1001
_NO_ANSWER = re.compile(
    r"Unable to contact slurm controller|[Tt]imed out|Slurm temporarily unable"
    r"|Connection refused|Zero Bytes were transmitted|Unexpected message received"
    r"|communication connection failure|Resource temporarily unavailable"
)
# SLURM says the same for "too many" and for "never"
_LIMIT_REACHED = re.compile(r"violates accounting/QOS policy|MaxSubmit|MaxJobs")


class SlurmJobs(RecordedJobs):
    """Arrays of at most `ARRAY_MAX` points, of which at most `parallel` run at once."""

    slots = sys.maxsize
    in_process = False

    def __init__(
        self,
        options: JobOptions,
        sweep_dir: Path,
        name: str,
        queue: SlurmQueue,
        code: CodeSnapshot | None = None,
    ) -> None:
        super().__init__(queue)
        if not str(sweep_dir).isprintable():  # it is written into the batch script
            raise UserError(
                f"--root: the path {str(sweep_dir)!r} has a line break or control character."
            )
        self._options, self._name, self._code = options, name, code
        self._jobs = sweep_dir / "jobs" / "slurm" / "%j"
        self._submissions = sweep_dir / "submissions"
        self._largest = min(ARRAY_MAX, _array_limit())
        self.notes = tuple(describe_dropped())

    def submit(self, points: Sequence[Point]) -> list[Job]:
        """Submits as many of the points as SLURM accepts; the caller submits the rest again.

        Raises:
            SubmissionDeferred: SLURM accepts none now.
            UserError: SLURM refuses them for good.
        """
        points = points[: self._largest]
        token = secrets.token_hex(4)
        name = f"{self._name}.{token}"
        record = self._submissions / f"{token}.json"
        attempts = [newest_token(point.run_dir) for point in points]
        submission = {
            "token": token,
            "name": name,
            "submitted": time.time(),
            "fingerprints": [p.fingerprint for p in points],
            "attempts": attempts,
            "job_ids": None,
        }
        write_atomically(record, json.dumps(submission))
        executor = self._executor(name)
        errors = submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError
        try:
            with executor.batch():
                handles = [
                    executor.submit(PointJob(), to_dict(point.experiment), self._options.entry)
                    for point in points
                ]
        except errors as error:
            self._refused(" ".join(str(error).split()), record)
        ids = [handle.job_id for handle in handles]
        write_atomically(record, json.dumps({**submission, "job_ids": ids}))
        for handle in handles:
            for path in (handle.paths.submitted_pickle.parent, handle.paths.submitted_pickle):
                make_private(path)
        self.queue.refresh()
        submitted = float(str(submission["submitted"]))
        return [
            self._job(point, job_id, name, submitted, attempt)
            for point, job_id, attempt in zip(points, ids, attempts, strict=True)
        ]

    def _refused(self, answer: str, record: Path) -> NoReturn:
        if _NO_ANSWER.search(answer):
            # it may have accepted the jobs and the answer was lost: the record stays, and
            # `recover` looks for its name
            raise SubmissionDeferred(_reason(answer))
        record.unlink(missing_ok=True)
        if _LIMIT_REACHED.search(answer) and self.queue.jobs():
            self._largest = max(1, self._largest // 2)
            raise SubmissionDeferred(_reason(answer))
        raise UserError(f"SLURM refused the jobs: {_reason(answer)}") from None

    def recover(self, points: Sequence[Point]) -> list[Job]:
        """Returns jobs that SLURM holds and no job.json records.

        Raises:
            SubmissionDeferred: SLURM does not answer, so that this cannot be known.
        """
        records = {path: read_json(path) for path in sorted(self._submissions.glob("*.json"))}
        unconfirmed = {path: values for path, values in records.items() if not values["job_ids"]}
        if not unconfirmed:
            return []
        self.queue.refresh()
        queued = self.queue.jobs()
        if queued is None:
            raise SubmissionDeferred(
                "SLURM does not answer, and a submission was interrupted: waiting until its jobs "
                "can be looked up"
            )
        known = {point.fingerprint: point for point in points}
        found = []
        for path, values in unconfirmed.items():
            ids = [job_id for job_id, job in queued.items() if job.name == values["name"]]
            for job_id in ids:
                number = int(job_id.partition("_")[2] or 0)
                fingerprint = values["fingerprints"][number]
                if fingerprint in known and self._has_pickle(job_id):
                    attempt = values["attempts"][number] if "attempts" in values else -1
                    name, submitted = values["name"], values["submitted"]
                    found.append(self._job(known[fingerprint], job_id, name, submitted, attempt))
            write_atomically(path, json.dumps({**values, "job_ids": ids or ["none"]}))
        return found

    def _has_pickle(self, job_id: str) -> bool:
        """Returns whether the job's submission was completed.

        Otherwise (the controller was killed before it had moved the files) the job ends by itself
        after a minute.
        """
        return Path(self._handle(job_id).paths.submitted_pickle).exists()

    def _handle(self, job_id: str) -> submitit.SlurmJob[Any]:
        return submitit.SlurmJob(folder=self._jobs, job_id=job_id, tasks=[0])

    def _job(self, point: Point, job_id: str, name: str, submitted: float, attempt: int) -> Job:
        paths, options = self._handle(job_id).paths, self._options
        record = JobRecord(
            executor="slurm",
            job_id=job_id,
            submitted=submitted,
            after_attempt=attempt,
            name=name,
            stdout=str(paths.stdout),
            stderr=str(paths.stderr),
            gpus=(options.gpus or 0) * options.nodes,
            nodes=options.nodes,
            code=str(self._code.path) if self._code else "",
        )
        return Job(point, record)

    def _executor(self, name: str) -> BatchExecutor:
        executor = BatchExecutor(self._jobs, dropped_variables())
        executor.update_parameters(**slurm_parameters(self._options, name, self._code))
        return executor

    def stop(self, job: Job) -> None:
        """Cancels the job: SLURM signals it, it saves and leaves."""
        if job.executor == "slurm":
            cancel_jobs([job.id])
            self.queue.refresh()

    def kill(self, job: Job) -> None:
        """Cancels the job; SLURM kills it if it does not leave."""
        self.stop(job)

    def preview(self, points: int) -> str:
        """Returns the batch script of the next array."""
        executor = self._executor(f"{self._name}.TOKEN")
        executor.parameters |= {"map_count": min(points, self._largest)} if points > 1 else {}
        return executor.script("TOKEN")


def slurm_parameters(
    options: JobOptions, name: str, code: CodeSnapshot | None = None
) -> dict[str, Any]:
    """Returns the options under submitit's names.

    One task per GPU; a signal before the limit, so that a checkpoint can be written.
    """
    environment = code.environment() if code else {}
    variables = [f"export {key}={shlex.quote(value)}" for key, value in environment.items()]
    minutes = options.minutes or DEFAULT_MIN
    # srun of SLURM 22.05 to 23.02 does not take the cores of its job over: without both, all the
    # threads and loader workers of a rank share one core
    cores = [f"--cpus-per-task={options.cpus}", "--cpu-bind=cores"] if options.cpus else []
    gpus: int | str | None = options.gpus
    if options.gpu_kind:
        gpus = f"{options.gpu_kind}:{options.gpus}"
    wanted = {
        "job_name": name,
        "time": minutes,
        "nodes": options.nodes,
        "ntasks_per_node": options.ranks_per_node,
        "gpus_per_node": gpus,
        "cpus_per_task": options.cpus or None,
        "mem": options.memory or None,
        "partition": options.partition or None,
        "account": options.account or None,
        "qos": options.qos or None,
        "constraint": options.constraint or None,
        "setup": [*variables, *map(checked_line, options.setup)] or None,
        # else one dead rank leaves the others waiting for it; and `sbatch --export=NONE` would be
        # passed on to srun, so that the job would not get what its own script exports
        "srun_args": ["--kill-on-bad-exit=1", "--export=ALL", *cores, *options.srun_args],
        # at most half of the limit, and SLURM is up to half a minute early: a job that is asked to
        # save as soon as it has started would be requeued for ever
        "signal_delay_s": min(options.signal_s, max(1, 30 * minutes - 30)),
        "array_parallelism": options.parallel or 256,
        "additional_parameters": _other_options(options.slurm),
    }
    return {key: value for key, value in wanted.items() if value is not None}


def _other_options(given: dict[str, str | bool]) -> dict[str, str | bool]:
    """Returns sbatch options under submitit's names, so that each is in the script once."""
    requeue = {} if "no-requeue" in given else {"requeue": True}
    named = {
        name.replace("-", "_") if name in OWN_OPTIONS else name: v for name, v in given.items()
    }
    return {**requeue, **named}


def _reason(text: str) -> str:
    """Returns sbatch's message without the traceback around it."""
    found = re.findall(r"(?:sbatch|srun): (?:error: )?(.*?)(?= sbatch:| srun:|$)", text)
    return "; ".join(dict.fromkeys(part.strip() for part in found if part.strip())) or text[-300:]


def _array_limit() -> int:
    """Returns MaxArraySize of the cluster less one; a thousand if it does not say."""
    command = ["scontrol", "show", "config"]
    try:
        done = run_slurm(command, timeout_s=20)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ARRAY_MAX
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", done.stdout)
    return max(1, int(found[1]) - 1) if found else ARRAY_MAX
