"""The command line that all sweep scripts share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ablations.base_recipe import DEFAULT_RECIPE
from ablations.command_line import AxisOption
from ablations.design import Ablation
from ablations.search import Search
from simvtp.config.recipes import RECIPES
from simvtp.console import command_text
from simvtp.plugins import OPTION, take_plugins
from sweeps.cli.cluster_profile import CLUSTERS, apply_profile
from sweeps.cli.option_types import hours, list_of, natural_int, positive_int, positive_number
from sweeps.cli.script_parser import ScriptParser
from sweeps.cli.slurm_values import gpus, memory, minutes, one_line, sbatch_option
from sweeps.runner import EXECUTORS

# options that a cluster profile may give
PROFILED = (
    "executor", "parallel", "gpus", "tasks", "cpus", "time", "continuations", "setup",
    "partition", "account", "qos", "constraint", "nodes", "mem", "signal", "srun", "sbatch",
)  # fmt: skip
MOST_SEEDS = 20  # default of --max-seeds
DASHED_VALUES = ("--srun", "--sbatch")
SLURM_NAMES = (
    ("partition", "partition"),
    ("account", "account"),
    ("qos", "quality of service"),
    ("constraint", "node features"),
)


@dataclass(frozen=True)
class SweepScript:
    """A sweep script: its ablation, the options of its axes, and its help text.

    Attributes:
        name: of the ablation.
        build: builds it.
        axes: options of its axes.
        description: first paragraph of the help.
        examples: lines for the examples of the help.
        search: points are proposed one after the other, so there is no grid to choose from.
        script: name of the file in sweeps/ and words that come before the options; empty: the file
            with the sweep's own name.
        preset: words that stand before those of the command line, which win.
    """

    name: str
    build: Callable[..., Ablation | Search]
    axes: tuple[AxisOption, ...]
    description: str
    examples: str = ""
    search: bool = False
    script: tuple[str, ...] = ()
    preset: tuple[str, ...] = ()

    @property
    def program(self) -> str:
        """Beginning of its command line."""
        file, *words = self.script or (self.name,)
        return " ".join([command_text(f"python sweeps/{file}.py", "sweep"), *words])


def read_arguments(sweep: SweepScript, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line; a cluster profile that it names gives the defaults."""
    parser = make_parser(sweep)
    given = sys.argv[1:] if arguments is None else arguments
    words = join_values(take_plugins([*sweep.preset, *given]))
    args = parser.parse_intermixed_args(words)
    if args.cluster:
        apply_profile(parser, args.cluster, PROFILED)
        args = parser.parse_intermixed_args(words)
    return args


def join_values(arguments: Sequence[str]) -> list[str]:
    """Joins `--srun --container-image=x` to `--srun=--container-image=x`, for --sbatch too.

    argparse would take the value for another option, as it begins with dashes.
    """
    joined: list[str] = []
    for word in arguments:
        if joined and joined[-1] in DASHED_VALUES and word.startswith("-"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def make_parser(sweep: SweepScript) -> argparse.ArgumentParser:
    """Returns the parser with all options, in groups."""
    parser = ScriptParser(sweep.name, sweep.description, _epilog(sweep))
    parser.prog = sweep.program
    _add_comparison(parser.add_argument_group("what is compared"), sweep)
    _add_selection(parser.add_argument_group("which of the points"), sweep)
    if not sweep.search:
        _add_evidence(parser.add_argument_group("how many seeds"))
    running = parser.add_argument_group("how they are run")
    _add_running(running)
    _add_resources(running)
    _add_slurm(parser.add_argument_group("SLURM only"))
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


Group = Any  # argparse._ArgumentGroup


def _add_comparison(group: Group, sweep: SweepScript) -> None:
    for axis in sweep.axes:
        group.add_argument(
            axis.flag,
            dest=axis.argument,
            type=list_of(axis.read),
            metavar=axis.metavar,
            help=axis.help,
        )
    if sweep.search:
        group.add_argument(
            "--seed",
            dest="seeds",
            type=list_of(int),
            default=(0,),
            metavar="N",
            help="seed of every experiment (default: 0)",
        )
    else:
        group.add_argument(
            "--full-grid",
            action="store_true",
            help="the paper's complete grid, also for a tiny recipe",
        )
        group.add_argument(
            "--seeds",
            type=list_of(int),
            default=(0,),
            metavar="A,B,...",
            help="each cell once per seed (default: 0)",
        )
    group.add_argument(
        "--recipe",
        default=DEFAULT_RECIPE,
        metavar="NAME",
        help=f"the base experiment: {', '.join(RECIPES)}; or a file of settings (.yaml), or a run "
        f"directory (default: {DEFAULT_RECIPE})",
    )
    group.add_argument(
        "--data",
        metavar="shapes|PATH",
        help="the embedded data set, or a CSV/Parquet with videoid, path, caption "
        "(default: the recipe's)",
    )
    group.add_argument(
        OPTION,
        metavar="FILE.py",
        help="load data sets, methods, tasks or ablations of a file (docs/extend.md)",
    )
    group.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="any setting of the experiment (python -m simvtp settings RECIPE lists them)",
    )


def _add_selection(group: Group, sweep: SweepScript) -> None:
    if not sweep.search:
        group.add_argument(
            "--only",
            action="append",
            default=[],
            metavar="key=value",
            help="only cells with this value; may be repeated",
        )
    group.add_argument(
        "--retry",
        action="store_true",
        help="also run points again that failed or were cancelled in an earlier call",
    )
    group.add_argument(
        "--budget-gpu-hours",
        type=hours,
        metavar="H",
        help="start no more once this many GPU-hours are spent; running points save and stop",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print points, fingerprints, states, cost and submission; run nothing",
    )


