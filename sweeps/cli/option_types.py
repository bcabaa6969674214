"""Types of command-line options: text to value, with one sentence for what does not fit."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

KINDS: dict[Any, tuple[str, str]] = {
    float: ("numbers", "0.5,0.9"),
    int: ("whole numbers", "0,1,2"),
}


def list_of(read: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """Returns the type of a list with commas, whose parts `read` converts."""

    def parse(text: str) -> tuple[Any, ...]:
        try:
            values = tuple(read(part) for part in text.split(",") if part.strip())
        except ValueError:
            values = ()
        if not values:
            kind, example = KINDS.get(read, ("values", "0.5,0.9"))
            raise argparse.ArgumentTypeError(
                f"'{text}' is not a list of {kind} with commas, such as {example}"
            )
        return values

    return parse


def hours(text: str) -> float:
    """Returns a number of hours above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of hours above 0")
    return value


def positive_number(text: str) -> float:
    """Returns a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return value


def positive_int(text: str) -> int:
    """Returns a whole number above 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def natural_int(text: str) -> int:
    """Returns a whole number, 0 or more."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number")
    return int(text)
