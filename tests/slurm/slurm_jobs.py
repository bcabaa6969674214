"""Runs the real experiment, slowed down so that a fault can hit it, and able to harm itself.

Its behaviour is read from `pace.json` in the folder of the runs, again at every step, so that a
test can let a run continue at full speed once the fault is over. `Pace` in tests/slurm/user.py
writes that file.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simvtp import experiment as real
from simvtp.config.experiment_config import Experiment
from simvtp.errors import TrainingDiverged
from sweeps.runner import point

_AT_STEP = re.compile(r"(\w+) (\d+)/\d+ ")  # what the experiment says after every logged step


def run(experiment: Experiment, *, say: Callable[[str], None] = print, **more: Any) -> Any:
    """`simvtp.experiment.run` with a pause after every line that it says."""
    root = Path(experiment.runtime.root)
    _shift_clock(json.loads((root / "pace.json").read_text())["clock_shift_s"])

    def slowly(text: str) -> None:
        say(text)
        pace = json.loads((root / "pace.json").read_text())
        point.REQUEUE_FOR_S = pace["requeue_for_s"]
        found = _AT_STEP.match(text)
        if found and found[1] == "pretrain":
            _harm(root, experiment.fingerprint[:12], int(found[2]), pace)
        time.sleep(pace["pause_s"])

    return real.run(experiment, say=slowly, **more)


def _harm(root: Path, name: str, step: int, pace: dict[str, Any]) -> None:
    """Each harm once in the life of a run, not once an attempt."""
    if pace["eat_mb"] and step == pace["harm_at"] and _first(root / f"{name}.ate"):
        meal = bytearray(pace["eat_mb"] << 20)
        meal[:: 1 << 12] = b"\1" * len(meal[:: 1 << 12])  # touched, or it would cost nothing
    if pace["diverges"] and step == pace["harm_at"]:
        raise TrainingDiverged(f"the loss became NaN at step {step}")
    if pace["signal_in_log"] and step == pace["harm_at"] and _first(root / f"{name}.signalled"):
        log = logging.getLogger("tests.slurm.slurm_jobs")
        log.addHandler(_Interrupted())
        log.warning("a line during which the signal comes")


def _shift_clock(seconds: float) -> None:
    """Gives this job another clock, as on a node that nobody keeps in time."""
    true, true_ns = time.time, time.time_ns
    time.time = lambda: true() + seconds
    time.time_ns = lambda: true_ns() + int(seconds * 1e9)


def _first(path: Path) -> bool:
    if path.exists():
        return False
    path.touch()
    return True


class _Interrupted(logging.StreamHandler):
    """Handler that sends the signal while a line is being logged.

    `logging` swallows an exception that a signal handler raises then.
    """

    def format(self, record: logging.LogRecord) -> str:
        os.kill(os.getpid(), signal.SIGUSR2)
        return super().format(record)
