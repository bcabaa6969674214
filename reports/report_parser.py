"""Command-line parser of the report commands."""

from __future__ import annotations

import argparse
from typing import NoReturn

from simvtp.console import command_text


class ReportParser(argparse.ArgumentParser):
    """Parser that ends with status 2 and one sentence, without the usage text.

    Args:
        script: name of its file in reports/.
        command: its name in `simvtp`.
        description: first paragraph of its help.
        epilog: last one; calls of the script in it become calls of the command where that runs.
    """

    def __init__(self, script: str, command: str, description: str, epilog: str) -> None:
        file = f"python reports/{script}.py"
        prog = command_text(file, command)
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog.replace(file, prog),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Prints the message and exits."""
        self.exit(2, f"{self.prog}: {message}; --help lists the options.\n")
