"""`bench start`: from the command to the first training step."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from simvtp.errors import UserError

if TYPE_CHECKING:
    from simvtp.cli import Commands


def register(bench: Commands) -> None:
    """Adds the commands of this group."""
    start = bench.add_parser(
        "start",
        help="seconds from the command to the first training step, of `run` and of a sweep's point",
    )
    start.add_argument("--recipe", default="tiny")
    start.add_argument("--rounds", type=int, default=5)
    start.add_argument(
        "--no-sweep",
        action="store_true",
        help="omit the point of a sweep, which runs to its end each time",
    )
    start.add_argument("--out", type=Path, default=None, help="write the page there")
    start.add_argument(
        "overrides", nargs="*", metavar="key=value", help="any setting of the recipe"
    )
    start.set_defaults(handle=_start)


def _start(options: argparse.Namespace) -> int:
    from simvtp.bench.start_up import StartUpOptions, measure_start, start_page
    from simvtp.runs.atomic_files import write_atomically

    if options.rounds < 1:
        raise UserError("bench start needs --rounds of at least 1.")
    overrides = tuple(options.overrides)
    settings = StartUpOptions(options.recipe, overrides, options.rounds, not options.no_sweep)
    page = start_page(settings, measure_start(settings))
    print(page)
    if options.out:
        write_atomically(options.out, page)
    return 0
