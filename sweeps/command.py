"""The command line that all sweep scripts share. A script names its ablation and its axis options; everything else is here."""

from __future__ import annotations

import argparse
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ablations.design import Ablation, Point
from simvtp import tracking
from simvtp.config import Experiment
from simvtp.errors import ConfigError, UserError
from simvtp.provenance import without_url_users
from simvtp.recipes import RECIPES, get_recipe
from simvtp.settings import override, replace_key
from sweeps.engine import Outcome, Summary, describe_failure, run_sweep, sweep_folder
from sweeps.job import ENTRY
from sweeps.rundir import ALIVE, FAILED, FINISHED, MISSING
from sweeps.runner import EXECUTORS, Options, is_alive, point_state, require_executor

TRACK_EVERY_S = 20.0  # how often the parent run is brought up to date while points end


@dataclass(frozen=True)
class AxisOption:
    """A command-line option that gives the values of one axis, for example `--video-ratios 0.5,0.9`."""

    flag: str
    argument: str  # of the ablation's builder
    help: str
    read: Callable[[str], Any] = float


@dataclass(frozen=True)
class Sweep:
    """What a sweep script has to say: which ablation, which options for its axes, and a help text."""

    name: str
    build: Callable[..., Ablation]
    axes: tuple[AxisOption, ...]
    description: str
    examples: str = ""


class _Parser(argparse.ArgumentParser):
    """One sentence and status 2, without the usage text in front of it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; --help lists the options.\n")


def main(sweep: Sweep, arguments: Sequence[str] | None = None, entry: str = ENTRY) -> int:
    """Run the command; returns the exit status: 0 all points finished, 1 some did not, 2 bad input, 130 stopped by Ctrl-C.

    `entry` (`module:function`) is what runs one experiment inside a job.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    args = make_parser(sweep).parse_intermixed_args(arguments)
    try:
        ablation = make_ablation(sweep, args)
        selected = _selected(ablation, args.only)
        if args.dry_run:
            return _dry_run(ablation, selected, args)
        return _run(ablation, selected, args, make_options(args, entry))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues.", file=sys.stderr)
        return 130


# ---- the options ----------------------------------------------------------------------------------------------------------


def make_parser(sweep: Sweep) -> argparse.ArgumentParser:
    """All options, in groups."""
    parser = _Parser(
        prog=f"python sweeps/{sweep.name}.py",
        description=sweep.description,
        epilog=_epilog(sweep),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what is compared")
    for axis in sweep.axes:
        what.add_argument(axis.flag, dest=axis.argument, type=_list_of(axis.read), metavar="A,B,...", help=axis.help)
    what.add_argument("--full-grid", action="store_true", help="the paper's whole grid, also for the recipe tiny")
    what.add_argument("--seeds", type=_list_of(int), default=(0,), metavar="A,B,...", help="each cell once per seed (default: 0)")
    what.add_argument("--recipe", default="tiny", metavar="NAME", help=f"the base experiment: {', '.join(RECIPES)} (default: tiny)")
    what.add_argument(
        "--data", metavar="shapes|PATH", help="the embedded data set, or a CSV/Parquet with videoid, path, caption (default: the recipe's)"
    )
    what.add_argument(
        "settings", nargs="*", metavar="key=value", help="any setting of the experiment (python -m simvtp settings RECIPE lists them)"
    )

    which = parser.add_argument_group("which of the points")
    which.add_argument("--only", action="append", default=[], metavar="key=value", help="only cells with this value; may be given again")
    which.add_argument("--retry", action="store_true", help="also run points again that failed in an earlier call")
    which.add_argument("--dry-run", action="store_true", help="print the points, their fingerprints and states; run nothing")

    how = parser.add_argument_group("how they are run")
    how.add_argument(
        "--executor", choices=EXECUTORS, default="local", help="processes here, a SLURM cluster, or in this process (default: local)"
    )
    how.add_argument(
        "--parallel", type=_count, default=0, metavar="N", help="jobs at once (default: one per GPU, else one per core up to 8)"
    )
    how.add_argument(
        "--gpus", type=_count_or_none, metavar="N", help="GPUs per job, on SLURM per node (default: 1 where there are any; SLURM: none)"
    )
    how.add_argument("--cpus", type=_count, default=0, metavar="N", help="cores per job (default: shared out evenly)")
    how.add_argument(
        "--time", type=_minutes, default=0, metavar="[D-]H:MM", help="limit per job, also in minutes (default: none; SLURM 24:00)"
    )
    how.add_argument("--setup", action="append", default=[], metavar="COMMAND", help="shell command before each job; may be given again")

    slurm = parser.add_argument_group("SLURM only")
    for name, help_text in (
        ("partition", "partition"),
        ("account", "account"),
        ("qos", "quality of service"),
        ("constraint", "node features"),
    ):
        slurm.add_argument(f"--{name}", default="", metavar="NAME", help=help_text)
    slurm.add_argument("--nodes", type=_count, default=1, metavar="N", help="nodes per job (default: 1)")
    slurm.add_argument("--mem", type=float, default=0, metavar="GB", help="memory per node")
    slurm.add_argument("--srun", action="append", default=[], metavar="ARG", help="argument for srun; may be given again")
    slurm.add_argument("--sbatch", action="append", default=[], metavar="key=value", help="any other option of sbatch; may be given again")

    where = parser.add_argument_group("where things go")
    where.add_argument("--root", metavar="DIR", help="folder of the runs (default: runs)")
    where.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow address, or off (default: $MLFLOW_TRACKING_URI, or sqlite in the root)"
    )
    where.add_argument("--no-report", action="store_true", help="do not build the report at the end")
    return parser


