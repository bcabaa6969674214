"""Prints what a sweep command would do, and writes nothing."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ablations.cost import cpu_minutes
from ablations.design import Point
from simvtp.runs.run_records import RunState
from sweeps.cli.script_parser import columns
from sweeps.monitor.point_state import ALIVE, DONE, GIVEN_UP, PointState, gpu_hours
from sweeps.runner import JobOptions, make_executor, require_executor
from sweeps.runner.code_snapshot import take_snapshot
from sweeps.runner.liveness import state_of
from sweeps.runner.slurm import DEFAULT_MIN
from sweeps.runner.slurm_queue import SlurmQueue
from sweeps.study import SweepComparison, sweep_folder


def dry_run(
    comparison: SweepComparison,
    selected: set[str] | None,
    args: argparse.Namespace,
    options: JobOptions,
) -> int:
    """Prints points, states, cost and submission; returns the exit status.

    Args:
        comparison: the grid or search.
        selected: fingerprints that the command would run; None = all.
        args: the command line.
        options: how the jobs would be run.
    """
    queue = SlurmQueue()
    points = comparison.known_points()
    states = {point.fingerprint: state_of(point.run_dir, queue) for point in points}
    chosen = [p for p in points if selected is None or p.fingerprint in selected]
    waiting = [p for p in chosen if _would_start(states[p.fingerprint], args.retry)]
    starts = len(waiting) + comparison.unknown_points(len(points))
    print(comparison.heading(len(points)))
    dataset = comparison.recorded_plan()["dataset"]
    print(
        f"recipe {comparison.base.name}, data {dataset}, "
        f"sweep directory {sweep_folder(comparison)}\n"
    )
    print(_table(points, states, {point.fingerprint for point in chosen}))
    notes = comparison.notes()
    if notes:
        print("\n" + "\n".join(notes))
    counts = Counter(str(state.state) for state in states.values())
    found = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    print(
        f"\n{len(states)} points: {found or 'none yet'}. "
        f"This command would start {starts} ({args.executor} executor)."
    )
    print(_cost(points, states, starts, options, args.budget_gpu_hours))
    if comparison.base.name.startswith("tiny"):
        minutes = sum(cpu_minutes(point.experiment) for point in waiting)
        print(
            f"Estimated work: {minutes:.0f} CPU minutes for the points that are known "
            "(from their tokens; a factor of two either way)."
        )
    if starts:
        print(f"\nSubmission ({options.executor}):")
        print(_preview(comparison, options, starts, queue))
    print("\nNothing was run.")
    return 0


def _would_start(state: PointState, retry: bool) -> bool:
    return state.state not in (*DONE, *ALIVE) and (state.state not in GIVEN_UP or retry)


def _table(points: Sequence[Point], states: Mapping[str, PointState], chosen: set[str]) -> str:
    rows = [("point", "fingerprint", "state", "job", "run directory")]
    for point in points:
        state = states[point.fingerprint]
        job = state.job_id if state.alive else ""
        word = str(state.state)
        if point.fingerprint not in chosen:
            word += ", not selected"
        rows.append((point.name, point.fingerprint[:12], word, job, str(point.run_dir)))
    return columns(rows)


def _cost(
    points: Sequence[Point],
    states: Mapping[str, PointState],
    starts: int,
    options: JobOptions,
    budget: float | None,
) -> str:
    """Returns the estimated GPU-hours, from finished points of this sweep.

    Without any, returns the maximum that the time limit allows.
    """
    hours = {p.fingerprint: gpu_hours(p.run_dir, states[p.fingerprint].status) for p in points}
    finished = [hours[key] for key, state in states.items() if state.state == RunState.FINISHED]
    gpus = (options.gpus or 0) * options.nodes
    if finished and sum(finished) > 0:
        mean = sum(finished) / len(finished)
        text = (
            f"Estimated cost: {starts} x {mean:.2f} = {starts * mean:.2f} GPU-hours "
            f"(mean of {len(finished)} finished points)"
        )
    elif options.executor == "slurm" and gpus:
        most = (options.minutes or DEFAULT_MIN) / 60 * gpus
        text = (
            "Estimated cost: — (no point of this sweep has finished); the time limit allows "
            f"{starts} x {most:g} = {starts * most:g} GPU-hours per submission"
        )
    else:
        text = "Estimated cost in GPU-hours: — (no finished point of this sweep has used a GPU)"
    limit = f"; the budget is {budget:g}" if budget is not None else ""
    return f"{text}; spent so far {sum(hours.values()):.2f}{limit}."


def _preview(
    comparison: SweepComparison, options: JobOptions, starts: int, queue: SlurmQueue
) -> str:
    """Returns what would be submitted. The snapshot is only named, not taken."""
    require_executor(options)
    root, folder = Path(comparison.base.runtime.root), sweep_folder(comparison)
    code = take_snapshot(root, options.entry, write=False)
    executor = make_executor(options, folder, comparison.sweep_id, starts, queue, code)
    return "\n".join([*executor.notes, executor.preview(starts)])
