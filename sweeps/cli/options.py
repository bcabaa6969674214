"""The options that all sweep scripts share, and what they describe: the comparison, and how its
jobs are run.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.design import Ablation, Point
from ablations.search import Search
from simvtp.config.overrides import override, replace_key
from simvtp.config.recipes import RECIPES, get_recipe
from simvtp.config.schema import Experiment
from simvtp.errors import ConfigError
from sweeps.engine.sweep_outcome import Comparison
from sweeps.monitor.overview import Parser, same_value
from sweeps.runner import EXECUTORS, Options
from sweeps.runner.cluster_profile import CLUSTERS, apply_profile
from sweeps.runner.job import ENTRY

CONTINUATIONS = {"slurm": 3, "local": 0, "debug": 0}  # --continue, where it is not given


@dataclass(frozen=True)
class AxisOption:
    """A command-line option that gives the values of one axis, for example `--video-ratios
    0.5,0.9`.
    """

    flag: str
    argument: str  # of the ablation's builder
    help: str
    read: Callable[[str], Any] = float
    metavar: str = "A,B,..."


@dataclass(frozen=True)
class Sweep:
    """What a sweep script has to say: which ablation, which options for its axes, and a help text.
    `search`: its points are proposed one after the other, so there is no grid to choose from.
    `script`: how it is started, the name of a file in this folder and words that come before its
    options; empty: the file of the sweep's own name."""

    name: str
    build: Callable[..., Comparison]
    axes: tuple[AxisOption, ...]
    description: str
    examples: str = ""
    search: bool = False
    script: tuple[str, ...] = ()

    @property
    def program(self) -> str:
        """The beginning of its command line."""
        file, *words = self.script or (self.name,)
        return " ".join([f"python sweeps/{file}.py", *words])


def make_parser(sweep: Sweep) -> argparse.ArgumentParser:
    """All options, in groups."""
    parser = Parser(sweep.name, sweep.description, _epilog(sweep))
    parser.prog = sweep.program
    what = parser.add_argument_group("what is compared")
    for axis in sweep.axes:
        what.add_argument(
            axis.flag,
            dest=axis.argument,
            type=_list_of(axis.read),
            metavar=axis.metavar,
            help=axis.help,
        )
    if sweep.search:
        what.add_argument(
            "--seed",
            dest="seeds",
            type=_list_of(int),
            default=(0,),
            metavar="N",
            help="seed of every experiment (default: 0)",
        )
    else:
        what.add_argument(
            "--full-grid",
            action="store_true",
            help="the paper's whole grid, also for the recipe tiny",
        )
        what.add_argument(
            "--seeds",
            type=_list_of(int),
            default=(0,),
            metavar="A,B,...",
            help="each cell once per seed (default: 0)",
        )
    what.add_argument(
        "--recipe",
        default="tiny",
        metavar="NAME",
        help=f"the base experiment: {', '.join(RECIPES)} (default: tiny)",
    )
    what.add_argument(
        "--data",
        metavar="shapes|PATH",
        help="the embedded data set, or a CSV/Parquet with videoid, path, caption (default: the recipe's)",
    )
    what.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="any setting of the experiment (python -m simvtp settings RECIPE lists them)",
    )

    which = parser.add_argument_group("which of the points")
    if not sweep.search:
        which.add_argument(
            "--only",
            action="append",
            default=[],
            metavar="key=value",
            help="only cells with this value; may be given again",
        )
    which.add_argument(
        "--retry",
        action="store_true",
        help="also run points again that failed or were cancelled in an earlier call",
    )
    which.add_argument(
        "--budget-gpu-hours",
        type=_hours,
        metavar="H",
        help="start no more when so many GPU-hours are spent; running points save and stop",
    )
    which.add_argument(
        "--dry-run",
        action="store_true",
        help="print the points, their fingerprints and states, the cost and the submission; run nothing",
    )
    _add_running(parser)

    where = parser.add_argument_group("where things go")
    where.add_argument("--root", metavar="DIR", help="folder of the runs (default: runs)")
    where.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow address, or off (default: $MLFLOW_TRACKING_URI, or sqlite in the root)",
    )
    where.add_argument(
        "--no-report", action="store_true", help="do not build the report at the end"
    )
    return parser


