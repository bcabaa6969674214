"""Jobs of a SLURM cluster: the missing points go in as arrays.

Each submission is written down twice: before it with its name and its points, after it with the ids
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
from simvtp.config.schema import to_dict
from simvtp.errors import UserError
from simvtp.runs.atomic_files import read_json, write_atomically
from sweeps.runner.code_snapshot import Frozen
from sweeps.runner.executor import Job, NotNow, Options, Recorded
from sweeps.runner.point import PointJob
from sweeps.runner.slurm_queue import cancel, shared_queue

DEFAULT_MIN = 24 * 60  # minutes
ARRAY_MAX = 1000  # SLURM's own default of MaxArraySize is 1001
_SILENT = re.compile(
    r"Unable to contact slurm controller|[Tt]imed out|Slurm temporarily unable|Connection refused|Zero Bytes were transmitted|"
    r"Unexpected message received|communication connection failure|Resource temporarily unavailable"
)
_FULL = re.compile(
    r"violates accounting/QOS policy|MaxSubmit|MaxJobs"
)  # SLURM says the same for "too many" and for "never"


class SlurmJobs(Recorded):
    """Arrays of at most `ARRAY_MAX` points, of which at most `parallel` run at once."""

    in_process = False

    def __init__(
        self, options: Options, sweep_dir: Path, name: str, code: Frozen | None = None
    ) -> None:
        self.slots = sys.maxsize
        self._options, self._name, self._code = options, name, code
        self._jobs, self._submissions = (
            sweep_dir / "jobs" / "slurm" / "%j",
            sweep_dir / "submissions",
        )
        self._largest = min(ARRAY_MAX, _array_limit())

    def submit(self, points: Sequence[Point]) -> list[Job]:
        """Hand in as many of the points as SLURM takes; the rest is asked for again by the caller.
        Raises NotNow if it takes none.
        """
        points = points[: self._largest]
        token = secrets.token_hex(4)
        name = f"{self._name}.{token}"
        record = self._submissions / f"{token}.json"
        submission = {
            "token": token,
            "name": name,
            "submitted": time.time(),
            "fingerprints": [p.fingerprint for p in points],
            "job_ids": None,
        }
        write_atomically(record, json.dumps(submission))
        executor = self._executor(name)
        try:
            with executor.batch():
                handles = [
                    executor.submit(PointJob(), to_dict(point.experiment), self._options.entry)
                    for point in points
                ]
        except (
            submitit.core.utils.FailedJobError,
            submitit.core.utils.FailedSubmissionError,
        ) as error:
            self._refused(" ".join(str(error).split()), record)
        write_atomically(
            record, json.dumps({**submission, "job_ids": [handle.job_id for handle in handles]})
        )
        shared_queue().forget()
        return [
            self._job(point, handle.job_id, name, submission["submitted"])
            for point, handle in zip(points, handles, strict=True)
        ]

    def _refused(self, said: str, record: Path) -> NoReturn:
        if _SILENT.search(
            said
        ):  # it may have taken the jobs and the answer was lost: the record stays, `recover` looks for its name
            raise NotNow(_reason(said))
        record.unlink(missing_ok=True)
        if _FULL.search(said) and shared_queue().jobs():
            self._largest = max(1, self._largest // 2)
            raise NotNow(_reason(said))
        raise UserError(f"SLURM refused the jobs: {_reason(said)}") from None

    def recover(self, points: Sequence[Point]) -> list[Job]:
        """Jobs that SLURM holds and no job.json knows. Raises NotNow if that cannot be seen,
        because SLURM does not answer.
        """
        open_records = {
            path: values
            for path in sorted(self._submissions.glob("*.json"))
            if not (values := read_json(path))["job_ids"]
        }
        if not open_records:
            return []
        shared_queue().forget()
        queued = shared_queue().jobs()
        if queued is None:
            raise NotNow(
                "SLURM does not answer, and a submission was interrupted: waiting until it can be looked for"
            )
        known = {point.fingerprint: point for point in points}
        found = []
        for path, values in open_records.items():
            ids = [job_id for job_id, job in queued.items() if job.name == values["name"]]
            for job_id in ids:
                fingerprint = values["fingerprints"][int(job_id.partition("_")[2] or 0)]
                if fingerprint in known and self._has_pickle(job_id):
                    found.append(
                        self._job(known[fingerprint], job_id, values["name"], values["submitted"])
                    )
            write_atomically(path, json.dumps({**values, "job_ids": ids or ["none"]}))
        return found

    def _has_pickle(self, job_id: str) -> bool:
        """Without it (the controller was killed before it had moved the files) the job ends by
        itself after a minute.
        """
        return Path(self._handle(job_id).paths.submitted_pickle).exists()

    def _handle(self, job_id: str) -> submitit.SlurmJob[Any]:
        return submitit.SlurmJob(folder=self._jobs, job_id=job_id, tasks=[0])

    def _job(self, point: Point, job_id: str, name: str, submitted: float) -> Job:
        paths, options = self._handle(job_id).paths, self._options
        record = {
            "executor": "slurm",
            "job_id": job_id,
            "name": name,
            "submitted": submitted,
            "stdout": str(paths.stdout),
            "stderr": str(paths.stderr),
            "gpus": (options.gpus or 0) * options.nodes,
            "nodes": options.nodes,
            "code": str(self._code.path) if self._code else "",
        }
        return Job(point, record)

    def _executor(self, name: str) -> submitit.SlurmExecutor:
        executor = submitit.SlurmExecutor(folder=self._jobs, max_num_timeout=1000)
        executor.update_parameters(**slurm_parameters(self._options, name, self._code))
        return executor

    def stop(self, job: Job) -> None:
        """Cancel the job: SLURM signals it, it saves and leaves."""
        if job.record.get("executor") == "slurm":
            cancel([job.id])
            shared_queue().forget()

    def kill(self, job: Job) -> None:
        """As `stop`: SLURM kills what does not go."""
        self.stop(job)

    def preview(self, points: int) -> str:
        """The submission script of the next array."""
        executor = self._executor(f"{self._name}.TOKEN")
        executor.parameters |= {"map_count": min(points, self._largest)} if points > 1 else {}
        return executor._make_submission_file_text(executor._submitit_command_str, "TOKEN")


def slurm_parameters(options: Options, name: str, code: Frozen | None = None) -> dict[str, Any]:
    """The options in submitit's words. One task per GPU; a signal before the limit, so that a
    checkpoint can be written.
    """
    variables = [
        f"export {key}={shlex.quote(value)}"
        for key, value in (code.environment() if code else {}).items()
    ]
    minutes = options.minutes or DEFAULT_MIN
    wanted = {
        "job_name": name,
        "time": minutes,
        "nodes": options.nodes,
        "ntasks_per_node": options.ranks_per_node,
        "gpus_per_node": options.gpus,
        "cpus_per_task": options.cpus or None,
        "mem": f"{options.mem_gb:g}G" if options.mem_gb else None,
        "partition": options.partition or None,
        "account": options.account or None,
        "qos": options.qos or None,
        "constraint": options.constraint or None,
        "setup": [*variables, *options.setup] or None,
        "srun_args": [
            "--kill-on-bad-exit=1",
            *options.srun_args,
        ],  # else one dead rank leaves the others waiting for it
        # at most half of the limit, and SLURM is up to half a minute early: a job that is asked to
        # save as soon as it has started would come back for ever
        "signal_delay_s": min(options.signal_s, max(1, 30 * minutes - 30)),
        "array_parallelism": options.parallel or 256,
        "additional_parameters": {"requeue": True, **options.slurm},
    }
    return {key: value for key, value in wanted.items() if value is not None}


def _reason(text: str) -> str:
    """What sbatch said, without the traceback around it."""
    found = re.findall(r"(?:sbatch|srun): (?:error: )?(.*?)(?= sbatch:| srun:|$)", text)
    return "; ".join(dict.fromkeys(part.strip() for part in found if part.strip())) or text[-300:]


def _array_limit() -> int:
    """MaxArraySize of the cluster less one; a thousand where it does not say."""
    try:
        done = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, check=False, timeout=20
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ARRAY_MAX
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", done.stdout)
    return max(1, int(found[1]) - 1) if found else ARRAY_MAX
