"""The command that all sweep scripts share.

A script names its comparison and its options; everything else is here and in its neighbours."""

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

from simvtp import tracking
from simvtp.console import command_text, log_to_terminal, started_as_command
from simvtp.errors import UserError
from simvtp.plugins import plugin_words, take_plugins
from simvtp.runs.metric_names import MetricName
from simvtp.runs.provenance import without_credentials
from simvtp.runs.run_records import RunState
from simvtp.runs.rundir import require_writable
from sweeps.cli.dry_run import dry_run
from sweeps.cli.options import make_comparison, make_options, selected_points
from sweeps.cli.script_parser import columns
from sweeps.cli.sweep_parser import SweepScript, read_arguments
from sweeps.engine.sweep_engine import run_sweep
from sweeps.engine.sweep_outcome import PointOutcome, SweepSummary, describe_failure
from sweeps.monitor.point_state import ALIVE, GIVEN_UP, last_lines
from sweeps.monitor.text_streams import tolerate_encodings
from sweeps.runner import JobOptions, require_executor
from sweeps.runner.job import ENTRY
from sweeps.study import Definition, SweepComparison, comparison_of, sweep_folder

TRACK_EVERY_S = 20.0  # how often the parent run is updated while points end
BACKGROUND_S = 4.0  # a controller in the background that has not failed by then counts as running


