"""The command that all sweep scripts share. A script names its comparison and its options;
everything else is here and in `options`.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ablations.cost import cpu_minutes
from ablations.design import Point
from ablations.search import Search
from simvtp import tracking
from simvtp.errors import UserError
from simvtp.runs.atomic_files import read_json
from simvtp.runs.metric_names import MetricName
from simvtp.runs.provenance import without_url_users
from sweeps.cli.options import (
    AxisOption,
    Sweep,
    make_comparison,
    make_options,
    read_arguments,
    selected_points,
)
from sweeps.engine.sweep_engine import run_sweep, sweep_folder
from sweeps.engine.sweep_outcome import Comparison, Outcome, Summary, describe_failure
from sweeps.monitor.overview import columns
from sweeps.monitor.run_state import (
    ALIVE,
    CANCELLED,
    FAILED,
    FINISHED,
    GIVEN_UP,
    MISSING,
    PRUNED,
    PointState,
    gpu_hours,
    last_lines,
)
from sweeps.runner import Options, make_executor, point_state, require_executor
from sweeps.runner.code_snapshot import freeze
from sweeps.runner.job import ENTRY
from sweeps.runner.slurm import DEFAULT_MIN

__all__ = ["AxisOption", "Sweep", "main"]

TRACK_EVERY_S = 20.0  # how often the parent run is brought up to date while points end
BACKGROUND_S = 4.0  # a controller in the background that has not failed by then is taken to run


def main(sweep: Sweep, arguments: Sequence[str] | None = None, entry: str = ENTRY) -> int:
    """Run the command; returns the exit status: 0 all points finished (or handed in, with
    --detach), 1 some did not, 2 bad input, 130 stopped by Ctrl-C.

    `entry` (`module:function`) is what runs one experiment inside a job.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        args = read_arguments(sweep, arguments)
        comparison = make_comparison(sweep, args)
        options = make_options(args, entry)
        only = getattr(args, "only", [])
        comparison.sweep_id  # noqa: B018  (impossible points are refused before anything is done)
        selected = None if isinstance(comparison, Search) else selected_points(comparison, only)
        if args.dry_run:
            return _dry_run(comparison, selected, args, options)
        require_executor(options)  # before anything is written
        if args.detach and _needs_controller(comparison, options, args):
            return _in_background(
                comparison, [*sweep.script[1:], *(sys.argv[1:] if arguments is None else arguments)]
            )
        return _run(comparison, selected, args, options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues.", file=sys.stderr)
        return 130


# ---- running -------------------------------------------------------------------------------------


def _run(
    comparison: Comparison, selected: set[str] | None, args: argparse.Namespace, options: Options
) -> int:
    runtime = comparison.base.runtime
    uri = tracking.resolve_uri(runtime)
    if uri is not None:
        print(f"preparing the tracker at {without_url_users(uri)} ...", flush=True)
    parent = tracking.start_sweep(_plan(comparison), runtime)
    last = [time.monotonic()]

    def track() -> None:
        if parent and time.monotonic() - last[0] > TRACK_EVERY_S:
            tracking.finish_sweep(_plan(comparison), runtime, final=False)
            last[0] = time.monotonic()

    done = run_sweep(
        comparison,
        options,
        retry=args.retry,
        selected=selected,
        budget_gpu_hours=args.budget_gpu_hours,
        detach=args.detach,
        parent_run_id=parent or "",
        on_point=track,
    )
    if parent:
        tracking.finish_sweep(
            _plan(comparison), runtime, final=not any(o.state.state in ALIVE for o in done.outcomes)
        )
    if done.detached:
        return _say_detached(done)
    _print_summary(comparison, done)
    if (
        any(outcome.state.state == FINISHED for outcome in done.outcomes)
        and not args.no_report
        and not done.interrupted
    ):
        _build_report(comparison, uri)
    if uri is not None and parent:
        print(f"\nCompare the runs in the MLflow UI:\n  {tracking.ui_command(uri)}")
        with contextlib.suppress(UserError):  # the tracker has gone away meanwhile, which was said
            print(
                f"  {tracking.ui_page(uri, runtime.tracking_experiment, tracking.ui_command(uri))}"
            )
    if done.interrupted:
        return 130
    return 1 if done.unfinished else 0


def _plan(comparison: Comparison) -> dict[str, object]:
    """The plan for the tracker. That of a search lies beside its study, with the points that were
    proposed so far.
    """
    path = sweep_folder(comparison) / "plan.json"
    if isinstance(comparison, Search) and path.exists():
        return dict(read_json(path))
    return comparison.plan()


def _say_detached(done: Summary) -> int:
    states = Counter(outcome.state.state for outcome in done.outcomes)
    said = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    print(f"\nHanded in; nothing is waited for. {len(done.outcomes)} points: {said}.")
    print(
        f"  python sweeps/status.py {done.sweep_dir.name} --root {done.sweep_dir.parents[1]}      how they stand"
    )
    print(
        "  the same command                  watches them, continues what was lost, and builds the report at the end"
    )
    return 0


def _needs_controller(comparison: Comparison, options: Options, args: argparse.Namespace) -> bool:
    """Whether somebody has to start points later on: then --detach leaves a controller in the
    background. Jobs of a grid on SLURM are all handed in at once and wait there."""
    return (
        options.executor != "slurm"
        or isinstance(comparison, Search)
        or args.budget_gpu_hours is not None
    )


def _in_background(comparison: Comparison, arguments: Sequence[str]) -> int:
    """Run this very command again in the background, without --detach."""
    folder = sweep_folder(comparison)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "controller.log"
    command = [
        sys.executable,
        os.path.abspath(sys.argv[0]),
        *(word for word in arguments if word != "--detach"),
    ]
    with open(log, "ab") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        status = process.wait(BACKGROUND_S)
    except subprocess.TimeoutExpired:
        print(f"The controller runs in the background as process {process.pid}; log: {log}")
        print(
            f"  python sweeps/status.py {comparison.sweep_id} --root {comparison.base.runtime.root}      how the points stand"
        )
        print(f"  kill {process.pid}      stops it like Ctrl-C")
        return 0
    print("\n".join(last_lines(log)))
    return status


# ---- looking -------------------------------------------------------------------------------------


def _dry_run(
    comparison: Comparison, selected: set[str] | None, args: argparse.Namespace, options: Options
) -> int:
    """Say what would be done; write nothing."""
    points = comparison.points() if not isinstance(comparison, Search) else _proposed(comparison)
    states = {point.fingerprint: point_state(point) for point in points}
    rows, starts = [("point", "fingerprint", "state", "job", "run directory")], 0
    for point in points:
        state = states[point.fingerprint]
        chosen = selected is None or point.fingerprint in selected
        starts += chosen and _would_start(state, args.retry)
        job = str(state.job.get("job_id", "")) if state.state in ALIVE else ""
        word = state.state if chosen else f"{state.state}, not selected"
        rows.append((point.name, point.fingerprint[:12], word, job, str(point.run_dir)))
    if isinstance(comparison, Search):
        starts += max(0, comparison.trials - len(points))
        print(
            f"{comparison.sweep_id}: {comparison.title}, {comparison.trials} points, {len(points)} proposed so far"
        )
    else:
        sizes = " x ".join(str(len(axis.values)) for axis in comparison.axes)
        print(
            f"{comparison.sweep_id}: {comparison.title}, {sizes} cells, seeds {', '.join(map(str, comparison.seeds))}"
        )
    print(
        f"recipe {comparison.base.name}, data {comparison.plan()['dataset']}, sweep directory {sweep_folder(comparison)}\n"
    )
    print(columns(rows))
    found = (
        ", ".join(
            f"{number} {state}"
            for state, number in sorted(Counter(s.state for s in states.values()).items())
        )
        or "none yet"
    )
    print(
        f"\n{len(states)} points: {found}. This command would start {starts} ({args.executor} executor)."
    )
    print(_cost(points, states, starts, options, args.budget_gpu_hours))
    if comparison.base.name.startswith("tiny"):
        waiting = [
            p
            for p in points
            if (selected is None or p.fingerprint in selected)
            and _would_start(states[p.fingerprint], args.retry)
        ]
        minutes = sum(cpu_minutes(point.experiment) for point in waiting)
        print(
            f"Estimated work: {minutes:.0f} CPU minutes for the points that are known (from their tokens; a factor of two either way)."
        )
    if starts:
        print(f"\nSubmission ({options.executor}):\n{_preview(comparison, options, starts)}")
    print("\nNothing was run.")
    return 0


def _proposed(search: Search) -> tuple[Point, ...]:
    """The points of a search that were proposed in earlier calls."""
    path = sweep_folder(search) / "plan.json"
    cells = read_json(path)["points"] if path.exists() else []
    return tuple(search.point(entry["cell"]) for entry in cells)


def _would_start(state: PointState, retry: bool) -> bool:
    return state.state not in (FINISHED, PRUNED, *ALIVE) and (state.state not in GIVEN_UP or retry)


def _cost(
    points: Sequence[Point],
    states: dict[str, PointState],
    starts: int,
    options: Options,
    budget: float | None,
) -> str:
    """The estimated GPU-hours: from points of this sweep that have finished, else what the time
    limit allows at most.
    """
    finished = [
        gpu_hours(p.run_dir, states[p.fingerprint].status)
        for p in points
        if states[p.fingerprint].state == FINISHED
    ]
    spent = sum(gpu_hours(p.run_dir, states[p.fingerprint].status) for p in points)
    gpus = (options.gpus or 0) * options.nodes
    if finished and sum(finished) > 0:
        each = sum(finished) / len(finished)
        text = f"Estimated cost: {starts} x {each:.2f} = {starts * each:.2f} GPU-hours (mean of {len(finished)} finished points)"
    elif options.executor == "slurm" and gpus:
        hours = (options.minutes or DEFAULT_MIN) / 60 * gpus
        text = f"Estimated cost: — (no point of this sweep has finished); the time limit allows {starts} x {hours:g} = {starts * hours:g} GPU-hours per submission"
    else:
        text = "Estimated cost in GPU-hours: — (no finished point of this sweep has used a GPU)"
    limit = f"; the budget is {budget:g}" if budget is not None else ""
    return f"{text}; spent so far {spent:.2f}{limit}."


def _preview(comparison: Comparison, options: Options, starts: int) -> str:
    """What would be handed in. The code would be frozen first; here only its place is named."""
    require_executor(options)
    code = freeze(Path(comparison.base.runtime.root), options.entry, write=False)
    return make_executor(
        options, sweep_folder(comparison), comparison.sweep_id, starts, code
    ).preview(starts)


# ---- the end -------------------------------------------------------------------------------------


def _print_summary(comparison: Comparison, done: Summary) -> None:
    rows: list[tuple[str, ...]] = [
        ("point", comparison.metric_label, "chance", "times chance", "state")
    ]
    error = MetricName.parse(comparison.metric).lower_is_better
    rows += [
        (outcome.point.name, *_figures(outcome, error), outcome.state.state)
        for outcome in done.outcomes
    ]
    print(f"\n{comparison.title}\n{columns(rows, right=(1, 2, 3))}")
    failed = [
        outcome for outcome in done.unfinished if outcome.state.state not in (*ALIVE, MISSING)
    ]
    for outcome in failed:
        print(f"\n{describe_failure(outcome, short=True)}")
    states = {outcome.state.state for outcome in failed}
    if states & {FAILED, CANCELLED}:
        print("\nFailed and cancelled points are tried again with --retry.")
    if any(outcome.state.state not in GIVEN_UP for outcome in done.unfinished):
        print("\nThe same command continues what was stopped.")
    print(f"\nSweep directory: {done.sweep_dir}")


def _figures(outcome: Outcome, error: bool) -> tuple[str, str, str]:
    """The figure, what guessing gives, and how many times that it is: of an error or a rank that
    says nothing.
    """
    if outcome.value is None:
        return "—", "", ""
    if not outcome.chance or outcome.chance != outcome.chance:
        return f"{outcome.value:.2f}", "", ""
    return (
        f"{outcome.value:.2f}",
        f"{outcome.chance:.2f}",
        "—" if error else f"{outcome.value / outcome.chance:.1f}",
    )


def _build_report(comparison: Comparison, uri: str | None) -> None:
    """The report is another program: it reads the tracker, and nothing of this one."""
    command = [
        sys.executable,
        "-m",
        "reports.build",
        comparison.name,
        "--sweep",
        comparison.sweep_id,
    ]
    if uri is None:
        print("\nNo report: it is made from the tracked runs, and tracking is off.")
        return
    print(f"\nBuilding the report: {' '.join(['python', *command[1:]])}", flush=True)
    done = subprocess.run(command, env=os.environ | {"MLFLOW_TRACKING_URI": uri}, check=False)
    if done.returncode:
        print(
            "The report was not built (see above); the results are safe, and the command can be given again.",
            file=sys.stderr,
        )
