"""The callable that submitit runs inside a job, on every rank."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import submitit

from simvtp.errors import StopReason
from simvtp.runs.run_records import RunState, RunStatus
from sweeps.runner.job import job_id, run_job
from sweeps.runner.slurm_queue import run_slurm

REQUEUE_FOR_S = 100.0  # SLURM gives two minutes between its signal and the end
RETRY_S = 5.0  # between two attempts to requeue


class PointJob:
    """Runs one point. Pickled by its name only, and called with plain values.

    Therefore it can be started again with the same values.
    """

    def __call__(self, experiment: dict[str, Any], entry: str) -> dict[str, Any]:
        if int(os.environ.get("SLURM_NTASKS") or os.environ.get("SUBMITIT_LOCAL_NTASKS") or 1) > 1:
            # every rank still sees all GPUs of its job and takes the one of its local rank
            submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        status = run_job(experiment, entry)
        if os.environ.get("SUBMITIT_EXECUTOR") == "slurm" and wants_requeue(status):
            # The training read the signal, saved and left in order. What remains is to be started
            # again, and to leave without a result, which would mean that the job is over.
            if os.environ.get("SLURM_PROCID", "0") == "0":
                requeue()
            else:  # a rank that leaves early would make srun end the one that requeues
                time.sleep(REQUEUE_FOR_S + 20)
            sys.exit(-1)
        return status.to_dict()

    def checkpoint(
        self, experiment: dict[str, Any], entry: str
    ) -> submitit.helpers.DelayedSubmission:
        """Returns the same job; submitit calls this if the signal comes before our handlers."""
        return submitit.helpers.DelayedSubmission(self, experiment, entry)


def wants_requeue(status: RunStatus) -> bool:
    """Returns whether the run stopped for SLURM (time limit, preemption) and is to be requeued."""
    return status.state == RunState.STOPPED and status.reason == StopReason.REQUEUE


def requeue() -> bool:
    """Asks SLURM to requeue this very job, as long as there is time; False without an answer.

    Where SLURM requeues it already (a preemption), its refusal does not matter; where its
    controller is down, ours (which watches the queue) submits the point again.
    """
    deadline = time.monotonic() + REQUEUE_FOR_S
    while True:
        command = ["scontrol", "requeue", job_id()]
        done = run_slurm(command)
        if done.returncode == 0:
            print(f"saved; job {job_id()} is back in the queue", flush=True)
            return True
        print(f"{' '.join(command)}: {done.stderr.strip()}", flush=True)
        if time.monotonic() > deadline:
            print(
                "the job could not be requeued; its checkpoint is saved, and the sweep's command "
                "continues it",
                flush=True,
            )
            return False
        time.sleep(RETRY_S)
