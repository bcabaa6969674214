"""What runs inside a job, on every rank."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import submitit

from simvtp.errors import StopReason
from sweeps.monitor.run_state import STOPPED
from sweeps.runner.job import run_job

REQUEUE_FOR_S = 100.0  # SLURM gives two minutes between its signal and the end


class PointJob:
    """Pickled into a job by its name only. Called with plain values, so that it can be started
    again with the same ones.
    """

    def __call__(self, experiment: dict[str, Any], entry: str) -> dict[str, Any]:
        if int(os.environ.get("SLURM_NTASKS") or os.environ.get("SUBMITIT_LOCAL_NTASKS") or 1) > 1:
            # every rank goes on to see all GPUs of its job and takes the one of its local rank
            submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        status = run_job(experiment, entry)
        if os.environ.get("SUBMITIT_EXECUTOR") == "slurm" and asked_by_slurm(status):
            # The training read the signal, saved and left in good order. What remains: to be
            # started again, and to leave without a result, which would say that the job is over.
            if os.environ.get("SLURM_PROCID", "0") == "0":
                requeue()
            else:
                time.sleep(
                    REQUEUE_FOR_S + 20
                )  # a rank that leaves early would make srun end the one that requeues
            sys.exit(-1)
        return status

    def checkpoint(
        self, experiment: dict[str, Any], entry: str
    ) -> submitit.helpers.DelayedSubmission:
        """Called by submitit's own handler if the signal comes before ours are in place."""
        return submitit.helpers.DelayedSubmission(self, experiment, entry)


def asked_by_slurm(status: dict[str, Any]) -> bool:
    """Whether the run stopped because its time is nearly up or it is to make room: it wants to be
    started again.
    """
    return status.get("state") == STOPPED and status.get("reason") == StopReason.REQUEUE


def requeue() -> bool:
    """Ask SLURM to put this very job back into the queue, for as long as there is time; False if it
    never answered.

    Where SLURM is putting it back already (a preemption), its refusal does not matter; where its
    controller is down, ours (which watches the queue) submits the point again."""
    job_id = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job_id = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    deadline = time.monotonic() + REQUEUE_FOR_S
    while True:
        done = subprocess.run(
            ["scontrol", "requeue", job_id], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            print(f"saved; job {job_id} is back in the queue", flush=True)
            return True
        print(f"scontrol requeue {job_id}: {done.stderr.strip()}", flush=True)
        if time.monotonic() > deadline:
            print(
                "the job could not be put back into the queue; its checkpoint is saved, the sweep's command continues it",
                flush=True,
            )
            return False
        time.sleep(5)