def _epilog(sweep: Sweep) -> str:
    program = f"python sweeps/{sweep.name}.py"
    common = f"""\
examples:
  {program}                                        the demo: recipe tiny, embedded data, this machine
  {program} --dry-run                              what would be run, and what is there already
  {program} --data clips.csv --seeds 0,1,2         your own clips, three seeds
  {program} --recipe base --executor slurm --partition gpu --gpus 8 --time 2-00:00
  {program} pretrain.epochs=2 model.depth=2        any setting by its name
{sweep.examples}
Run the same command again to continue: finished points are not run again, jobs that are still running are watched, stopped and killed
ones continue from their checkpoint, failed ones are tried again with --retry. Ctrl-C stops local jobs after they saved a checkpoint.
Exit status: 0 all points finished, 1 some did not, 2 bad input (one sentence says what), 130 stopped."""
    return common


def make_ablation(sweep: Sweep, args: argparse.Namespace) -> Ablation:
    """The ablation that the options describe; ConfigError where they make no sense."""
    base = override(with_data(get_recipe(args.recipe), args.data), args.settings)
    if args.tracking_uri is not None:
        base = replace_key(base, "runtime.tracking_uri", args.tracking_uri)
    root = Path(args.root or base.runtime.root).expanduser().absolute()  # a job may start in another folder
    base = replace_key(base, "runtime.root", str(root))
    values = {axis.argument: getattr(args, axis.argument) for axis in sweep.axes if getattr(args, axis.argument)}
    ablation = sweep.build(base, seeds=args.seeds, full=args.full_grid, **values)
    taken = {axis.key for axis in ablation.axes} | {"seed"}
    for text in args.settings:
        key = text.partition("=")[0].strip()
        if key in taken:
            option = "--seeds" if key == "seed" else " and ".join(axis.flag for axis in sweep.axes)
            raise ConfigError(f"{key} is varied by this sweep: give its values by {option}.")
    return ablation


def with_data(base: Experiment, data: str | None) -> Experiment:
    """`--data shapes` or `--data PATH`."""
    if data is None:
        return base
    if data == "shapes":
        return override(base, ["data.dataset=shapes", "data.manifest="])
    path = Path(data).expanduser().absolute()
    if not path.is_file():
        raise ConfigError(
            f"--data {data}: there is no such file; give a CSV or Parquet file with videoid, path, caption, or the word shapes."
        )
    return override(base, ["data.dataset=manifest", f"data.manifest={path}"])


