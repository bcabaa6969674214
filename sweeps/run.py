"""Runs any ablation by its name: `python sweeps/run.py ABLATION --help`, or `--list`.

A file that ends in .yaml is a sweep of one's own, or a call of an ablation (docs/how-to.md).

An ablation with a script of its own (`mask_ratio`, `search`) or with options that are declared next
to it (`losses`, `data_fraction`) has those options here; the others choose their cells by
`--cells`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ablations import ABLATIONS, all_ablations
from ablations.command_line import AxisOption, CommandLine
from simvtp.errors import UserError
from simvtp.plugins import take_plugins
from simvtp.sources.yaml_file import ENDINGS
from sweeps.cli.command import main
from sweeps.cli.sweep_file import script_of_file
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
    """Returns the script of an ablation: its own, or one made from its options.

    A name that ends in .yaml is that of a file (see `sweeps.cli.sweep_file`).

    Raises:
        ConfigError: something in the file is wrong.
    """
    if name.endswith(ENDINGS):
        return script_of_file(Path(name), sweep_for)
    if name in ABLATIONS and importlib.util.find_spec(f"sweeps.{name}") is not None:
        script: SweepScript = importlib.import_module(f"sweeps.{name}").SWEEP
        return replace(script, script=(PROGRAM, name))
    line = _command_line(name)
    return SweepScript(
        name=name,
        build=all_ablations()[name],
        axes=line.axes,
        description=line.description,
        examples=line.examples,
        script=(PROGRAM, name),
    )


def _command_line(name: str) -> CommandLine:
    """Returns the options declared next to the ablation, else those that its builder accepts."""
    build = all_ablations()[name]
    description = (build.__doc__ or "").partition("\n")[0]
    if name in ABLATIONS:
        module = importlib.import_module(f"ablations.{name}")
        declared: CommandLine | None = getattr(module, "COMMAND_LINE", None)
        if declared is not None:
            return declared
        description = (module.__doc__ or "").partition("\n")[0]
    parameters = inspect.signature(build).parameters
    axes = tuple(option for option in (CELLS, WEIGHTS) if option.argument in parameters)
    return CommandLine(axes, description)


def start(arguments: Sequence[str]) -> int:
    """Runs the ablation named by the first argument with the others; returns the exit status."""
    tolerate_encodings()
    try:
        arguments = take_plugins(arguments)
        known_ablations = all_ablations()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if not arguments or arguments[0] in ("-h", "--help", "--list"):
        print("python sweeps/run.py ABLATION [options]; --help after the name lists its options.")
        print("python sweeps/run.py FILE.yaml [options] runs the sweep that a file describes.")
        print("\n".join(["Ablations:", *(f"  {name}" for name in known_ablations)]))
        print("python -m ablations list: the question, grid and progress of each.")
        return 0
    name, *rest = arguments
    if name not in known_ablations and not name.endswith(ENDINGS):
        known = ", ".join(known_ablations)
        near = difflib.get_close_matches(name, known_ablations, 1)
        hint = f"did you mean {near[0]}? There are {known}" if near else f"choose from {known}"
        print(f"there is no ablation '{name}': {hint}, or give a file (.yaml).", file=sys.stderr)
        return 2
    try:
        script = sweep_for(name)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return main(script, rest)


if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
