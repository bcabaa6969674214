"""Command `python -m ablations list`: the ablations, their questions and their progress."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablations import ABLATIONS, all_ablations
from ablations.base_recipe import DEFAULT_RECIPE, SMALL_GRID_RECIPES
from ablations.cost import cpu_minutes
from ablations.design import Ablation
from ablations.search import Search
from ablations.sweep_progress import AblationProgress, read_progress
from simvtp.config.experiment_config import Experiment, RuntimeConfig
from simvtp.config.recipes import get_recipe
from simvtp.errors import UserError
from simvtp.plugins import take_plugins


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m ablations",
        description="Lists the ablations, their questions, and how far their runs are.",
    )
    parser.add_argument(
        "command", nargs="?", choices=["list"], default="list", help="show the ablations"
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="ABLATION",
        help=f"only these (default: all): {', '.join(ABLATIONS)}",
    )
    parser.add_argument(
        "--recipe",
        default=DEFAULT_RECIPE,
        metavar="NAME",
        help=f"the base experiment whose grids are shown (default: {DEFAULT_RECIPE})",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(RuntimeConfig.root),
        metavar="DIR",
        help="folder of the runs (default: runs)",
    )
    parser.add_argument("--json", action="store_true", help="everything as one JSON document")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Lists all ablations, or those that are named; returns the exit status."""
    try:
        arguments = take_plugins(arguments)
        builders = all_ablations()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    args = make_parser().parse_args(arguments)
    try:
        base = get_recipe(args.recipe)
        unknown = [name for name in args.names if name not in builders]
        if unknown:
            raise UserError(
                f"there is no ablation '{unknown[0]}': choose from {', '.join(builders)}."
            )
        found = read_progress(args.root)
        if args.json:
            values = [as_json(name, base, found.get(name, ())) for name in args.names or builders]
            print(json.dumps({"ablations": values}, indent=1))
            return 0
        for name in args.names or builders:
            print(describe(name, base, found.get(name, ())))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def describe(name: str, base: Experiment, sweeps: Sequence[AblationProgress]) -> str:
    """Returns some lines on one ablation: question, grid, progress, command."""
    comparison = all_ablations()[name](base)
    progress = [f"  {sweep.line}" for sweep in sweeps] or ["  not run yet"]
    noun = "space" if isinstance(comparison, Search) else "grid"
    recipe = "" if base.name == DEFAULT_RECIPE else f" --recipe {base.name}"
    return "\n".join(
        [
            f"{name}: {comparison.title}",
            f"  {comparison.question}",
            f"  {noun} for recipe {base.name}: {_size(comparison)}",
            *progress,
            f"  run it: python sweeps/run.py {name}{recipe}",
        ]
    )


def as_json(name: str, base: Experiment, sweeps: Sequence[AblationProgress]) -> dict[str, Any]:
    """Returns the same as JSON values."""
    comparison = all_ablations()[name](base)
    size = None if isinstance(comparison, Search) else len(comparison.cells())
    return {
        "name": name,
        "title": comparison.title,
        "question": comparison.question,
        "recipe": base.name,
        "cells": size,
        "sweeps": [dataclasses.asdict(sweep) for sweep in sweeps],
    }


def _size(comparison: Ablation | Search) -> str:
    if isinstance(comparison, Search):
        return "; ".join(f"{parameter.label} {parameter.words}" for parameter in comparison.space)
    sizes = " x ".join(
        f"{axis.label} ({', '.join(map(str, axis.values))})" for axis in comparison.axes
    )
    if comparison.base.name not in SMALL_GRID_RECIPES:
        return f"{sizes}, {len(comparison.cells())} cells"
    points = comparison.points()
    minutes = sum(cpu_minutes(point.experiment) for point in points)
    return f"{sizes}, {len(points)} points, about {minutes:.0f} CPU minutes a seed"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