def make_options(args: argparse.Namespace, entry: str = ENTRY) -> Options:
    extra = dict(text.split("=", 1) if "=" in text else (text, "") for text in args.sbatch)
    return Options(
        executor=args.executor,
        parallel=args.parallel,
        gpus=args.gpus,
        cpus=args.cpus,
        mem_gb=args.mem,
        minutes=args.time,
        nodes=args.nodes,
        partition=args.partition,
        account=args.account,
        qos=args.qos,
        constraint=args.constraint,
        setup=tuple(args.setup),
        srun_args=tuple(args.srun),
        slurm=extra,
        entry=entry,
    )


def _selected(ablation: Ablation, only: Sequence[str]) -> set[str] | None:
    """Fingerprints of the points that `--only` leaves; None = all."""
    if not only:
        return None
    chosen = list(ablation.points())
    for text in only:
        key, sign, value = text.partition("=")
        names = {name: axis.key for axis in ablation.axes for name in (axis.key, axis.name)} | {"seed": "seed"}
        if not sign or key not in names:
            raise ConfigError(f"--only {text}: write one of {', '.join(names)}, then = and a value of that axis.")
        chosen = [point for point in chosen if _same(_coordinate(point, names[key]), value)]
    if not chosen:
        raise ConfigError(f"--only {' --only '.join(only)} leaves no point of the grid; --dry-run lists them.")
    return {point.fingerprint for point in chosen}


def _coordinate(point: Point, key: str) -> Any:
    return point.seed if key == "seed" else point.cell[key]


def _same(value: Any, text: str) -> bool:
    try:
        return float(value) == float(text)
    except (TypeError, ValueError):
        return str(value) == text


