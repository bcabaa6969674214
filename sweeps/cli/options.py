"""Turns the command line into a comparison, a selection of its points, and job options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablations.design import Ablation, Point
from ablations.evidence.stopping_rule import seeds_of_rule
from ablations.evidence.until_decided import UntilDecided
from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override, replace_key
from simvtp.errors import ConfigError
from simvtp.sources.experiment_source import experiment_of
from sweeps.cli.sweep_parser import MOST_SEEDS, SweepScript
from sweeps.monitor.overview import same_value
from sweeps.runner import JobOptions
from sweeps.runner.job import ENTRY
from sweeps.study import Definition, SweepComparison, comparison_of

CONTINUATIONS = {"slurm": 3, "local": 0, "debug": 0}  # default of --continue


def make_comparison(sweep: SweepScript, args: argparse.Namespace) -> Definition:
    """Returns the grid, with or without a stopping rule, or the search of the options.

    Raises:
        ConfigError: the options make no sense.
    """
    base = override(with_data(experiment_of(args.recipe), args.data), args.settings)
    if args.tracking_uri is not None:
        base = replace_key(base, "runtime.tracking_uri", args.tracking_uri)
    # absolute, as a job may start in another folder
    root = Path(args.root or base.runtime.root).expanduser().absolute()
    base = replace_key(base, "runtime.root", str(root))
    given = {axis.argument: getattr(args, axis.argument) for axis in sweep.axes}
    values = {argument: value for argument, value in given.items() if value}
    if not sweep.search:
        values["full"] = args.full_grid
    margin = None if sweep.search else _margin(args)
    seeds = args.seeds
    if margin is not None:
        seeds = seeds_of_rule(args.seeds, args.max_seeds or MOST_SEEDS)
    definition = sweep.build(base, seeds=seeds, **values)
    _check_settings(sweep, args.settings, comparison_of(definition).varied_keys)
    if margin is not None and isinstance(definition, Ablation):
        first = len(dict.fromkeys(args.seeds))
        return UntilDecided(definition, margin, first, args.seed_block or 1)
    return definition


def _margin(args: argparse.Namespace) -> float | None:
    """Returns the margin of --until-decided; None without that option.

    Raises:
        ConfigError: options that do not go with it, or that need it.
    """
    margin: float | None = args.until_decided
    for flag, given in (("--max-seeds", args.max_seeds), ("--seed-block", args.seed_block)):
        if given is not None and margin is None:
            raise ConfigError(f"{flag} belongs to --until-decided MARGIN: give both or neither.")
    if margin is not None and args.only:
        raise ConfigError(
            "--only does not go with --until-decided, whose error rate is that of all cells: "
            "choose the cells by the options of the axes."
        )
    if args.pilot_sd is not None and args.plan_power is None:
        raise ConfigError("--pilot-sd belongs to --plan-power MARGIN: give both or neither.")
    return margin


def _check_settings(sweep: SweepScript, settings: Sequence[str], varied: frozenset[str]) -> None:
    """Raises ConfigError if a setting on the command line is varied by the sweep."""
    seed, axes = ("--seed", "--space") if sweep.search else ("--seeds", "")
    for text in settings:
        key = text.partition("=")[0].strip()
        if key == "seed" or key in varied:
            flags = " and ".join(axis.flag for axis in sweep.axes) or "the axes of its file"
            option = axes or flags
            option = seed if key == "seed" else option
            raise ConfigError(f"{key} is varied by this sweep: give its values by {option}.")


def with_data(base: Experiment, data: str | None) -> Experiment:
    """Returns the experiment with `--data shapes` or `--data PATH`."""
    if data is None:
        return base
    if data == "shapes":
        return override(base, ["data.dataset=shapes", "data.manifest="])
    path = Path(data).expanduser().absolute()
    if not path.is_file():
        raise ConfigError(
            f"--data {data}: there is no such file; give a CSV or Parquet file with videoid, path, "
            "caption, or the word shapes."
        )
    return override(base, ["data.dataset=manifest", f"data.manifest={path}"])


def make_options(args: argparse.Namespace, entry: str = ENTRY) -> JobOptions:
    """Returns the job options of the command line; `entry` runs one experiment."""
    continuations = args.continuations
    if continuations is None:
        continuations = CONTINUATIONS[args.executor]
    return JobOptions(
        executor=args.executor,
        parallel=args.parallel,
        gpus=args.gpus.count if args.gpus else None,
        gpu_kind=args.gpus.kind if args.gpus else "",
        tasks=args.tasks,
        cpus=args.cpus,
        memory=args.mem or "",
        minutes=args.time,
        signal_s=args.signal,
        nodes=args.nodes,
        partition=args.partition,
        account=args.account,
        qos=args.qos,
        constraint=args.constraint,
        setup=tuple(args.setup),
        srun_args=tuple(args.srun),
        slurm=dict(args.sbatch),
        continuations=continuations,
        entry=entry,
    )


def selected_points(comparison: SweepComparison, only: Sequence[str]) -> set[str] | None:
    """Returns the fingerprints of the points that `--only` leaves; None = all.

    Raises:
        ConfigError: none is left, or a key is no axis of the grid.
    """
    if not only:
        return None
    chosen = list(comparison.known_points())
    names = {**comparison.axis_keys, "seed": "seed"}
    for text in only:
        key, sign, value = text.partition("=")
        if not sign or key not in names:
            raise ConfigError(
                f"--only {text}: choose a key from {', '.join(names)}, then = and a value of that "
                "axis."
            )
        chosen = [point for point in chosen if same_value(_coordinate(point, names[key]), value)]
    if not chosen:
        raise ConfigError(
            f"--only {' --only '.join(only)} leaves no point of the grid; --dry-run lists them."
        )
    return {point.fingerprint for point in chosen}


def _coordinate(point: Point, key: str) -> Any:
    return point.seed if key == "seed" else point.cell[key]
