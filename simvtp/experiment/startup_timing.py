"""How far a process has come on its way to the first training step, told in the run's status.json:
`python -m simvtp bench start` reads it.

    "start": {"imported": {"time": ..., "cpu_s": ...}, "data": ..., "model": ..., "first_step": ...}

`time` is in seconds since 1970, `cpu_s` what this process has used on all its cores since it began,
its threads included and its children not. Only the first training stage of a process tells it; a
run that is continued tells it anew.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator

from simvtp.batch import Batch
from simvtp.runs.rundir import StatusWriter
from simvtp.training.stage import Batches

IMPORTED, DATA, MODEL, FIRST_STEP = "imported", "data", "model", "first_step"
MARKS = (IMPORTED, DATA, MODEL, FIRST_STEP)


def mark(status: StatusWriter, name: str) -> None:
    """Note that the process has come to `name`, once the marks before it are there."""
    known = status.status.start
    if len(known) == MARKS.index(name):
        status.update(start={**known, name: {"time": time.time(), "cpu_s": time.process_time()}})


def marking(batches: Batches, status: StatusWriter) -> Batches:
    """The same batches; the first one that is there marks the first step."""

    def marked(done: int) -> Generator[Batch, None, None]:
        with contextlib.closing(batches(done)) as source:  # type: ignore[type-var]
            for number, batch in enumerate(source):
                if not number:
                    mark(status, FIRST_STEP)
                yield batch

    return marked
