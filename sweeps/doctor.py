"""Finds and repairs problems of runs and sweeps: `python sweeps/doctor.py --help`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from simvtp.console import log_to_terminal
from simvtp.errors import UserError
from sweeps.cli.script_parser import ScriptParser, confirmed
from sweeps.monitor.controller_lock import controller, only_controller
from sweeps.monitor.overview import find_sweeps
from sweeps.monitor.repair.diagnose import diagnose
from sweeps.monitor.repair.diagnosis import Diagnosis
from sweeps.monitor.repair.rebuild import rebuild_study, rebuild_tracker, tracked_runs
from sweeps.monitor.text_streams import tolerate_encodings
from sweeps.runner.liveness import state_of
from sweeps.runner.slurm_queue import SlurmQueue

EXAMPLES = """\
examples:
  python sweeps/doctor.py --dry-run      look only
  python sweeps/doctor.py                report problems, ask, repair
  python sweeps/doctor.py --yes          repair without asking; also remove unused code snapshots
  python sweeps/doctor.py --rebuild      rebuild the Optuna studies and the MLflow store from the
                                         run directories

It looks for torn or damaged lines of journals and studies, trials and tracked runs that are RUNNING
without a job, stale locks and leases, runs that were killed, half-written files, unused code
snapshots, a full or unwritable disk, a tracker that does not answer. What a running sweep command
works on is reported but left alone.
Exit status: 0 no problem or all repaired, 1 something is left, 2 bad input."""


def make_parser() -> ScriptParser:
    """Returns the parser of the options."""
    parser = ScriptParser(
        "doctor", "Find problems of runs and sweeps, report the remedy, and repair them.", EXAMPLES
    )
    parser.add_root()
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--yes", action="store_true", help="do not ask")
    how.add_argument("--dry-run", action="store_true", help="change nothing")
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="rebuild studies and MLflow store; the old ones are kept as NAME.old-TIME",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit status."""
    tolerate_encodings()
    log_to_terminal(logging.WARNING, "%(message)s")
    args = make_parser().parse_args(arguments)
    try:
        if args.rebuild:
            return _rebuild(args.root, args.yes, args.dry_run)
        return _repair(args.root, args.yes, args.dry_run)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the command again.", file=sys.stderr)
        return 1


def _repair(root: Path, yes: bool, dry_run: bool) -> int:
    found = list(diagnose(root, SlurmQueue()))
    for diagnosis in found:
        print(f"- {diagnosis.problem}\n    {_remedy(diagnosis)}")
    if not found:
        print(f"No problems found under {root}.")
        return 0
    problems = [diagnosis for diagnosis in found if not diagnosis.minor]
    able = [
        diagnosis
        for diagnosis in found
        if diagnosis.repair and not diagnosis.blocked and (yes or not diagnosis.minor)
    ]
    left = len([diagnosis for diagnosis in problems if diagnosis not in able])
    if dry_run or not able:
        print(f"\n{len(problems)} problem(s) found; nothing was changed.")
        return 1 if problems else 0
    if not (yes or confirmed(f"\nRepair {len(able)} problem(s)?")):
        print("Nothing was changed.")
        return 1
    failed = 0
    for _, some in groupby(able, key=lambda diagnosis: diagnosis.place):
        failed += _repair_place(list(some))
    rest = f", {left + failed} left" if left + failed else ""
    print(f"\n{len(able) - failed} problem(s) repaired{rest}.")
    return 1 if left + failed else 0


def _remedy(diagnosis: Diagnosis) -> str:
    if diagnosis.blocked:
        return f"left alone: {diagnosis.blocked}"
    if diagnosis.repair is None:
        return f"to do: {diagnosis.remedy}"
    return f"will: {diagnosis.remedy}{' (only with --yes)' if diagnosis.minor else ''}"


def _repair_place(found: list[Diagnosis]) -> int:
    """Repairs all problems of one place and returns how many could not be repaired."""
    done = 0
    try:
        with found[0].lock():
            for diagnosis in found:
                assert diagnosis.repair is not None
                diagnosis.repair()
                done += 1
    except (UserError, OSError) as error:
        problem = found[min(done, len(found) - 1)].problem
        print(f"not repaired: {problem}: {error}", file=sys.stderr)
    return len(found) - done


def _rebuild(root: Path, yes: bool, dry_run: bool) -> int:
    """Rebuilds the studies of all sweeps whose command is not running, and the tracker.

    The tracker only if nothing runs at all, as it would be written meanwhile.
    """
    queue, sweeps = SlurmQueue(), find_sweeps(root)
    free = [sweep for sweep in sweeps if not controller(sweep.folder)]
    for sweep in sweeps:
        by = controller(sweep.folder)
        what = "rebuild its study" if sweep in free else f"left alone: it is being run by {by}"
        print(f"- {sweep.sweep_id}: {what}")
    alive = any(state_of(run_dir, queue).alive for run_dir in tracked_runs(root))
    tracker = not alive and len(free) == len(sweeps)
    what = "left alone: jobs or sweeps are running"
    print(f"- tracker: {'rebuild it from all run directories' if tracker else what}")
    if dry_run or not (yes or confirmed("Continue? The old ones are kept.")):
        print("Nothing was changed.")
        return 0 if dry_run else 1
    failed = 0
    for sweep in free:
        try:
            with only_controller(sweep.folder):
                print(rebuild_study(sweep, queue))
        except (UserError, OSError) as error:
            failed += 1
            print(f"not done: {error}", file=sys.stderr)
    if tracker:
        rebuild_tracker(root, sweeps, print)
    return 1 if failed or not tracker else 0


if __name__ == "__main__":
    sys.exit(main())
