"""Runs any ablation by its name: `python sweeps/run.py ABLATION --help`, or `--list`.

An ablation with a script of its own (`mask_ratio`, `search`) or with options that are declared next
to it (`losses`, `data_fraction`) has those options here; the others choose their cells by
`--cells`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from dataclasses import replace

from ablations import ABLATIONS
from ablations.command_line import AxisOption, CommandLine
from sweeps.cli.command import main
from sweeps.cli.sweep_parser import SweepScript
from sweeps.monitor.text_streams import tolerate_encodings

CELLS = AxisOption(
    "--cells",
    "cells",
    "names of the cells to compare, with commas (default: all; for the tiny recipes a selection)",
    str,
)
WEIGHTS = AxisOption(
    "--weights",
    "weights",
    "initial weights: video=FILE, image=FILE, text=FILE",
    str,
    "KIND=FILE,...",
)
PROGRAM = "run"


def sweep_for(name: str) -> SweepScript:
    """Returns the script of an ablation: its own, or one made from its options."""
    if importlib.util.find_spec(f"sweeps.{name}") is not None:
        script: SweepScript = importlib.import_module(f"sweeps.{name}").SWEEP
        return replace(script, script=(PROGRAM, name))
    line = _command_line(name)
    return SweepScript(
        name=name,
        build=ABLATIONS[name],
        axes=line.axes,
        description=line.description,
        examples=line.examples,
        script=(PROGRAM, name),
    )


def _command_line(name: str) -> CommandLine:
    """Returns the options declared next to the ablation, else those that its builder accepts."""
    module = importlib.import_module(f"ablations.{name}")
    declared: CommandLine | None = getattr(module, "COMMAND_LINE", None)
    if declared is not None:
        return declared
    parameters = inspect.signature(ABLATIONS[name]).parameters
    axes = tuple(option for option in (CELLS, WEIGHTS) if option.argument in parameters)
    return CommandLine(axes, (module.__doc__ or "").partition("\n")[0])


def start(arguments: Sequence[str]) -> int:
    """Runs the ablation named by the first argument with the others; returns the exit status."""
    tolerate_encodings()
    if not arguments or arguments[0] in ("-h", "--help", "--list"):
        print("python sweeps/run.py ABLATION [options]; --help after the name lists its options.")
        print("\n".join(["Ablations:", *(f"  {name}" for name in ABLATIONS)]))
        print("python -m ablations list: the question, grid and progress of each.")
        return 0
    name, *rest = arguments
    if name not in ABLATIONS:
        known = ", ".join(ABLATIONS)
        print(f"there is no ablation '{name}': choose from {known}.", file=sys.stderr)
        return 2
    return main(sweep_for(name), rest)


if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
