"""Command-line options of an ablation, declared next to it and read by `sweeps`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AxisOption:
    """An option that gives the values of one axis, for example `--video-ratios 0.5,0.9`.

    Attributes:
        flag: the option.
        argument: the parameter of the ablation's builder.
        help: help text.
        read: converts one value.
        metavar: placeholder of the value in the help text.
    """

    flag: str
    argument: str
    help: str
    read: Callable[[str], Any] = float
    metavar: str = "A,B,..."


@dataclass(frozen=True)
class CommandLine:
    """Command line of an ablation in `python sweeps/run.py NAME`.

    Attributes:
        axes: its own options.
        description: the first paragraph of its help.
        examples: lines for the examples of its help.
    """

    axes: tuple[AxisOption, ...]
    description: str
    examples: str = ""