def _add_running(parser: argparse.ArgumentParser) -> None:
    """How the jobs are run. A cluster profile may give any of these, but for --cluster and
    --detach.
    """
    how = parser.add_argument_group("how they are run")
    how.add_argument(
        "--executor",
        choices=EXECUTORS,
        default="local",
        help="processes here, a SLURM cluster, or in this process (default: local)",
    )
    how.add_argument(
        "--cluster",
        metavar="NAME",
        help=f"defaults from sweeps/clusters/NAME.toml, or a path ({_profiles()})",
    )
    how.add_argument(
        "--detach",
        action="store_true",
        help="return at once: the jobs go on (sweeps/status.py shows them)",
    )
    how.add_argument(
        "--parallel",
        type=_count,
        default=0,
        metavar="N",
        help="jobs at once (default: one per GPU, else one per core up to 8; SLURM: 256)",
    )
    how.add_argument(
        "--gpus",
        "--gpus-per-node",
        type=_count_or_none,
        metavar="N",
        help="GPUs per job, on SLURM per node (default: 1 where there are any; SLURM: none)",
    )
    how.add_argument(
        "--tasks",
        "--tasks-per-node",
        type=_count,
        default=0,
        metavar="N",
        help="processes (ranks) per node that share one experiment (default: one per GPU)",
    )
    how.add_argument(
        "--cpus",
        type=_count,
        default=0,
        metavar="N",
        help="cores per process (default: shared out evenly; SLURM: its own)",
    )
    how.add_argument(
        "--time",
        type=_minutes,
        default=0,
        metavar="[D-]H:MM",
        help="limit per job, also in minutes (default: none; SLURM 24:00)",
    )
    how.add_argument(
        "--continue", dest="continuations", type=_count_or_none, metavar="N",
        help="how often a point whose job was lost is started again without having come further (default: SLURM 3, else 0)",
    )  # fmt: skip
    how.add_argument(
        "--setup",
        action="append",
        default=[],
        metavar="COMMAND",
        help="shell command before each job; may be given again",
    )

    slurm = parser.add_argument_group("SLURM only")
    for name, help_text in (
        ("partition", "partition"),
        ("account", "account"),
        ("qos", "quality of service"),
        ("constraint", "node features"),
    ):
        slurm.add_argument(f"--{name}", default="", metavar="NAME", help=help_text)
    slurm.add_argument(
        "--nodes", type=_count, default=1, metavar="N", help="nodes per job (default: 1)"
    )
    slurm.add_argument("--mem", type=float, default=0, metavar="GB", help="memory per node")
    slurm.add_argument(
        "--signal",
        type=_count,
        default=120,
        metavar="S",
        help="seconds before the limit at which a job saves (default: 120; less where the limit is short)",
    )
    slurm.add_argument(
        "--srun",
        action="append",
        default=[],
        metavar="ARG",
        help="argument for srun (containers, binding); may be given again",
    )
    slurm.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="key=value",
        help="any other option of sbatch; may be given again",
    )


PROFILED = (
    "executor", "parallel", "gpus", "tasks", "cpus", "time", "continuations", "setup",
    "partition", "account", "qos", "constraint", "nodes", "mem", "signal", "srun", "sbatch",
)  # fmt: skip


def _profiles() -> str:
    return "there are: " + ", ".join(sorted(path.stem for path in CLUSTERS.glob("*.toml")))


def read_arguments(sweep: Sweep, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, over the values of the cluster profile that it names."""
    parser = make_parser(sweep)
    args = parser.parse_intermixed_args(arguments)
    if args.cluster:
        apply_profile(parser, args.cluster, PROFILED)
        args = parser.parse_intermixed_args(arguments)
    return args


def _epilog(sweep: Sweep) -> str:
    program = sweep.program
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


def make_comparison(sweep: Sweep, args: argparse.Namespace) -> Comparison:
    """The grid or search that the options describe; ConfigError where they make no sense."""
    base = override(with_data(get_recipe(args.recipe), args.data), args.settings)
    if args.tracking_uri is not None:
        base = replace_key(base, "runtime.tracking_uri", args.tracking_uri)
    root = (
        Path(args.root or base.runtime.root).expanduser().absolute()
    )  # a job may start in another folder
    base = replace_key(base, "runtime.root", str(root))
    values = {
        axis.argument: getattr(args, axis.argument)
        for axis in sweep.axes
        if getattr(args, axis.argument)
    }
    if sweep.search:
        comparison = sweep.build(base, seeds=args.seeds, **values)
    else:
        comparison = sweep.build(base, seeds=args.seeds, full=args.full_grid, **values)
    for text in args.settings:
        key = text.partition("=")[0].strip()
        if key == "seed" or key in _varied(comparison):
            options = " and ".join(axis.flag for axis in sweep.axes)
            option = "--space" if sweep.search else options
            raise ConfigError(
                f"{key} is varied by this sweep: give its values by {('--seed' if sweep.search else '--seeds') if key == 'seed' else option}."
            )
    return comparison


def _varied(comparison: Comparison) -> set[str]:
    if isinstance(comparison, Search):
        return {parameter.key for parameter in comparison.space}
    return {key for axis in comparison.axes for key in (axis.key, *axis.keys)}


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
        tasks=args.tasks,
        cpus=args.cpus,
        mem_gb=args.mem,
        minutes=args.time,
        signal_s=args.signal,
        nodes=args.nodes,
        partition=args.partition,
        account=args.account,
        qos=args.qos,
        constraint=args.constraint,
        setup=tuple(args.setup),
        srun_args=tuple(args.srun),
        slurm=extra,
        continuations=CONTINUATIONS[args.executor]
        if args.continuations is None
        else args.continuations,
        entry=entry,
    )


def selected_points(ablation: Ablation, only: Sequence[str]) -> set[str] | None:
    """Fingerprints of the points that `--only` leaves; None = all."""
    if not only:
        return None
    chosen = list(ablation.points())
    for text in only:
        key, sign, value = text.partition("=")
        names = {name: axis.key for axis in ablation.axes for name in (axis.key, axis.name)} | {
            "seed": "seed"
        }
        if not sign or key not in names:
            raise ConfigError(
                f"--only {text}: write one of {', '.join(names)}, then = and a value of that axis."
            )
        chosen = [point for point in chosen if same_value(_coordinate(point, names[key]), value)]
    if not chosen:
        raise ConfigError(
            f"--only {' --only '.join(only)} leaves no point of the grid; --dry-run lists them."
        )
    return {point.fingerprint for point in chosen}


def _coordinate(point: Point, key: str) -> Any:
    return point.seed if key == "seed" else point.cell[key]


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


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of hours above 0")
    return hours


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
    total = (
        int(found["d"] or 0) * 1440 + int(found["h"]) * 60 + int(found["m"])
        if found
        else int(text)
        if text.isdigit()
        else 0
    )
    if total < 1:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a time such as 90 (minutes), 1:30 or 2-00:00"
        )
    return total
