"""Runs jobs in this very process."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Sequence

from ablations.design import Point
from simvtp.config.tree import to_dict
from simvtp.runs.attempts import newest_token
from simvtp.runs.run_records import JobRecord
from sweeps.runner.executor import Job, JobOptions, RecordedJobs, signal_process
from sweeps.runner.job import run_job
from sweeps.runner.slurm_queue import SlurmQueue


class InProcessJobs(RecordedJobs):
    """Runs one point after the other in this process, with the code of the working tree.

    A debugger's breakpoints work, and Ctrl-C stops at the current line.
    """

    slots = 1
    in_process = True

    def __init__(self, options: JobOptions, queue: SlurmQueue) -> None:
        super().__init__(queue)
        self._options = options

    def submit(self, points: Sequence[Point]) -> list[Job]:
        jobs = []
        for point in points:
            record = JobRecord(
                "debug",
                job_id=f"debug-{os.getpid()}",
                submitted=time.time(),
                after_attempt=newest_token(point.run_dir),
            )
            job = Job(point, record)
            job.write()
            try:
                run_job(to_dict(point.experiment), self._options.entry)
            except Exception:  # the point has failed (its status says so); the others go on
                traceback.print_exc()
            jobs.append(job)
        return jobs

    def stop(self, job: Job) -> None:
        signal_process(job.record, signal.SIGTERM)

    def kill(self, job: Job) -> None:
        return None

    def preview(self, points: int) -> str:
        return f"each point in this process: {self._options.entry}"
