"""Cancel the jobs of a sweep: `python sweeps/cancel.py --help`.

The mark "cancelled" is written to a point's job.json before its job gets a signal, so that whoever sees the job end (the sweep's
own command, which may be running) reads why. A point that a running sweep command hands in while we look is found when we look again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simvtp.errors import ConfigError, UserError
from simvtp.journal import read_json, write_atomically
from sweeps.overview import IDLE, Parser, SweepFolder, agreed, columns, controller, find_sweeps, state_of, survey
from sweeps.rundir import ALIVE, RunState, job_alive, note_end
from sweeps.squeue import cancel as scancel
from sweeps.squeue import shared_queue

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
BY = "sweeps/cancel.py"


@dataclass(frozen=True)
class Target:
    """A point that is to be cancelled, as it stood when we looked."""

    name: str
    run_dir: Path
    state: RunState

    @property
    def job(self) -> Mapping[str, Any]:
        return self.state.job

    @property
    def obstacle(self) -> str:
        """Why its job cannot be cancelled from here; "" if it can."""
        if self.state.state not in ALIVE or self.job.get("executor") == "slurm":
            return ""
        if self.job.get("executor") != "local":
            return "runs inside another program or was started by hand: stop it there with Ctrl-C"
        return (
            ""
            if job_alive(self.job, {}) and self.job["host"] == os.uname().nodename
            else f"runs on {self.job.get('host')}: give this command there"
        )


def make_parser() -> argparse.ArgumentParser:
    parser = Parser("cancel", "Cancel jobs of a sweep, or stop them so that they can be continued.", EXAMPLES)
    parser.add_argument("sweep", metavar="SWEEP", help="id, the beginning of an id, or the name of an ablation")
    parser.add_argument("--only", action="append", default=[], metavar="key=value", help="only cells with this value; may be given again")
    parser.add_argument("--points", nargs="+", default=[], metavar="NAME", help="only these points, by name or fingerprint")
    parser.add_argument("--obsolete", action="store_true", help="only running points that are in no present plan of the ablation")
    parser.add_argument("--stop", action="store_true", help="stop only: the same sweep command continues them")
    parser.add_argument("--grace", type=float, default=90.0, metavar="SECONDS", help="time to save a checkpoint (default: %(default)g)")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="show what would be cancelled; change nothing")
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
        print("interrupted: what was marked as cancelled stays so; the same command goes on.", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace) -> int:
    sweeps = find_sweeps(args.root, [args.sweep])
    targets = _targets(args, sweeps)
    if not targets:
        print("Nothing to cancel: no such point runs or waits.")
        return 0
    verb, done = ("stop", "stopped") if args.stop else ("cancel", "cancelled")
    rows = [(t.name, t.state.state, str(t.job.get("job_id", "")), t.obstacle or _what(t, args.stop)) for t in targets]
    print(columns([("point", "state", "job", "what happens"), *rows]))
    for sweep in sweeps:
        if (who := controller(sweep.folder)) and args.stop:
            print(f"{sweep.sweep_id} is being run by {who}: it goes on with its other points; end it with Ctrl-C (kill -INT) to stop all.")
        elif who:
            print(f"{sweep.sweep_id} is being run by {who}: it goes on and sees these points as cancelled.")
    if args.dry_run or not (args.yes or agreed(f"{verb.capitalize()} {len(targets)} point(s)?")):
        print("Nothing was changed.")
        return 0 if args.dry_run else 1
    left = _cancel(targets, args)
    for _ in range(ROUNDS):
        again = [t for t in _targets(args, sweeps) if t.run_dir not in left and t.state.ended.get("by") != BY]
        if not again:
            break
        left |= _cancel(again, args)
    for run_dir, why in left.items():
        print(f"not {done}: {run_dir}: {why}", file=sys.stderr)
    print(f"{len(targets) - len(left)} point(s) {done}.")
    return 1 if left else 0


def _what(target: Target, stop: bool) -> str:
    if target.state.state in ALIVE:
        return "scancel" if target.job.get("executor") == "slurm" else f"SIGTERM, {'continues later' if stop else 'then cancelled'}"
    return "will not be started"


# ---- which points ---------------------------------------------------------------------------------------------------------


def _targets(args: argparse.Namespace, sweeps: Sequence[SweepFolder]) -> list[Target]:
    """The points that run or wait, of those that the options name. To stop, only what runs; cancelled ones are not met again."""
    shared_queue().forget()
    if args.obsolete:
        return _obsolete(args.root, {sweep.ablation for sweep in sweeps})
    states = ALIVE if args.stop else (*ALIVE, *IDLE)
    found: dict[Path, Target] = {}
    for sweep in sweeps:
        chosen = {point.fingerprint for point in sweep.matching(args.only)}
        for row in survey(sweep).rows:
            named = not args.points or any(row.point.name == n or (len(n) > 5 and row.point.fingerprint.startswith(n)) for n in args.points)
            if row.state.state in states and row.point.fingerprint in chosen and named:
                found[row.point.run_dir] = Target(row.point.name, row.point.run_dir, row.state)
    known = {point.name for sweep in sweeps for point in sweep.points} | {p.fingerprint for sweep in sweeps for p in sweep.points}
    strange = [name for name in args.points if not any(k == name or (len(name) > 5 and k.startswith(name)) for k in known)]
    if strange:
        raise ConfigError(f"--points {strange[0]}: there is no such point; sweeps/status.py lists them.")
    return list(found.values())


def _obsolete(root: Path, ablations: set[str]) -> list[Target]:
    """Running points of these ablations that are in no present plan: in none that is newest of its ablation or being run now."""
    newest = {sweep.ablation: sweep for sweep in find_sweeps(root)}
    present = [sweep for sweep in find_sweeps(root) if sweep is newest[sweep.ablation] or controller(sweep.folder)]
    wanted = {point.run_dir.name for sweep in [*newest.values(), *present] for point in sweep.points}
    found = []
    for path in sorted(root.glob("*/sweep.json")):
        origin = read_json(path)
        if origin.get("ablation") in ablations and path.parent.name not in wanted:
            state = state_of(path.parent)
            if state.state in ALIVE:
                name = " ".join(f"{key.rpartition('.')[2]} {value}" for key, value in origin.get("cell", {}).items())
                found.append(Target(f"{origin.get('sweep_id')}: {name}", path.parent, state))
    return found


# ---- the work -------------------------------------------------------------------------------------------------------------


def _cancel(targets: Sequence[Target], args: argparse.Namespace) -> dict[Path, str]:
    """Mark, then signal, then wait. Returns what could not be done, and why."""
    left = {target.run_dir: target.obstacle for target in targets if target.obstacle}
    able = [target for target in targets if target.run_dir not in left]
    running = [target for target in able if target.state.state in ALIVE]
    slurm = [target for target in running if target.job["executor"] == "slurm"]
    cause = "stopped" if args.stop else "cancelled"
    for target in able:
        _mark(target, cause)
    said = scancel([str(target.job["job_id"]) for target in slurm])
    if said:
        left |= {target.run_dir: f"SLURM says: {said}" for target in slurm}
    left |= _end_local([target for target in running if target.job["executor"] == "local"], args.grace)
    for target in running:
        if target.run_dir in left:
            _unmark(target)
        else:
            _mark(target, cause)  # again: a job that began after the first mark would otherwise be younger than its end
    return left


def _end_local(targets: Sequence[Target], grace_s: float) -> dict[Path, str]:
    """SIGTERM, which a job answers by saving and leaving; SIGKILL to its session after the grace. Returns what still lives."""
    for number, patience in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        living = [target for target in targets if job_alive(target.job, {})]
        for target in living:
            pid = int(target.job["pid"])  # the leader of a session of its own
            try:
                os.kill(pid, number) if number == signal.SIGTERM else os.killpg(pid, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + patience
        while any(job_alive(target.job, {}) for target in living) and time.monotonic() < deadline:
            time.sleep(0.1)
    return {target.run_dir: "its process does not end" for target in targets if job_alive(target.job, {})}


def _mark(target: Target, cause: str) -> None:
    """Write how the attempt ends. Nobody hands in a running point, so its record can be changed; a waiting one may be handed in at
    this very moment, and then the new record must win: ours is only put where there is none."""
    if target.state.state in ALIVE:
        note_end(target.run_dir, cause, "", BY, target.job)
        return
    path, mine = target.run_dir / "job.json", target.run_dir / f".job.json.{os.getpid()}.tmp"
    target.run_dir.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        path.rename(mine)
        record = read_json(mine)
    write_atomically(mine, json.dumps({**record, "ended": {"cause": cause, "message": "", "by": BY, "at": time.time()}}, indent=1))
    with contextlib.suppress(FileExistsError):  # else it was handed in: the next look finds it running
        os.link(mine, path)
    mine.unlink()


def _unmark(target: Target) -> None:
    """The job goes on: take the mark back, unless the record speaks of another job by now."""
    path = target.run_dir / "job.json"
    record = read_json(path)
    if record.get("job_id") == target.job.get("job_id") and record.pop("ended", None):
        write_atomically(path, json.dumps(record, indent=1))


if __name__ == "__main__":
    sys.exit(main())
