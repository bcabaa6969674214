"""The commands of `python -m simvtp`, a few lines each over the library. One module a group; each
registers its own parsers.

A parser of a command has `handle`, the function that carries it out and returns the exit status.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add(commands: Commands, name: str, help: str) -> argparse.ArgumentParser:
    """A sub-command whose description is its line in the list."""
    return commands.add_parser(name, help=help, description=help)
