"""Runs one experiment inside a job: given as plain JSON values, by a function named by its path.

Nothing of the controller is pickled into the job, so a job that starts an hour after its submission
does not depend on the controller's memory. Whatever ends the job, its status.json says so, except
where the process is killed outright."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from simvtp.config.experiment_config import Experiment, from_dict
from simvtp.errors import RankLost, Stopped, StopReason, UserError
from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.lease import Fenced, Lease, hold
from simvtp.runs.process_identity import process_start
from simvtp.runs.run_records import STATUS_FILE, RunState, RunStatus
from sweeps.monitor.point_state import RANK_FAILURE, read_state, writer_alive

ENTRY = "simvtp.experiment:run"
# end (a user, a preemption), or save and come back (SLURM's warning)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
OUT_OF_MEMORY = "out of memory: request more (--mem), or lower batch_size or runtime.micro_batch"


class _StopRequest(BaseException):
    """The job was asked to stop while the experiment was not in a loop that reads a stop flag."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.reason = StopReason.of_signal(number)


def run_job(experiment: Mapping[str, Any], entry: str = ENTRY) -> RunStatus:
    """Runs one experiment and returns its last status.

    Of several ranks only the first owns the run directory; another one that fails leaves a note in
    it.

    Args:
        experiment: its settings (`simvtp.config.tree.to_dict`).
        entry: the function that runs it, `module:function`.

    Raises:
        RankLost: another rank ended; the controller finds out why and continues the point.
        UserError: on ranks other than 0, so that the others do not wait for this one. On rank 0 it
            ends the job quietly with state `failed`, and its sentence is the whole message.
        Exception: any other error, after the status was written, so that the log has the traceback.
    """
    resolved: Experiment = from_dict(experiment)
    run_dir, rank = resolved.run_dir, _rank()
    report = _EndReport(run_dir, rank)
    with _raise_on_stop_signals():
        try:
            # Two jobs for one experiment are rare (a controller that was killed between submitting
            # and writing job.json): the second waits and finds the work done.
            with hold(run_dir, owns=rank == 0, wait=True, say=_log) as lease:
                report.lease = lease
                _load(entry)(resolved, say=_log)
        except Fenced as fenced:  # the status belongs to the other attempt now
            _log(str(fenced))
            return RunStatus(RunState.STOPPED, message=str(fenced), reason=StopReason.TAKEN_OVER)
        except Stopped as stopped:  # its own status is written; the next submission continues
            report.write(RunState.STOPPED, str(stopped), stopped.reason)
        except RankLost as lost:  # ends like one that was killed
            _log(str(lost))
            raise
        except UserError as error:
            report.write(RunState.FAILED, str(error))
            if rank:
                raise
        except _StopRequest as request:
            report.write(RunState.STOPPED, f"stopped on request ({request})", request.reason)
        except MemoryError:
            report.write(RunState.FAILED, OUT_OF_MEMORY)
            raise
        except Exception as error:
            report.write(RunState.FAILED, f"{type(error).__name__}: {error}")
            raise
    return read_state(run_dir, alive=False).status or RunStatus(RunState.KILLED)


class _EndReport:
    """Writes how a job ended, unless the experiment has written that itself (it knows more)."""

    def __init__(self, run_dir: Path, rank: int) -> None:
        self._run_dir, self._rank = run_dir, rank
        self.lease: Lease | None = None

    def write(self, state: RunState, message: str, reason: StopReason | None = None) -> None:
        _log(message if state == RunState.STOPPED else f"{RunState.FAILED}: {message}")
        if self._rank:
            if state == RunState.FAILED:
                note = {"rank": self._rank, "message": message, "at": time.time()}
                note["job_id"] = job_id()
                write_atomically(self._run_dir / RANK_FAILURE, json.dumps(note))
            return
        if self.lease is None:
            return  # it never owned the directory
        with contextlib.suppress(UserError):  # the disk is full: the log says so anyway
            self._write_status(state, message, reason)

    def _write_status(self, state: RunState, message: str, reason: StopReason | None) -> None:
        now = read_state(self._run_dir, alive=False)
        status = now.status or RunStatus()
        ours = status.pid == os.getpid()
        if now.state == RunState.FINISHED:
            return
        if now.state in (RunState.FAILED, RunState.STOPPED) and ours:
            return
        if now.status and status.state == RunState.RUNNING and not ours and writer_alive(status):
            return  # an experiment that somebody started by hand: its status is its own
        end = dataclasses.replace(
            status,
            state=state,
            message=message,
            reason=reason,
            pid=os.getpid(),
            pid_started=process_start(os.getpid()),
            host=socket.gethostname(),
            updated=time.time(),
            attempt=self.lease.token if self.lease else 0,
        )
        assert self.lease is not None  # it owned the directory
        content = json.dumps(end.to_dict())
        write_atomically(self._run_dir / STATUS_FILE, content, self.lease.check_newest)


def _rank() -> int:
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def job_id() -> str:
    """Returns the id of this job as job.json records it; "" outside of a job."""
    names = os.environ
    if "SLURM_ARRAY_JOB_ID" in names:
        return f"{names['SLURM_ARRAY_JOB_ID']}_{names['SLURM_ARRAY_TASK_ID']}"
    return names.get("SLURM_JOB_ID") or names.get("SUBMITIT_LOCAL_JOB_ID", "")


def _load(entry: str) -> Callable[..., Any]:
    module, _, name = entry.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _log(text: str) -> None:
    print(text, flush=True)


@contextlib.contextmanager
def _raise_on_stop_signals() -> Iterator[None]:
    """Raises _StopRequest at a signal that asks the job to stop.

    The experiment replaces these handlers by its own, which only set a flag, as soon as it has
    something to save. Threads other than the main one cannot handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        raise _StopRequest(number)

    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
