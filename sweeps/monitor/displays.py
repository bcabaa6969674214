"""Displays of a running sweep: a live table on a terminal, plain lines elsewhere, a log file.

The log file gets one line per change of a point's state and a snapshot per minute, so that it stays
readable for sweeps of thousands of points. `sweeps/status.py` draws its table with the same
functions."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from simvtp.console import printable
from simvtp.runs.run_records import RunState
from sweeps.monitor.point_state import ALIVE
from sweeps.monitor.point_view import (
    WAITING,
    PointView,
    SweepView,
    number_columns,
    point_line,
    summary_line,
)

# style of a row; bold for other states
STYLES: dict[str, str] = {
    RunState.FINISHED: "green",
    RunState.FAILED: "red",
    RunState.KILLED: "red",
    RunState.CANCELLED: "yellow",
    RunState.PRUNED: "dim",
    WAITING: "dim",
}
MAX_LINES = 50  # on a pipe, more running points than this are only counted
MAX_LOGGED = 300  # the same in the log file, which gets a snapshot only once a minute


class Display(Protocol):
    """A place for progress."""

    def __enter__(self) -> Display: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def note(self, text: str) -> None:
        """Prints a line."""

    def show(self, view: SweepView, now: bool = False) -> None:
        """Shows the newest view, at once if `now`. Called often."""


@dataclass
class PlainDisplay:
    """Plain lines, for files and pipes.

    Attributes:
        console: the output.
        every_s: seconds between two views; each is one line per running point and one for the
            sweep.
        max_lines: with more running points than this, only the line of the sweep is printed.
    """

    console: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))
    every_s: float = 12.0
    max_lines: int = MAX_LINES
    _last: float = field(default=-math.inf, init=False)

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def note(self, text: str) -> None:
        self.console.print(printable(text), markup=False)
        self.console.file.flush()

    def show(self, view: SweepView, now: bool = False) -> None:
        if not now and time.monotonic() - self._last < self.every_s:
            return
        self._last = time.monotonic()
        lines = []
        if view.count(*ALIVE) <= self.max_lines:
            lines = [
                point_line(point, number, len(view.points))
                for number, point in enumerate(view.points, 1)
                if point.state in ALIVE
            ]
        self.note("\n".join([*lines, summary_line(view)]))


class LiveTable:
    """A table that is redrawn in place; notes scroll above it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> LiveTable:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def note(self, text: str) -> None:
        self.console.print(printable(text), markup=False, highlight=False)

    def show(self, view: SweepView, now: bool = False) -> None:
        self._live.update(sweep_table(view, max(4, self.console.size.height - 8)), refresh=True)


class FileLog:
    """Forwards to another display, and records in a file.

    Recorded are every note, each change of a point's state, and a snapshot once a minute.
    """

    def __init__(self, inner: Display, path: Path, every_s: float = 60.0) -> None:
        self._inner = inner
        # closed in __exit__
        self._file = open(path, "a", encoding="utf-8", errors="replace")  # noqa: SIM115
        console = Console(file=self._file, highlight=False, soft_wrap=True, width=200)
        self._lines = PlainDisplay(console, every_s, MAX_LOGGED)
        self._states: dict[str, str] = {}

    def __enter__(self) -> FileLog:
        self._inner.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._inner.__exit__(kind, error, trace)
        self._file.close()

    def note(self, text: str) -> None:
        self._inner.note(text)
        self._lines.note(f"{_now()} {text}")

    def show(self, view: SweepView, now: bool = False) -> None:
        self._inner.show(view, now)
        changes = self._changes(view)
        if changes:
            self._lines.note("\n".join(changes))
        self._lines.show(view, now)

    def _changes(self, view: SweepView) -> list[str]:
        """Returns a line for each point whose state differs from the last view.

        The first view is a snapshot anyway.
        """
        before, self._states = self._states, {point.name: point.state for point in view.points}
        return [
            f"{_now()} {point.name}: {before[point.name]} -> {point.state}{_location(point)}"
            for point in view.points
            if before.get(point.name, point.state) != point.state
        ]


def make_display(log: Path, every_s: float = 12.0) -> Display:
    """Returns a live table if standard output is a terminal, else plain lines; copied to `log`."""
    console = Console(highlight=False, soft_wrap=True)
    inner: Display = PlainDisplay(console, every_s)
    if console.is_terminal:
        inner = LiveTable(Console(highlight=False))
    log.parent.mkdir(parents=True, exist_ok=True)
    return FileLog(inner, log)


def sweep_table(view: SweepView, rows: int) -> Table:
    """Returns the live table.

    If there are more points than `rows`, running ones come first, then those that need attention;
    waiting and finished ones are left to the summary.
    """
    shown = list(view.points)
    if len(shown) > rows:
        quiet = (RunState.FINISHED, WAITING, *ALIVE)
        running = [point for point in shown if point.state in ALIVE]
        shown = [*running, *(point for point in shown if point.state not in quiet)]
    hidden = len(shown) - rows
    caption = summary_line(view)
    if hidden > 0:
        caption = f"and {hidden} more rows · {caption}"
    return _table(shown[:rows], view.title, caption)


def _table(points: Sequence[PointView], title: str, caption: str) -> Table:
    """Returns a table of these points; node and job only where there are any."""
    drawn = Table(
        title=title, caption=caption, title_justify="left", caption_justify="left", expand=False
    )
    nodes, jobs = any(point.node for point in points), any(point.job for point in points)
    for heading in ("point", "state", *(["node"] if nodes else []), "stage"):
        drawn.add_column(heading, no_wrap=True)
    for heading in ("step", "loss", "clips/s", "ETA"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    if jobs:
        drawn.add_column("job", no_wrap=True)
    drawn.add_column("", overflow="ellipsis", no_wrap=True)
    for point in points:
        drawn.add_row(
            printable(point.name),
            point.state,
            *([point.node] if nodes else []),
            point.stage,
            *number_columns(point),
            *([point.job] if jobs else []),
            printable(point.note),
            style=STYLES.get(point.state, "bold"),
        )
    return drawn


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _location(point: PointView) -> str:
    """Returns ` (node n1, job 12_3)`, as far as it is known."""
    known = [(word, value) for word, value in (("node", point.node), ("job", point.job)) if value]
    return f" ({', '.join(f'{word} {value}' for word, value in known)})" if known else ""
