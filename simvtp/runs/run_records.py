"""Typed records of a run directory: status.json and job.json.

Files keep their flat JSON format, with a `version`; records of older versions are read with the
defaults of what they lack, and keys that this version does not know are kept in `extra`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from simvtp.errors import DamagedFile, StopReason
from simvtp.runs.atomic_files import read_json, read_json_or_none

STATUS_VERSION = 1
JOB_VERSION = 1
STATUS_FILE = "status.json"
JOB_FILE = "job.json"
STATUS_ADVICE = "run `python sweeps/doctor.py`, or delete it and run the same command again."


class RunState(StrEnum):
    """State of a run or of a point of a sweep."""

    MISSING = "missing"  # never started
    QUEUED = "queued"  # planned or submitted, as the tracker shows it
    STARTING = "starting"  # submitted, nothing written yet
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"  # asked to stop; continues from its last checkpoint
    FAILED = "failed"  # gave up with a reason
    KILLED = "killed"  # ended without writing how
    CANCELLED = "cancelled"  # by the user
    PRUNED = "pruned"  # by a search


@dataclass(frozen=True)
class RunStatus:
    """Content of status.json: what the run is doing, or how it ended.

    Attributes:
        state: its state; written are `running`, `finished`, `stopped` and `failed`.
        stage: name of the present stage; empty before the first.
        step: steps done in this stage.
        total_steps: steps of this stage; 0 outside training.
        message: sentence for people.
        reason: why it stopped; None unless the state is `stopped`.
        pid: process that wrote the status.
        pid_started: start time of that process (see `simvtp.runs.lease.process_start`).
        host: machine of that process.
        attempt: number of the attempt that wrote it (see `simvtp.runs.attempts`); 0 if unknown.
        updated: time of writing, seconds since 1970 on that machine's clock.
        cpu_hours: CPU-hours over all stages and attempts.
        gpu_hours: GPU-hours over all stages and attempts.
        parameters: parameters of the pre-training model; None if not known.
        forward_flops: operations of its forward pass per sample; None if not known.
        start: timestamps of the start-up (see `simvtp.experiment.startup_timing`).
        extra: keys that this version does not know.
    """

    state: RunState = RunState.RUNNING
    stage: str = ""
    step: int = 0
    total_steps: int = 0
    message: str = ""
    reason: StopReason | None = None
    pid: int = 0
    pid_started: float = 0.0
    host: str = ""
    attempt: int = 0
    updated: float = 0.0
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    parameters: int | None = None
    forward_flops: int | None = None
    start: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON values of status.json; optional ones only where they are known."""
        values = _flat_values(self)
        for name in ("reason", "parameters", "forward_flops", "start"):
            if not values[name]:
                del values[name]
        return {"version": STATUS_VERSION, **values}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> RunStatus:
        """Returns the record; raises KeyError, TypeError or ValueError if it is none."""
        known = _known_values(RunStatus, values)
        known["state"] = RunState(values["state"])
        if known.get("reason") is not None:
            known["reason"] = StopReason(known["reason"])
        return RunStatus(**known)


@dataclass(frozen=True)
class JobEnd:
    """End of a job, as found out from outside.

    Attributes:
        cause: `cancelled`, `pruned`, `stopped`, or SLURM's cause such as `out_of_memory`.
        message: sentence for people; may be empty.
        by: who found out: `controller`, or the script that ended it.
        at: time of writing, seconds since 1970.
        attempt: number of the newest attempt at that time; -1 in older records. A later attempt
            has a higher number, whatever the clocks of the machines say.
    """

    cause: str
    message: str = ""
    by: str = ""
    at: float = 0.0
    attempt: int = -1

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class JobRecord:
    """Content of job.json: one submitted attempt at a run.

    Attributes:
        executor: `local`, `slurm`, `debug`, or `by hand` for a process without a sweep.
        job_id: the executor's name of the job.
        submitted: time of submission, seconds since 1970 on the submitting machine's clock.
        host: machine of a local job.
        pid: process of a local job.
        pid_started: start time of that process (see `simvtp.runs.lease.process_start`).
        name: name of the submission (SLURM).
        stdout: log of the job's output.
        stderr: log of its errors.
        launch: log of what its setup printed.
        gpus: GPUs per job, on all nodes.
        nodes: nodes per job.
        code: folder of the frozen code that the job runs.
        after_attempt: number of the newest attempt at submission; -1 in older records.
        ended: how it ended; None while nobody knows.
        extra: keys that this version does not know.
    """

    executor: str
    job_id: str
    submitted: float = 0.0
    host: str = ""
    pid: int = 0
    pid_started: float = 0.0
    name: str = ""
    stdout: str = ""
    stderr: str = ""
    launch: str = ""
    gpus: int = 0
    nodes: int = 1
    code: str = ""
    after_attempt: int = -1
    ended: JobEnd | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON values of job.json."""
        values = _flat_values(self)
        values["ended"] = self.ended.to_dict() if self.ended else None
        return {"version": JOB_VERSION, **{k: v for k, v in values.items() if v is not None}}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> JobRecord:
        """Returns the record; raises KeyError, TypeError or ValueError if it is none."""
        known = _known_values(JobRecord, values)
        ended = values.get("ended")
        known["executor"], known["job_id"] = values.get("executor", ""), str(values["job_id"])
        known["ended"] = JobEnd(**_known_values(JobEnd, ended)) if ended else None
        return JobRecord(**known)


def read_status(run_dir: Path) -> RunStatus | None:
    """Returns the status of a run; None if it was never started. Raises DamagedFile."""
    path = run_dir / STATUS_FILE
    if not path.exists():
        return None
    try:
        return RunStatus.from_dict(read_json(path, dict, STATUS_ADVICE))
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile(path, f"no status of a run: {error!r}", STATUS_ADVICE) from error


def read_status_or_none(run_dir: Path) -> RunStatus | None:
    """Returns the status of a run; None if it is missing or damaged."""
    try:
        return read_status(run_dir)
    except (OSError, DamagedFile):
        return None


def read_job_end(run_dir: Path) -> JobEnd | None:
    """Returns how the newest job of a run ended, from job.json; None if nobody has written it."""
    ended = (read_json_or_none(run_dir / JOB_FILE, dict) or {}).get("ended")
    try:
        return JobEnd(**_known_values(JobEnd, ended)) if ended else None
    except (KeyError, TypeError, ValueError):
        return None


def _flat_values(record: Any) -> dict[str, Any]:
    values = {item.name: getattr(record, item.name) for item in dataclasses.fields(record)}
    return {**values.pop("extra"), **values}


def _known_values(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a record: its fields by name, all other keys in `extra`."""
    names = {item.name for item in dataclasses.fields(kind)}
    known = {key: value for key, value in values.items() if key in names and key != "extra"}
    if "extra" in names:
        others = names | {"version"}
        known["extra"] = {key: value for key, value in values.items() if key not in others}
    return known
