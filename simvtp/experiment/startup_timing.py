"""Timestamps of a process on its way to the first training step, kept in status.json.

    "start": {"imported": {"time": ..., "cpu_s": ...}, "data": ..., "model": ..., "first_step": ...}

`time` is in seconds since 1970; `cpu_s` is the CPU time of this process on all its cores since it
began, threads included, children not. Only the first training stage of a process records them; a
continued run records them again. `python -m simvtp bench start` reads them.
"""

from __future__ import annotations

import time

from simvtp.runs.rundir import StatusWriter

IMPORTED, DATA, MODEL, FIRST_STEP = "imported", "data", "model", "first_step"
TIMESTAMPS = (IMPORTED, DATA, MODEL, FIRST_STEP)


def record_timestamp(status: StatusWriter, name: str) -> None:
    """Records that the process has reached `name`, once the timestamps before it are there."""
    known = status.status.start
    if len(known) == TIMESTAMPS.index(name):
        now = {"time": time.time(), "cpu_s": time.process_time()}
        status.update(start={**known, name: now})