def _list_of(read: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    def parse(text: str) -> tuple[Any, ...]:
        try:
            values = tuple(read(part) for part in text.split(",") if part.strip())
        except ValueError:
            values = ()
        if not values:
            what = {float: "numbers", int: "whole numbers"}.get(read, "values")  # type: ignore[call-overload]
            raise argparse.ArgumentTypeError(
                f"'{text}' is not a list of {what} with commas, such as {'0,1,2' if read is int else '0.5,0.9'}"
            )
        return values

    return parse


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def _count_or_none(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number")
    return int(text)


def _minutes(text: str) -> int:
    """`90` (minutes), `1:30` (hours:minutes), `2-00:00` (days-hours:minutes), seconds optional."""
    found = re.fullmatch(r"(?:(?P<d>\d+)-)?(?P<h>\d+):(?P<m>\d{2})(?::\d{2})?", text)
    total = int(found["d"] or 0) * 1440 + int(found["h"]) * 60 + int(found["m"]) if found else int(text) if text.isdigit() else 0
    if total < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a time such as 90 (minutes), 1:30 or 2-00:00")
    return total


# ---- the work -------------------------------------------------------------------------------------------------------------


def _run(ablation: Ablation, selected: set[str] | None, args: argparse.Namespace, options: Options) -> int:
    runtime, plan = ablation.base.runtime, ablation.plan()
    require_executor(options)  # before anything is written
    uri = tracking.resolve_uri(runtime)
    if uri is not None:
        print(f"preparing the tracker at {without_url_users(uri)} ...", flush=True)
    parent = tracking.start_sweep(plan, runtime)
    last = [time.monotonic()]

    def track() -> None:
        if parent and time.monotonic() - last[0] > TRACK_EVERY_S:
            tracking.finish_sweep(plan, runtime, final=False)
            last[0] = time.monotonic()

    done = run_sweep(ablation, options, retry=args.retry, selected=selected, parent_run_id=parent or "", on_point=track)
    if parent:
        tracking.finish_sweep(plan, runtime, final=not any(o.state.state in ALIVE for o in done.outcomes))
    _print_summary(ablation, done)
    if any(outcome.state.state == FINISHED for outcome in done.outcomes) and not args.no_report and not done.interrupted:
        _build_report(ablation, uri)
    if uri is not None and parent:
        print(f"\nCompare the runs in the MLflow UI:\n  {tracking.ui_command(uri)}")
    if done.interrupted:
        return 130
    return 1 if done.unfinished else 0


def _dry_run(ablation: Ablation, selected: set[str] | None, args: argparse.Namespace) -> int:
    states = {point.fingerprint: point_state(point) for point in ablation.points()}
    rows, starts = [("point", "fingerprint", "state", "job", "run directory")], 0
    for point in ablation.points():
        state = states[point.fingerprint]
        chosen = selected is None or point.fingerprint in selected
        starts += chosen and state.state not in (FINISHED, *ALIVE) and (state.state != FAILED or args.retry)
        job = str(state.job.get("job_id", "")) if is_alive(state.job, state.status) else ""
        rows.append(
            (point.name, point.fingerprint[:12], state.state if chosen else f"{state.state}, not selected", job, str(point.run_dir))
        )
    sizes = " x ".join(str(len(axis.values)) for axis in ablation.axes)
    print(f"{ablation.sweep_id}: {ablation.title}, {sizes} cells, seeds {', '.join(map(str, ablation.seeds))}")
    print(f"recipe {ablation.base.name}, data {ablation.plan()['dataset']}, sweep directory {sweep_folder(ablation)}\n")
    print(_columns(rows))
    counts: dict[str, int] = {}
    for state in states.values():
        counts[state.state] = counts.get(state.state, 0) + 1
    found = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    print(f"\n{len(states)} points: {found}. This command would start {starts} ({args.executor} executor). Nothing was run.")
    return 0


def _columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows of words as an aligned table; never cut, so that it can be read by another program. `right`: columns set to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    cells = [[word.rjust(w) if n in right else word.ljust(w) for n, (word, w) in enumerate(zip(row, widths, strict=True))] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in cells)


def _print_summary(ablation: Ablation, done: Summary) -> None:
    rows: list[tuple[str, ...]] = [("point", ablation.metric_label, "chance", "times chance", "state")]
    rows += [(outcome.point.name, *_figures(outcome), outcome.state.state) for outcome in done.outcomes]
    print(f"\n{ablation.title}\n{_columns(rows, right=(1, 2, 3))}")
    failed = [outcome for outcome in done.unfinished if outcome.state.state not in (*ALIVE, MISSING)]
    for outcome in failed:
        print(f"\n{describe_failure(outcome, short=True)}")
    if any(outcome.state.state == FAILED for outcome in failed):
        print("\nFailed points are tried again with --retry.")
    if any(outcome.state.state != FAILED for outcome in done.unfinished):
        print("\nThe same command continues what was stopped.")
    print(f"\nSweep directory: {done.sweep_dir}")


def _figures(outcome: Outcome) -> tuple[str, str, str]:
    if outcome.value is None:
        return "—", "", ""
    if not outcome.chance:
        return f"{outcome.value:.2f}", "", ""
    return f"{outcome.value:.2f}", f"{outcome.chance:.2f}", f"{outcome.value / outcome.chance:.1f}"


def _build_report(ablation: Ablation, uri: str | None) -> None:
    """The report is another program: it reads the tracker, and nothing of this one."""
    command = [sys.executable, "-m", "reports.build", ablation.name, "--sweep", ablation.sweep_id]
    if uri is None:
        print("\nNo report: it is made from the tracked runs, and tracking is off.")
        return
    print(f"\nBuilding the report: {' '.join(['python', *command[1:]])}", flush=True)
    done = subprocess.run(command, env=os.environ | {"MLFLOW_TRACKING_URI": uri}, check=False)
    if done.returncode:
        print("The report was not built (see above); the results are safe, and the command can be given again.", file=sys.stderr)
