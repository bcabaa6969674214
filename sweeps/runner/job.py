"""What happens inside a job: one experiment, given as plain JSON values, run by a function that is
named by its path.

Nothing of the controller is pickled into the job, so a job that starts an hour after its submission
does not depend on the controller's memory. Whatever ends the job, its status.json says so, except
where the process is killed outright."""

from __future__ import annotations

import contextlib
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

from simvtp.config.schema import Experiment, from_dict
from simvtp.errors import RankLost, Stopped, StopReason, UserError
from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.lease import Fenced, Lease, hold
from sweeps.monitor.run_state import (
    FAILED,
    FINISHED,
    RANK_FAILURE,
    RUNNING,
    STOPPED,
    read_state,
    writer_alive,
)

ENTRY = "simvtp.experiment:run"
ASKING = (
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)  # end (a user, a preemption); save and come back (SLURM's warning)


class _Asked(BaseException):
    """The job was asked to stop while the experiment was not in a loop that reads a stop flag."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.reason = StopReason.of_signal(number)


def run_job(experiment: Mapping[str, Any], entry: str = ENTRY) -> dict[str, Any]:
    """Run one experiment (`simvtp.config.schema.to_dict`) by `entry` (`module:function`) and return
    its last status.

    A UserError ends the job quietly with state `failed`: its sentence is the whole message. Any
    other error is raised again after the status was written, so that the log holds the traceback.
    Of several ranks only the first owns the run directory; another one that fails leaves a note
    beside."""
    resolved: Experiment = from_dict(experiment)
    run_dir, rank = resolved.run_dir, _rank()
    close = _Close(run_dir, rank)
    with _asking():
        try:
            # Two jobs for one experiment are rare (a controller that was killed between submitting
            # and writing the job down): the second waits and finds the work done.
            with hold(run_dir, owns=rank == 0, wait=True, say=_say) as lease:
                close.lease = lease
                _load(entry)(resolved, say=_say)
        except Fenced as fenced:  # the status is the other attempt's now
            _say(str(fenced))
            return {"state": STOPPED, "message": str(fenced), "reason": fenced.reason}
        except Stopped as stopped:  # its own status is written; the next submission continues
            close(STOPPED, str(stopped), stopped.reason)
        except RankLost as lost:  # ends like one that was killed: the controller finds out by what, and continues the point
            _say(str(lost))
            raise
        except UserError as error:
            close(FAILED, str(error))
            if rank:
                raise  # the rank must end with an error, so that the others do not wait for it
        except _Asked as asked:
            close(STOPPED, f"stopped on request ({asked})", asked.reason)
        except MemoryError:
            close(
                FAILED,
                "out of memory: ask for more (--mem), or lower batch_size or runtime.micro_batch",
            )
            raise
        except Exception as error:
            close(FAILED, f"{type(error).__name__}: {error}")
            raise
    return dict(read_state(run_dir, alive=False).status)


class _Close:
    """Says how a job ended, unless the experiment has said so itself (its own words are better)."""

    def __init__(self, run_dir: Path, rank: int) -> None:
        self._run_dir, self._rank = run_dir, rank
        self.lease: Lease | None = None

    def __call__(self, state: str, message: str, reason: StopReason | None = None) -> None:
        _say(message if state == STOPPED else f"failed: {message}")
        if self._rank:
            if state == FAILED:
                note = {"rank": self._rank, "message": message, "at": time.time()}
                write_atomically(self._run_dir / RANK_FAILURE, json.dumps(note))
            return
        if self.lease is None:
            return  # it never owned the directory
        with contextlib.suppress(UserError):  # the disk is full: that is what the log says anyway
            self._write(state, message, reason)

    def _write(self, state: str, message: str, reason: StopReason | None) -> None:
        now = read_state(self._run_dir, alive=False)
        ours = now.status.get("pid") == os.getpid()
        if now.state == FINISHED or (now.state in (FAILED, STOPPED) and ours):
            return
        if now.status.get("state") == RUNNING and not ours and writer_alive(now.status):
            return  # an experiment that somebody started by hand: its status is its own
        status = {
            "stage": "",
            "step": 0,
            "total_steps": 0,
            "cpu_hours": 0.0,
            "gpu_hours": 0.0,
            **now.status,
        }
        status |= {
            "state": state,
            "message": message,
            "reason": reason,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "updated": time.time(),
        }
        write_atomically(self._run_dir / "status.json", json.dumps(status))


def _rank() -> int:
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def _load(entry: str) -> Callable[..., Any]:
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)


def _say(text: str) -> None:
    print(text, flush=True)


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    """Raise _Asked at a signal that asks the job to stop. The experiment replaces these handlers by
    its own, which only set a flag, as soon as it has something to save. Outside the main thread
    signals are none of our business."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        raise _Asked(number)

    before = {number: signal.signal(number, handle) for number in ASKING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
