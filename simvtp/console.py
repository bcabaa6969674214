"""Text for terminals and spreadsheets: what comes from others is shown, never obeyed or run."""

from __future__ import annotations

import logging
import re
import sys
import unicodedata
from pathlib import Path

# A terminal obeys control characters (moves the cursor, hides lines, changes its title), and
# characters that turn the direction of text make a line read as something else.
_OBEYED = ("Cc", "Cf", "Zl", "Zp", "Cs")
_FORMULA = re.compile(r"[=+\-@]")  # first characters by which spreadsheets recognise a formula
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?%?")
_HARMLESS = "\n\t\u200c\u200d\u00ad"  # line feed, tab, joiners of scripts and emoji, soft hyphen


def printable(text: str) -> str:
    """Returns the text with control and direction characters as escapes, for example `\\x1b`.

    Line feeds and tabs stay. Text that was escaped before is not changed again.
    """
    if text.isprintable():
        return text
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character in _HARMLESS or unicodedata.category(character) not in _OBEYED:
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def without_formula(text: str) -> str:
    """Returns text for a cell of CSV: one that a spreadsheet would run as a formula gets a quote.

    Numbers stay as they are.
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def started_as_command() -> bool:
    """Returns whether this process is `simvtp` or `python -m simvtp`, not a script of a folder."""
    program = Path(sys.argv[0])
    return program.stem == "simvtp" or program.parts[-2:] == ("simvtp", "__main__.py")


def command_text(script: str, command: str) -> str:
    """Returns how a user calls a program: `python sweeps/status.py` or `simvtp status`.

    Args:
        script: the words for a script, such as `python sweeps/status.py`.
        command: the name of the command.
    """
    return f"simvtp {command}" if started_as_command() else script


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def log_to_terminal(level: int, form: str) -> None:
    """Sends log lines to standard error, with control characters as escapes.

    Args:
        level: of the lines that are shown.
        form: format string of `logging`.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter(form))
    logging.basicConfig(level=level, handlers=[handler])