def _add_evidence(group: Group) -> None:
    how = group.add_mutually_exclusive_group()
    how.add_argument(
        "--until-decided",
        type=positive_number,
        metavar="MARGIN",
        help="add seeds, after those of --seeds (at least 3), only to cells that are neither "
        "different from the baseline nor equivalent to it within MARGIN points of the table's "
        "metric; the error rate of 5 %% holds whenever a cell stops (docs/seeds.md)",
    )
    group.add_argument(
        "--max-seeds",
        type=positive_int,
        metavar="N",
        help=f"most seeds of a cell with --until-decided (default: {MOST_SEEDS})",
    )
    group.add_argument(
        "--seed-block",
        type=positive_int,
        metavar="N",
        help="seeds that are added at a time with --until-decided (default: 1)",
    )
    how.add_argument(
        "--plan-power",
        type=positive_number,
        metavar="MARGIN",
        help="print the seeds that find a difference of MARGIN points of the table's metric, from "
        "the spread of finished runs of the recipe; run nothing",
    )
    group.add_argument(
        "--pilot-sd",
        type=positive_number,
        metavar="SD",
        help="standard deviation between seeds for --plan-power (default: from finished runs)",
    )


def _add_running(group: Group) -> None:
    """Adds the options of all executors.

    A cluster profile may give any of these, except --cluster and --detach.
    """
    group.add_argument(
        "--executor",
        choices=EXECUTORS,
        default="local",
        help="processes here, a SLURM cluster, or in this process (default: local)",
    )
    profiles = ", ".join(sorted(path.stem for path in CLUSTERS.glob("*.toml")))
    group.add_argument(
        "--cluster",
        metavar="NAME",
        help=f"defaults from sweeps/clusters/NAME.toml, or a path (choose from {profiles})",
    )
    group.add_argument(
        "--detach",
        action="store_true",
        help="return at once: the jobs run on (sweeps/status.py shows them)",
    )
    group.add_argument(
        "--parallel",
        type=positive_int,
        default=0,
        metavar="N",
        help="jobs at once (default: one per GPU, else one per core up to 8; SLURM: 256)",
    )


def _add_resources(group: Group) -> None:
    group.add_argument(
        "--gpus",
        "--gpus-per-node",
        type=gpus,
        metavar="[TYPE:]N",
        help="GPUs per job, on SLURM per node (default: 1 where there are any; SLURM: none)",
    )
    group.add_argument(
        "--tasks",
        "--tasks-per-node",
        type=positive_int,
        default=0,
        metavar="N",
        help="processes (ranks) per node that share one experiment (default: one per GPU)",
    )
    group.add_argument(
        "--cpus",
        type=positive_int,
        default=0,
        metavar="N",
        help="cores per process (default: divided evenly; SLURM: its own)",
    )
    group.add_argument(
        "--time",
        type=minutes,
        default=0,
        metavar="TIME",
        help="limit per job as sbatch reads it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S "
        "(default: none; SLURM 24:00:00)",
    )
    group.add_argument(
        "--continue",
        dest="continuations",
        type=natural_int,
        metavar="N",
        help="how often a point whose job was lost is restarted without having made progress "
        "(default: SLURM 3, else 0)",
    )
    group.add_argument(
        "--setup",
        action="append",
        default=[],
        metavar="COMMAND",
        help="shell command before each job; may be repeated",
    )


def _add_slurm(group: Group) -> None:
    for name, help_text in SLURM_NAMES:
        group.add_argument(f"--{name}", type=one_line, default="", metavar="NAME", help=help_text)
    group.add_argument(
        "--nodes", type=positive_int, default=1, metavar="N", help="nodes per job (default: 1)"
    )
    group.add_argument(
        "--mem",
        type=memory,
        metavar="GB",
        help="memory per node, also with one of sbatch's units: 480, 2.5, 500000M",
    )
    group.add_argument(
        "--signal",
        type=positive_int,
        default=120,
        metavar="S",
        help="seconds before the limit at which a job saves (default: 120; less for short limits)",
    )
    group.add_argument(
        "--srun",
        action="append",
        type=one_line,
        default=[],
        metavar="ARG",
        help="argument for srun (containers, binding); may be repeated",
    )
    group.add_argument(
        "--sbatch",
        action="append",
        type=sbatch_option,
        default=[],
        metavar="key[=value]",
        help="any other option of sbatch, also a flag; may be repeated",
    )


def _epilog(sweep: SweepScript) -> str:
    program = sweep.program
    return f"""\
examples:
  {program}                              the demo: {DEFAULT_RECIPE}, embedded data, this machine
  {program} --dry-run                    what would be run, and what exists already
  {program} --data clips.csv --seeds 0,1,2      your own clips, three seeds
  {program} --recipe base --executor slurm --partition gpu --gpus 8 --time 2-00
  {program} pretrain.epochs=2 model.depth=2     any setting by its name
{sweep.examples}
Run the same command again to continue: finished points are not run again, jobs that are still
running are watched, stopped and killed ones continue from their checkpoint, failed ones are tried
again with --retry. Ctrl-C stops local jobs after they have saved a checkpoint.
Exit status: 0 all points finished, 1 some did not, 2 bad input (one sentence says what), 130
stopped."""
