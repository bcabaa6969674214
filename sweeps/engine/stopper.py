"""Stops the jobs of a sweep: when its budget is used up, or when the user interrupts it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from simvtp.runs.run_records import RunState
from sweeps.engine.sweep_state import SweepState
from sweeps.engine.sweep_view import SweepProgress
from sweeps.monitor.point_state import read_state, record_end

STOP_GRACE_S = 90.0  # time that a job has to save a checkpoint after Ctrl-C


@contextmanager
def count_interrupts(install: bool = True) -> Iterator[list[int]]:
    """Yields a list to which Ctrl-C and SIGTERM are appended.

    So no line of the controller is interrupted half-way. `install` False leaves the handlers alone.
    """
    found: list[int] = []
    if not install:
        yield found
        return
    before: dict[int, Any] = {
        number: signal.signal(number, lambda number, frame: found.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class JobStopper:
    """Asks jobs to save and leave."""

    def __init__(self, state: SweepState, progress: SweepProgress) -> None:
        self._state, self._progress = state, progress

    def enforce_budget(self) -> None:
        """Stops the running points once the budget is used up.

        They save a checkpoint, and a larger budget continues them.
        """
        call = self._state
        budget = call.budget
        budget.update(job.point.run_dir for job in call.jobs.values())
        if not budget.used_up or not call.jobs:
            return
        reason = f"stopped: the budget of {budget.limit:g} GPU-hours is used up"
        self._progress.note_once(
            f"{reason} ({budget.spent:.2f} spent); a larger --budget-gpu-hours continues"
        )
        for job in call.jobs.values():
            if not read_state(job.point.run_dir, alive=True).ended:
                record_end(job.point.run_dir, RunState.STOPPED, reason, "controller", job.record)
                call.executor.stop(job)

    def stop_local(self, interrupts: list[int]) -> None:
        """Asks local jobs to save and leave; kills them after a grace or a second interrupt."""
        call = self._state
        local = {key: job for key, job in call.jobs.items() if job.executor == "local"}
        others = len(call.jobs) - len(local)
        if others:
            self._progress.note(
                f"{others} job(s) of the cluster keep running; the same command watches them "
                "again, sweeps/cancel.py stops them"
            )
        if local:
            self._progress.note(
                f"stopping {len(local)} job(s): they save a checkpoint first "
                "(Ctrl-C again: kill them)"
            )
        for job in local.values():
            call.executor.stop(job)
        asked, deadline = len(interrupts), time.time() + STOP_GRACE_S
        while any(call.executor.alive(job) for job in local.values()):
            if len(interrupts) > asked or time.time() > deadline:
                for job in local.values():
                    call.executor.kill(job)
                asked, deadline = len(interrupts), float("inf")
            time.sleep(0.1)
        for fingerprint, job in local.items():
            del call.jobs[fingerprint]
            call.states[fingerprint] = read_state(job.point.run_dir, alive=False)
            call.close_trial(job.point)
            self._progress.update(job.point)
