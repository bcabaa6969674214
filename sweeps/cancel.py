"""Cancels the jobs of a sweep: `python sweeps/cancel.py --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from simvtp.errors import ConfigError, UserError
from simvtp.runs.atomic_files import read_json
from sweeps.cli.script_parser import ScriptParser, columns, confirmed
from sweeps.monitor.controller_lock import controller
from sweeps.monitor.overview import IDLE, SweepFolder, find_sweeps, survey
from sweeps.monitor.point_state import ALIVE
from sweeps.monitor.repair.terminate import BY, RunningJob, end_points
from sweeps.monitor.text_streams import tolerate_encodings
from sweeps.runner.liveness import state_of
from sweeps.runner.slurm_queue import SlurmQueue

EXAMPLES = """\
examples:
  python sweeps/cancel.py mask_ratio-0123abcd      the whole sweep: jobs and waiting points
  python sweeps/cancel.py mask_ratio --only video=0.9          only the points with this value
  python sweeps/cancel.py mask_ratio --points 'video 0.90 text 0.75'
  python sweeps/cancel.py mask_ratio --stop        stop the jobs; the same sweep command continues
  python sweeps/cancel.py mask_ratio --obsolete    jobs of points that the newest grid lacks

Jobs on this machine get SIGTERM, save a checkpoint and leave (SIGKILL after --grace seconds); jobs
of SLURM are cancelled by scancel. Cancelled points are not run again by the same sweep command
unless it is given --retry. A running sweep command is not ended: it sees its points as cancelled.
Exit status: 0 done, 1 not all of it (or you answered no), 2 bad input."""
ROUNDS = 3  # looks for points that a running sweep command has submitted in the meantime
SHORTEST_PREFIX = 6  # of a fingerprint, to name a point


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = ScriptParser(
        "cancel", "Cancel jobs of a sweep, or stop them so that they can be continued.", EXAMPLES
    )
    parser.add_root()
    parser.add_argument(
        "sweep", metavar="SWEEP", help="id, the beginning of an id, or the name of an ablation"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="key=value",
        help="only cells with this value; may be repeated",
    )
    parser.add_argument(
        "--points",
        nargs="+",
        default=[],
        metavar="NAME",
        help="only these points, by name or fingerprint",
    )
    parser.add_argument(
        "--obsolete",
        action="store_true",
        help="only running points that are in no current plan of the ablation",
    )
    parser.add_argument(
        "--stop", action="store_true", help="stop only: the same sweep command continues them"
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=90.0,
        metavar="SECONDS",
        help="time to save a checkpoint (default: %(default)g)",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be cancelled; change nothing"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit status."""
    tolerate_encodings()
    args = make_parser().parse_args(arguments)
    try:
        return _run(args)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted: what was recorded as cancelled stays so; the same command continues.",
            file=sys.stderr,
        )
        return 1


def _run(args: argparse.Namespace) -> int:
    sweeps = find_sweeps(args.root, [args.sweep])
    targets = _targets(args, sweeps)
    if not targets:
        print("Nothing to cancel: no such point runs or waits.")
        return 0
    verb, done = ("stop", "stopped") if args.stop else ("cancel", "cancelled")
    _show(targets, sweeps, args.stop)
    if args.dry_run or not (args.yes or confirmed(f"{verb.capitalize()} {len(targets)} point(s)?")):
        print("Nothing was changed.")
        return 0 if args.dry_run else 1
    left = end_points(targets, done, args.grace)
    for _ in range(ROUNDS):
        again = [
            target
            for target in _targets(args, sweeps)
            if target.run_dir not in left and not _ended_here(target)
        ]
        if not again:
            break
        left |= end_points(again, done, args.grace)
    for run_dir, reason in left.items():
        print(f"not {done}: {run_dir}: {reason}", file=sys.stderr)
    print(f"{len(targets) - len(left)} point(s) {done}.")
    return 1 if left else 0


def _ended_here(target: RunningJob) -> bool:
    return target.state.ended is not None and target.state.ended.by == BY


def _show(targets: Sequence[RunningJob], sweeps: Sequence[SweepFolder], stop: bool) -> None:
    """Prints what will happen to each point, and to the running sweep commands."""
    rows = [
        (t.name, str(t.state.state), t.state.job_id, t.obstacle or _action(t, stop))
        for t in targets
    ]
    print(columns([("point", "state", "job", "action"), *rows]))
    for sweep in sweeps:
        by = controller(sweep.folder)
        if by and stop:
            print(
                f"{sweep.sweep_id} is being run by {by}: it continues with its other points; "
                "end it with Ctrl-C (kill -INT) to stop all."
            )
        elif by:
            print(
                f"{sweep.sweep_id} is being run by {by}: it continues and sees these points as "
                "cancelled."
            )


def _action(target: RunningJob, stop: bool) -> str:
    if not target.alive:
        return "will not be started"
    if target.state.executor == "slurm":
        return "scancel"
    return f"SIGTERM, {'continues later' if stop else 'then cancelled'}"


# ---- choosing points -----------------------------------------------------------------------------


def _targets(args: argparse.Namespace, sweeps: Sequence[SweepFolder]) -> list[RunningJob]:
    """Returns the points named by the options that run or wait.

    To stop, only those that run; cancelled ones are not found again.
    """
    queue = SlurmQueue()
    if args.obsolete:
        return _obsolete(args.root, {sweep.ablation for sweep in sweeps}, queue)
    states = ALIVE if args.stop else (*ALIVE, *IDLE)
    found: dict[Path, RunningJob] = {}
    for sweep in sweeps:
        chosen = {point.fingerprint for point in sweep.matching(args.only)}
        for row in survey(sweep, queue).rows:
            point = row.point
            if row.state.state not in states or point.fingerprint not in chosen:
                continue
            if not args.points or any(
                _names(name, point.name, point.fingerprint) for name in args.points
            ):
                found[point.run_dir] = RunningJob(point.name, point.run_dir, row.state)
    points = [point for sweep in sweeps for point in sweep.points]
    for name in args.points:
        if not any(_names(name, point.name, point.fingerprint) for point in points):
            raise ConfigError(
                f"--points {name}: there is no such point; sweeps/status.py lists them."
            )
    return list(found.values())


def _names(text: str, name: str, fingerprint: str) -> bool:
    """Returns whether `text` names the point: its name, or the beginning of its fingerprint."""
    return text == name or (len(text) >= SHORTEST_PREFIX and fingerprint.startswith(text))


def _obsolete(root: Path, ablations: set[str], queue: SlurmQueue) -> list[RunningJob]:
    """Returns running points of these ablations that are in no current plan.

    A plan is current if it is the newest of its ablation or is being run.
    """
    every = find_sweeps(root)
    newest = {sweep.ablation: sweep for sweep in every}
    current = [s for s in every if s is newest[s.ablation] or controller(s.folder)]
    wanted = {point.run_dir.name for sweep in current for point in sweep.points}
    found = []
    for path in sorted(root.glob("*/sweep.json")):
        origin = read_json(path, dict)
        if origin.get("ablation") not in ablations or path.parent.name in wanted:
            continue
        state = state_of(path.parent, queue)
        if state.alive:
            cell = origin.get("cell", {}).items()
            name = " ".join(f"{key.rpartition('.')[2]} {value}" for key, value in cell)
            found.append(RunningJob(f"{origin.get('sweep_id')}: {name}", path.parent, state))
    return found


if __name__ == "__main__":
    sys.exit(main())
