"""Find what is wrong with runs and sweeps, and mend it: `python sweeps/doctor.py --help`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from simvtp.errors import UserError
from sweeps.engine.controller_lock import only_controller
from sweeps.monitor.overview import Parser, agreed, controller, find_sweeps, state_of
from sweeps.monitor.run_state import ALIVE
from sweeps.repair.diagnose import Finding, examine
from sweeps.repair.rebuild import rebuild_study, rebuild_tracker, runtimes

EXAMPLES = """\
examples:
  python sweeps/doctor.py --dry-run                look only
  python sweeps/doctor.py                          say what is wrong, ask, mend it
  python sweeps/doctor.py --yes                    mend without asking; also remove frozen code that nothing uses any more
  python sweeps/doctor.py --rebuild                make the Optuna studies and the MLflow store anew from the run directories

Looked for: torn or damaged lines of journals and studies, trials and tracked runs that say RUNNING without a job, stale locks and
leases, runs that were killed, half-written files, frozen code that nothing uses, a full or unwritable disk, a tracker that does not
answer. What a running sweep command works on is looked at but left alone.
Exit status: 0 nothing wrong or all of it mended, 1 something is left, 2 bad input."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    parser = Parser(
        "doctor",
        "Find what is wrong with runs and sweeps, say what would be done, and mend it.",
        EXAMPLES,
    )
    parser.add_root()
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--yes", action="store_true", help="do not ask")
    how.add_argument("--dry-run", action="store_true", help="change nothing")
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="studies and MLflow store anew; the old ones are kept as NAME.old-TIME",
    )
    args = parser.parse_args(arguments)
    try:
        if args.rebuild:
            return _rebuild(args.root, args.yes, args.dry_run)
        return _mend(args.root, args.yes, args.dry_run)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; give the command again.", file=sys.stderr)
        return 1


def _mend(root: Path, yes: bool, dry_run: bool) -> int:
    findings = list(examine(root))
    for finding in findings:
        print(f"- {finding.what}\n    {_remedy(finding)}")
    if not findings:
        print(f"Nothing is wrong under {root}.")
        return 0
    wrong = [finding for finding in findings if not finding.minor]
    able = [
        finding
        for finding in findings
        if finding.mend and not finding.held and (yes or not finding.minor)
    ]
    left = len([finding for finding in wrong if finding not in able])
    if dry_run or not able:
        print(f"\n{len(wrong)} thing(s) are wrong; nothing was changed.")
        return 1 if wrong else 0
    if not (yes or agreed(f"\nMend {len(able)} thing(s)?")):
        print("Nothing was changed.")
        return 1
    failed = 0
    for _, some in groupby(able, key=lambda finding: finding.place):
        failed += _mend_place(list(some))
    print(
        f"\n{len(able) - failed} thing(s) mended{f', {left + failed} left' if left + failed else ''}."
    )
    return 1 if left + failed else 0


def _remedy(finding: Finding) -> str:
    if finding.held:
        return f"left alone: {finding.held}"
    if finding.mend is None:
        return f"to do: {finding.repair}"
    return f"will: {finding.repair}{' (only with --yes)' if finding.minor else ''}"


def _mend_place(findings: list[Finding]) -> int:
    """Mend all findings of one place; returns how many could not be."""
    done = 0
    try:
        with findings[0].guard():
            for finding in findings:
                assert finding.mend is not None
                finding.mend()
                done += 1
    except (UserError, OSError) as error:
        print(
            f"not mended: {findings[done].what if done < len(findings) else findings[-1].what}: {error}",
            file=sys.stderr,
        )
    return len(findings) - done


def _rebuild(root: Path, yes: bool, dry_run: bool) -> int:
    """Studies of all sweeps whose command is not running; the tracker, if nothing at all runs (it
    would be written meanwhile).
    """
    sweeps = find_sweeps(root)
    free = [sweep for sweep in sweeps if not controller(sweep.folder)]
    alive = [run_dir.name for run_dir in runtimes(root) if state_of(run_dir).state in ALIVE]
    for sweep in sweeps:
        what = (
            "make its study anew"
            if sweep in free
            else f"left alone: it is being run by {controller(sweep.folder)}"
        )
        print(f"- {sweep.sweep_id}: {what}")
    tracker = not alive and len(free) == len(sweeps)
    print(
        f"- tracker: {'make it anew from all run directories' if tracker else 'left alone: jobs or sweeps are running'}"
    )
    if dry_run or not (yes or agreed("Go ahead? The old ones are kept beside.")):
        print("Nothing was changed.")
        return 0 if dry_run else 1
    failed = 0
    for sweep in free:
        try:
            with only_controller(sweep.folder):
                print(rebuild_study(sweep))
        except (UserError, OSError) as error:
            failed += 1
            print(f"not done: {error}", file=sys.stderr)
    if tracker:
        rebuild_tracker(root, sweeps, print)
    return 1 if failed or not tracker else 0


if __name__ == "__main__":
    sys.exit(main())
