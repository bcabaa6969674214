"""Command-line parser of the report commands."""

from __future__ import annotations

import argparse
from typing import NoReturn


class ReportParser(argparse.ArgumentParser):
    """Parser that ends with status 2 and one sentence, without the usage text."""

    def error(self, message: str) -> NoReturn:
        """Prints the message and exits."""
        self.exit(2, f"{self.prog}: {message}; --help lists the options.\n")
