"""Cancel the jobs of a sweep: `python sweeps/cancel.py --help`. How they are ended:
`sweeps/engine/terminate.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from simvtp.errors import ConfigError, UserError
from simvtp.runs.atomic_files import read_json
from sweeps.engine.terminate import BY, Target, end_points
from sweeps.monitor.overview import (
    IDLE,
    Parser,
    SweepFolder,
    agreed,
    columns,
    controller,
    find_sweeps,
    state_of,
    survey,
)
from sweeps.monitor.run_state import ALIVE
from sweeps.runner.slurm_queue import shared_queue

EXAMPLES = """\
examples:
  python sweeps/cancel.py mask_ratio-0123abcd                  the whole sweep: its jobs, and what it has not started yet
  python sweeps/cancel.py mask_ratio --only video=0.9          only the points with this value
  python sweeps/cancel.py mask_ratio --points 'video 0.90 text 0.75'
  python sweeps/cancel.py mask_ratio --stop                    only stop the jobs; the same sweep command continues them
  python sweeps/cancel.py mask_ratio --obsolete                jobs of points that the newest grid does not have any more

Jobs on this machine get SIGTERM, save a checkpoint and leave (SIGKILL after --grace seconds); SLURM's jobs are cancelled by scancel.
Cancelled points are not run again by the same sweep command, unless it is given --retry. A running sweep command is not ended: it
sees its points as cancelled. Exit status: 0 done, 1 not all of it (or you said no), 2 bad input."""
ROUNDS = 3  # how often to look for points that a running sweep command has handed in meanwhile


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
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
        help="only cells with this value; may be given again",
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
        help="only running points that are in no present plan of the ablation",
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
    """Run the command; returns the exit status."""
    args = make_parser().parse_args(arguments)
    try:
        return _run(args)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted: what was marked as cancelled stays so; the same command goes on.",
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
    rows = [
        (t.name, t.state.state, str(t.job.get("job_id", "")), t.obstacle or _what(t, args.stop))
        for t in targets
    ]
    print(columns([("point", "state", "job", "what happens"), *rows]))
    for sweep in sweeps:
        if (who := controller(sweep.folder)) and args.stop:
            print(
                f"{sweep.sweep_id} is being run by {who}: it goes on with its other points; end it with Ctrl-C (kill -INT) to stop all."
            )
        elif who:
            print(
                f"{sweep.sweep_id} is being run by {who}: it goes on and sees these points as cancelled."
            )
    if args.dry_run or not (args.yes or agreed(f"{verb.capitalize()} {len(targets)} point(s)?")):
        print("Nothing was changed.")
        return 0 if args.dry_run else 1
    left = end_points(targets, done, args.grace)
    for _ in range(ROUNDS):
        again = [
            t
            for t in _targets(args, sweeps)
            if t.run_dir not in left and t.state.ended.get("by") != BY
        ]
        if not again:
            break
        left |= end_points(again, done, args.grace)
    for run_dir, why in left.items():
        print(f"not {done}: {run_dir}: {why}", file=sys.stderr)
    print(f"{len(targets) - len(left)} point(s) {done}.")
    return 1 if left else 0


def _what(target: Target, stop: bool) -> str:
    if target.state.state in ALIVE:
        return (
            "scancel"
            if target.job.get("executor") == "slurm"
            else f"SIGTERM, {'continues later' if stop else 'then cancelled'}"
        )
    return "will not be started"


# ---- which points --------------------------------------------------------------------------------


def _targets(args: argparse.Namespace, sweeps: Sequence[SweepFolder]) -> list[Target]:
    """The points that run or wait, of those that the options name. To stop, only what runs;
    cancelled ones are not met again.
    """
    shared_queue().forget()
    if args.obsolete:
        return _obsolete(args.root, {sweep.ablation for sweep in sweeps})
    states = ALIVE if args.stop else (*ALIVE, *IDLE)
    found: dict[Path, Target] = {}
    for sweep in sweeps:
        chosen = {point.fingerprint for point in sweep.matching(args.only)}
        for row in survey(sweep).rows:
            named = not args.points or any(
                row.point.name == n or (len(n) > 5 and row.point.fingerprint.startswith(n))
                for n in args.points
            )
            if row.state.state in states and row.point.fingerprint in chosen and named:
                found[row.point.run_dir] = Target(row.point.name, row.point.run_dir, row.state)
    known = {point.name for sweep in sweeps for point in sweep.points} | {
        p.fingerprint for sweep in sweeps for p in sweep.points
    }
    strange = [
        name
        for name in args.points
        if not any(k == name or (len(name) > 5 and k.startswith(name)) for k in known)
    ]
    if strange:
        raise ConfigError(
            f"--points {strange[0]}: there is no such point; sweeps/status.py lists them."
        )
    return list(found.values())


def _obsolete(root: Path, ablations: set[str]) -> list[Target]:
    """Running points of these ablations that are in no present plan: in none that is newest of its
    ablation or being run now.
    """
    newest = {sweep.ablation: sweep for sweep in find_sweeps(root)}
    present = [
        sweep
        for sweep in find_sweeps(root)
        if sweep is newest[sweep.ablation] or controller(sweep.folder)
    ]
    wanted = {
        point.run_dir.name for sweep in [*newest.values(), *present] for point in sweep.points
    }
    found = []
    for path in sorted(root.glob("*/sweep.json")):
        origin = read_json(path)
        if origin.get("ablation") in ablations and path.parent.name not in wanted:
            state = state_of(path.parent)
            if state.state in ALIVE:
                name = " ".join(
                    f"{key.rpartition('.')[2]} {value}"
                    for key, value in origin.get("cell", {}).items()
                )
                found.append(Target(f"{origin.get('sweep_id')}: {name}", path.parent, state))
    return found


if __name__ == "__main__":
    sys.exit(main())
