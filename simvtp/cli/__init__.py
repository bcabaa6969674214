"""Commands of `python -m simvtp`, a few lines each over the library; one module a group.

A parser of a command has `handle`, the function that runs it and returns the exit status. Heavy
modules are imported in these functions: `--help` and errors in the arguments need none of them.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add(commands: Commands, name: str, help: str) -> argparse.ArgumentParser:
    """Adds a sub-command whose description is its line in the list."""
    return commands.add_parser(name, help=help, description=help)
