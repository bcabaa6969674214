"""Jobs in this very process."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Sequence

from ablations.design import Point
from simvtp.config.schema import to_dict
from sweeps.runner.executor import Job, Options, Recorded, send
from sweeps.runner.job import run_job


class InProcess(Recorded):
    """One point after the other: a debugger's breakpoints work, Ctrl-C stops where it stands. The
    code is that of the working tree.
    """

    slots = 1
    in_process = True

    def __init__(self, options: Options) -> None:
        self._options = options

    def submit(self, points: Sequence[Point]) -> list[Job]:
        jobs = []
        for point in points:
            job = Job(
                point,
                {"executor": "debug", "job_id": f"debug-{os.getpid()}", "submitted": time.time()},
            )
            job.write()
            try:
                run_job(to_dict(point.experiment), self._options.entry)
            except Exception:  # the point has failed (its status says so); the others go on
                traceback.print_exc()
            jobs.append(job)
        return jobs

    def stop(self, job: Job) -> None:
        send(job.record, signal.SIGTERM)

    def kill(self, job: Job) -> None:
        return None

    def preview(self, points: int) -> str:
        return f"each point in this process: {self._options.entry}"
