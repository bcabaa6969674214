"""Common parts of the scripts of sweeps/: the argument parser, tables, and questions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from simvtp.config.experiment_config import RuntimeConfig
from simvtp.console import command_text, printable
from simvtp.errors import UserError


class ScriptParser(argparse.ArgumentParser):
    """Parser of a script: bad input is one sentence and status 2, without the usage text.

    Args:
        name: of the script, which is that of its command in `simvtp`.
        description: first paragraph of its help.
        epilog: last one; calls of the script in it become calls of the command where that runs.
    """

    def __init__(self, name: str, description: str, epilog: str) -> None:
        script = f"python sweeps/{name}.py"
        prog = command_text(script, name)
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog.replace(script, prog),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; --help lists the options.\n")

    def add_root(self) -> None:
        """Adds `--root`, for commands that read what exists."""
        self.add_argument(
            "--root",
            type=Path,
            default=Path(RuntimeConfig.root),
            metavar="DIR",
            help="folder of the runs (default: %(default)s)",
        )


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Returns rows of text as an aligned table, never truncated, so that programs can read it.

    Args:
        rows: the rows, all of one length.
        right: positions of right-aligned columns.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if n in right else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join(line(row) for row in rows)


def confirmed(question: str) -> bool:
    """Asks on the terminal.

    Raises:
        UserError: there is no terminal; names the option that goes ahead.
    """
    if not sys.stdin.isatty():
        raise UserError(
            "there is no terminal to ask on: add --yes to go ahead, or --dry-run to look only."
        )
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
