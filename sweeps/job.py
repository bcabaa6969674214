"""What happens inside a job: one experiment, given as plain JSON values, run by a function that is named by its path.

Nothing of the controller is pickled into the job, so a job that starts an hour after its submission does not depend on the
controller's memory. Whatever ends the job, its status.json says so, except where the process is killed outright.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

from simvtp.config import Experiment, from_dict
from simvtp.errors import Stopped, UserError
from simvtp.journal import write_atomically
from sweeps.rundir import FAILED, FINISHED, RUNNING, STOPPED, read_state, writer_alive

ENTRY = "simvtp.experiment:run"


class _Asked(BaseException):
    """The job was asked to stop while the experiment was not in a loop that reads a stop flag."""


def run_job(experiment: Mapping[str, Any], entry: str = ENTRY) -> dict[str, Any]:
    """Run one experiment (`simvtp.config.to_dict`) by `entry` (`module:function`) and return its last status.

    A UserError ends the job quietly with state `failed`: its sentence is the whole message. Any other error is raised again
    after the status was written, so that the log holds the traceback.
    """
    resolved: Experiment = from_dict(experiment)
    run_dir = resolved.run_dir
    before = _on_terminate(_raise_asked)
    try:
        with _only_writer(run_dir):
            _load(entry)(resolved, say=_say)
    except Stopped as stopped:  # its own status is written; the next submission continues
        _say(str(stopped))
        _close_status(run_dir, STOPPED, str(stopped))
    except UserError as error:
        _say(f"failed: {error}")
        _close_status(run_dir, FAILED, str(error))
    except _Asked:
        _say("stopped on request")
        _close_status(run_dir, STOPPED, "stopped on request")
    except Exception as error:
        _close_status(run_dir, FAILED, f"{type(error).__name__}: {error}")
        raise
    finally:
        _on_terminate(before)
    return dict(read_state(run_dir, alive=False).status)


@contextmanager
def _only_writer(run_dir: Path) -> Iterator[None]:
    """Wait until no other job works in this run directory, then keep others out.

    Two jobs for one experiment are rare (a controller that was killed between submitting and writing the job down), and then the
    second waits and finds the work done. The lock is a POSIX record lock: it goes with its process, however that ends, and is not
    inherited by loader workers. Of several ranks only the first takes it.
    """
    if int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0):
        yield
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / ".job.lock", "w") as file:
        waited = False
        while not _try_lock(file):
            if not waited:
                _say(f"another job works in {run_dir}: waiting for it")
            waited = True
            time.sleep(1)
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def _load(entry: str) -> Callable[..., Any]:
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)


def _say(text: str) -> None:
    print(text, flush=True)


def _raise_asked(number: int, frame: FrameType | None) -> None:
    raise _Asked


def _on_terminate(handler: Any) -> Any:
    """Set the handler of SIGTERM and return the one from before. Outside the main thread signals are none of our business."""
    try:
        return signal.signal(signal.SIGTERM, handler)
    except ValueError:
        return None


def _close_status(run_dir: Path, state: str, message: str) -> None:
    """Say how it ended, unless the experiment has said so itself (its own words are better)."""
    now = read_state(run_dir, alive=False)
    ours = now.status.get("pid") == os.getpid()
    if now.state == FINISHED or (now.state in (FAILED, STOPPED) and ours):
        return
    if now.status.get("state") == RUNNING and not ours and writer_alive(now.status):
        return  # an experiment that somebody started by hand: its status is its own
    status = {"stage": "", "step": 0, "total_steps": 0, "cpu_hours": 0.0, "gpu_hours": 0.0, **now.status}
    status |= {"state": state, "message": message, "pid": os.getpid(), "host": socket.gethostname(), "updated": time.time()}
    write_atomically(run_dir / "status.json", json.dumps(status))
