"""The loop of a sweep: reads the run directories, starts what is missing, watches, reports.

One controller per sweep (see the lock), any number of calls one after the other. All state is in
files, so this process may be killed at any line: the next call finds the jobs that are still
running and adopts them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path

from simvtp.runs.atomic_files import read_json
from sweeps.engine.budget import Budget
from sweeps.engine.reconciler import Reconciler
from sweeps.engine.retry_policy import RetryPolicy
from sweeps.engine.stopper import JobStopper, count_interrupts
from sweeps.engine.submitter import Submitter, write_plan
from sweeps.engine.sweep_outcome import SweepSummary
from sweeps.engine.sweep_state import SweepState
from sweeps.engine.sweep_view import SweepProgress
from sweeps.engine.watcher import Watcher
from sweeps.monitor.controller_lock import only_controller
from sweeps.monitor.displays import make_display
from sweeps.runner import JobOptions, make_executor
from sweeps.runner.code_snapshot import take_snapshot
from sweeps.runner.slurm_queue import SlurmQueue
from sweeps.study import Definition, comparison_of, sweep_folder
from sweeps.study.comparison import PLAN, SweepComparison


def _nothing() -> None:
    return None


def run_sweep(
    definition: Definition,
    options: JobOptions,
    *,
    retry: bool = False,
    selected: Collection[str] | None = None,
    budget_gpu_hours: float | None = None,
    detach: bool = False,
    parent_run_id: str = "",
    on_point: Callable[[], None] = _nothing,
    every_s: float = 12.0,
    poll_s: float = 0.5,
    queue: SlurmQueue | None = None,
) -> SweepSummary:
    """Runs a sweep: a grid until every selected point has finished, a search until it is complete.

    Args:
        definition: the grid, with or without a stopping rule, or the search.
        options: how its jobs are run.
        retry: also run points again that failed or were cancelled earlier. (Stopped and killed ones
            always continue.)
        selected: fingerprints to run; None = all.
        budget_gpu_hours: see `sweeps.engine.budget`.
        detach: return as soon as everything has been submitted (SLURM).
        parent_run_id: the tracker's run of this sweep, written to each point's sweep.json.
        on_point: called after a point has ended, for example to update the tracker.
        every_s: seconds between plain progress lines.
        poll_s: seconds between two looks at the jobs.
        queue: SLURM's queue; None = a new one.

    Raises:
        UserError: another controller runs this sweep, or its jobs cannot be run.
    """
    comparison, queue = comparison_of(definition), queue or SlurmQueue()
    folder = sweep_folder(comparison)
    folder.mkdir(parents=True, exist_ok=True)
    with only_controller(folder), make_display(folder / "sweep.log", every_s) as display:
        recorded = read_json(folder / PLAN)["points"] if (folder / PLAN).exists() else []
        study = comparison.open_study(folder / "study.journal", recorded)
        code = None
        if options.executor != "debug":
            code = take_snapshot(Path(comparison.base.runtime.root), options.entry)
        executor = make_executor(options, folder, comparison.sweep_id, comparison.size, queue, code)
        slots = comparison.parallel_jobs(executor.slots, options.parallel)
        budget = Budget(budget_gpu_hours)
        state = SweepState(comparison, executor, study, queue, budget, selected, retry)
        write_plan(state)
        progress = SweepProgress(state, display, slots)
        reconciler = Reconciler(state, progress)
        submitter = Submitter(state, progress, reconciler, slots, parent_run_id)
        retries = RetryPolicy(options.continuations)
        watcher = Watcher(state, progress, reconciler, retries, on_point)
        stopper = JobStopper(state, progress)
        for note in executor.notes:
            progress.note(note)
        if code is not None and code.left_out:
            names = ", ".join(code.left_out[:5]) + (", ..." if len(code.left_out) > 5 else "")
            progress.note(f"not copied for the jobs, as git does not track it: {names}")
        reconciler.reconcile()
        return _loop(state, progress, submitter, watcher, stopper, detach, poll_s)


def _loop(
    state: SweepState,
    progress: SweepProgress,
    submitter: Submitter,
    watcher: Watcher,
    stopper: JobStopper,
    detach: bool,
    poll_s: float,
) -> SweepSummary:
    """Submits and watches until nothing is left, the user interrupts, or all is submitted."""
    detached = False
    with count_interrupts(install=not state.executor.in_process) as interrupts:
        while not interrupts:
            submitter.submit_waiting()
            if not (state.jobs or state.ended or submitter.deferred):
                break
            if detach and not submitter.deferred:
                detached = True
                break
            watcher.poll()
            stopper.enforce_budget()
            progress.show()
            time.sleep(poll_s)
        if interrupts:
            stopper.stop_local(interrupts)
    progress.show(now=True)
    outcomes = tuple(state.outcome(point) for point in state.points.values())
    return SweepSummary(outcomes, bool(interrupts), state.folder, detached)


__all__ = ["SweepComparison", "run_sweep", "sweep_folder"]
