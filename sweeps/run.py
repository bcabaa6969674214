"""Any ablation by its name: `python sweeps/run.py ABLATION --help`, `python sweeps/run.py --list`.

An ablation with a script of its own (`mask_ratio`, `losses`, `data_fraction`, `search`) has its
options here as well; the others choose their cells by `--cells`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from dataclasses import replace

from ablations import ABLATIONS
from sweeps.cli.command import main
from sweeps.cli.options import AxisOption, Sweep

CELLS = AxisOption(
    "--cells",
    "cells",
    "names of the cells to compare, with commas (default: all; for tiny a choice)",
    str,
)
WEIGHTS = AxisOption(
    "--weights",
    "weights",
    "where to start from: video=PLACE, image=PLACE, text=PLACE",
    str,
    "KIND=PLACE,...",
)
PROGRAM = "run"


def sweep_for(name: str) -> Sweep:
    """The sweep of that ablation: that of its script, or one made from its builder's arguments."""
    if importlib.util.find_spec(f"sweeps.{name}") is not None:
        made: Sweep = importlib.import_module(f"sweeps.{name}").SWEEP
        return replace(made, script=(PROGRAM, name))
    build = ABLATIONS[name]
    takes = inspect.signature(build).parameters
    return Sweep(
        name=name,
        build=build,
        axes=tuple(option for option in (CELLS, WEIGHTS) if option.argument in takes),
        description=(importlib.import_module(f"ablations.{name}").__doc__ or "").partition("\n")[0],
        script=(PROGRAM, name),
    )


def start(arguments: Sequence[str]) -> int:
    """Run the ablation that the first argument names with the rest of them; returns the exit
    status.
    """
    if not arguments or arguments[0] in ("-h", "--help", "--list"):
        print(
            "python sweeps/run.py ABLATION [options]; --help after the name lists its options. Ablations:"
        )
        print("\n".join(f"  {name}" for name in ABLATIONS))
        print("python -m ablations list: what each asks, its grid, and how far it is.")
        return 0
    name, *rest = arguments
    if name not in ABLATIONS:
        print(f"there is no ablation '{name}': choose of {', '.join(ABLATIONS)}.", file=sys.stderr)
        return 2
    return main(sweep_for(name), rest)


if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