def main(sweep: SweepScript, arguments: Sequence[str] | None = None, entry: str = ENTRY) -> int:
    """Runs the command and returns the exit status.

    That is 0 if all points finished (or were submitted, with --detach), 1 if some did not, 2 for
    bad input, 130 after Ctrl-C.

    Args:
        sweep: the script.
        arguments: the command line; None = that of this process.
        entry: what runs one experiment inside a job, `module:function`.
    """
    tolerate_encodings()
    log_to_terminal(logging.WARNING, "%(message)s")
    try:
        args = read_arguments(sweep, arguments)
        definition = make_comparison(sweep, args)
        comparison = comparison_of(definition)
        options = make_options(args, entry)
        comparison.sweep_id  # noqa: B018  (refuses impossible points before anything is done)
        selected = selected_points(comparison, getattr(args, "only", []))
        if getattr(args, "plan_power", None) is not None:
            return _plan_power(comparison, args)
        require_writable(Path(comparison.base.runtime.root))
        if args.dry_run:
            return dry_run(comparison, selected, args, options)
        require_executor(options)  # before anything is written
        if args.detach and _needs_controller(comparison, options, args):
            words = sys.argv[1:] if arguments is None else arguments
            return _in_background(comparison, [*sweep.script[1:], *words])
        return _run(definition, comparison, selected, args, options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues.", file=sys.stderr)
        return 130


def _plan_power(comparison: SweepComparison, args: argparse.Namespace) -> int:
    # imported late: scipy.stats takes a second, and no other call needs it
    from sweeps.cli.power_plan import plan_power

    return plan_power(comparison, args)


# ---- running -------------------------------------------------------------------------------------


def _run(
    definition: Definition,
    comparison: SweepComparison,
    selected: set[str] | None,
    args: argparse.Namespace,
    options: JobOptions,
) -> int:
    runtime = comparison.base.runtime
    uri = tracking.resolve_uri(runtime)
    if uri is not None:
        print(f"preparing the tracker at {without_credentials(uri)} ...", flush=True)
    parent = tracking.start_sweep(comparison.recorded_plan(), runtime)
    last = time.monotonic()

    def track() -> None:
        nonlocal last
        if parent and time.monotonic() - last > TRACK_EVERY_S:
            tracking.finish_sweep(comparison.recorded_plan(), runtime, final=False)
            last = time.monotonic()

    done = run_sweep(
        definition,
        options,
        retry=args.retry,
        selected=selected,
        budget_gpu_hours=args.budget_gpu_hours,
        detach=args.detach,
        parent_run_id=parent or "",
        on_point=track,
    )
    if parent:
        final = not any(outcome.state.alive for outcome in done.outcomes)
        tracking.finish_sweep(comparison.recorded_plan(), runtime, final=final)
    if done.detached:
        _print_detached(done)
        return 0
    _print_summary(comparison, done)
    finished = any(outcome.state.state == RunState.FINISHED for outcome in done.outcomes)
    if finished and not args.no_report and not done.interrupted:
        _build_report(comparison, uri)
    if uri is not None and parent:
        command = tracking.ui_command(uri)
        print(f"\nCompare the runs in the MLflow UI:\n  {command}")
        with contextlib.suppress(UserError):  # the tracker does not answer any more
            print(f"  {tracking.ui_page(uri, runtime.tracking_experiment, command)}")
    if done.interrupted:
        return 130
    return 1 if done.unfinished else 0


def _print_detached(done: SweepSummary) -> None:
    counts = Counter(str(outcome.state.state) for outcome in done.outcomes)
    states = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    print(f"\nSubmitted; the command does not wait. {len(done.outcomes)} points: {states}.")
    program = command_text("python sweeps/status.py", "status")
    status = f"{program} {done.sweep_dir.name} --root {done.sweep_dir.parents[1]}"
    print(f"  {status}      shows their state")
    print(
        "  the same command                  watches them, continues what was lost, and builds "
        "the report at the end"
    )


def _needs_controller(
    comparison: SweepComparison, options: JobOptions, args: argparse.Namespace
) -> bool:
    """Returns whether points must be started later on.

    Then --detach leaves a controller in the background. Jobs of a grid on SLURM are all submitted
    at once and wait there.
    """
    return options.executor != "slurm" or comparison.proposes or args.budget_gpu_hours is not None


def _in_background(comparison: SweepComparison, arguments: Sequence[str]) -> int:
    """Runs this very command again in the background, without --detach."""
    program = [os.path.abspath(sys.argv[0])]
    if started_as_command():
        program = ["-m", "simvtp", "sweep"]
    folder = sweep_folder(comparison)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "controller.log"
    words = [word for word in take_plugins(arguments) if word != "--detach"]
    with open(log, "ab") as file:
        process = subprocess.Popen(
            [sys.executable, *program, *words, *plugin_words()],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        status = process.wait(BACKGROUND_S)
    except subprocess.TimeoutExpired:
        root = comparison.base.runtime.root
        print(f"The controller runs in the background as process {process.pid}; log: {log}")
        shown = command_text("python sweeps/status.py", "status")
        print(f"  {shown} {comparison.sweep_id} --root {root}      shows the points")
        print(f"  kill {process.pid}      stops it like Ctrl-C")
        return 0
    print("\n".join(last_lines(log)))
    return status


# ---- the end -------------------------------------------------------------------------------------


def _print_summary(comparison: SweepComparison, done: SweepSummary) -> None:
    head = ("point", comparison.metric_label, "chance", "times chance", "state")
    rows: list[tuple[str, ...]] = [head]
    is_error = MetricName.parse(comparison.metric).lower_is_better
    for outcome in done.outcomes:
        state = str(outcome.state.state)
        rows.append((outcome.point.name, *_value_cells(outcome, is_error), state))
    print(f"\n{comparison.title}\n{columns(rows, right=(1, 2, 3))}")
    notes = comparison.notes()
    if notes:
        print("\n" + "\n".join(notes))
    failed = [
        outcome
        for outcome in done.unfinished
        if outcome.state.state not in (*ALIVE, RunState.MISSING)
    ]
    for outcome in failed:
        print(f"\n{describe_failure(outcome, short=True)}")
    if any(outcome.state.state in GIVEN_UP for outcome in failed):
        print("\nFailed and cancelled points are tried again with --retry.")
    if any(outcome.state.state not in GIVEN_UP for outcome in done.unfinished):
        print("\nThe same command continues what was stopped.")
    print(f"\nSweep directory: {done.sweep_dir}")


def _value_cells(outcome: PointOutcome, is_error: bool) -> tuple[str, str, str]:
    """Returns value, chance level, and their ratio, which means nothing for an error or a rank."""
    if outcome.value is None:
        return "—", "", ""
    if not outcome.chance or outcome.chance != outcome.chance:
        return f"{outcome.value:.2f}", "", ""
    ratio = "—" if is_error else f"{outcome.value / outcome.chance:.1f}"
    return f"{outcome.value:.2f}", f"{outcome.chance:.2f}", ratio


def _build_report(comparison: SweepComparison, uri: str | None) -> None:
    """Runs the report as another program: it reads the tracker, and nothing of this process."""
    if uri is None:
        print("\nNo report: it is made from the tracked runs, and tracking is off.")
        return
    words = ["-m", "simvtp", "report", comparison.name, "--sweep", comparison.sweep_id]
    words += plugin_words()
    print(f"\nBuilding the report: {' '.join(['python', *words])}", flush=True)
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri}
    done = subprocess.run([sys.executable, *words], env=environment, check=False)
    if done.returncode:
        print(
            "The report was not built (see above); the results are safe, and the command can be "
            "run again.",
            file=sys.stderr,
        )
