"""`python -m ablations list`: the comparisons that exist, what each asks, and how far its runs are.
Running them is the work of `sweeps`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ablations import ABLATIONS
from ablations.cost import cpu_minutes
from ablations.design import Ablation
from ablations.search import Search
from ablations.sweep_progress import Standing, standings
from simvtp.config.experiment_config import Experiment, RuntimeConfig
from simvtp.config.recipes import get_recipe
from simvtp.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """List all ablations, or those that are named; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ablations", description=__doc__.partition("\n")[0] if __doc__ else ""
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
        default="tiny",
        metavar="NAME",
        help="the base experiment whose grids are shown (default: tiny)",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(RuntimeConfig.root),
        metavar="DIR",
        help="folder of the runs (default: runs)",
    )
    args = parser.parse_args(arguments)
    try:
        base = get_recipe(args.recipe)
        unknown = [name for name in args.names if name not in ABLATIONS]
        if unknown:
            raise UserError(
                f"there is no ablation '{unknown[0]}': choose of {', '.join(ABLATIONS)}."
            )
        found = standings(args.root)
        for name in args.names or ABLATIONS:
            print(describe(name, base, found.get(name, ())))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def describe(name: str, base: Experiment, sweeps: Sequence[Standing]) -> str:
    """Some lines on one ablation: question, grid, state, command."""
    comparison = ABLATIONS[name](base)
    state = [f"  {sweep.line}" for sweep in sweeps] or ["  not run yet"]
    return "\n".join(
        [
            f"{name}: {comparison.title}",
            f"  {comparison.question}",
            f"  {'space' if isinstance(comparison, Search) else 'grid'} for recipe {base.name}: {_size(comparison)}",
            *state,
            f"  run it: python sweeps/run.py {name}{'' if base.name == 'tiny' else f' --recipe {base.name}'}",
        ]
    )


def _size(comparison: Ablation | Search) -> str:
    if isinstance(comparison, Search):
        return "; ".join(f"{parameter.label} {parameter.words}" for parameter in comparison.space)
    sizes = " x ".join(
        f"{axis.label} ({', '.join(map(str, axis.values))})" for axis in comparison.axes
    )
    if comparison.base.name != "tiny":
        return f"{sizes}, {len(comparison.cells())} cells"
    minutes = sum(cpu_minutes(point.experiment) for point in comparison.points())
    return f"{sizes}, {len(comparison.points())} points, about {minutes:.0f} CPU minutes a seed"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
