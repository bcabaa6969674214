"""Commands that lie in packages above this one: sweeps, their state, reports.

This package may not import them, so each is a name here, and its module is imported when the
command runs. They are read from the folder that holds this package, also where the working folder
has a `sweeps` or a `reports.py` of its own.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simvtp.cli import add
from simvtp.errors import UserError

if TYPE_CHECKING:
    from simvtp.cli import Commands

HOME = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class OtherProgram:
    """A command of another package.

    Attributes:
        module: its module.
        function: called with the words after the command; returns the exit status.
        help: its line in the list of commands.
    """

    module: str
    function: str
    help: str


PROGRAMS = {
    "sweep": OtherProgram("sweeps.run", "start", "run an ablation, a search, or a file of a sweep"),
    "status": OtherProgram("sweeps.status", "main", "state of each point of the sweeps"),
    "cancel": OtherProgram("sweeps.cancel", "main", "stop points of a sweep"),
    "doctor": OtherProgram("sweeps.doctor", "main", "find and repair what a crash left behind"),
    "report": OtherProgram("reports.build", "main", "tables and figures of the tracked sweeps"),
    "compare": OtherProgram("reports.compare", "main", "what differs between two runs"),
    "ablations": OtherProgram("ablations.__main__", "main", "list what can be compared"),
}


def register(commands: Commands) -> None:
    """Adds the commands to the list; `start_program` runs them."""
    for name, program in PROGRAMS.items():
        add(commands, name, program.help)


def start_program(name: str, arguments: Sequence[str]) -> int:
    """Runs one of the commands; returns the exit status.

    Raises:
        UserError: a package that the command needs is not installed.
    """
    program = PROGRAMS[name]
    try:
        for package in ("ablations", "sweeps", "reports"):
            _own_package(package)
        module = importlib.import_module(program.module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"`simvtp {name}` needs the package {error.name}, which is not installed: "
            "pip install it."
        ) from error
    function: Callable[[Sequence[str]], int] = getattr(module, program.function)
    return function(arguments)


def _own_package(name: str) -> None:
    """Imports a package of this project, whatever else on the import path has its name."""
    found = sys.modules.get(name)
    if (
        found is not None
        and found.__file__
        and Path(found.__file__).resolve().parent == HOME / name
    ):
        return
    spec = importlib.machinery.PathFinder.find_spec(name, [str(HOME)])
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)
