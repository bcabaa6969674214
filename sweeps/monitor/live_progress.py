"""What the user sees while a sweep runs: a live table on a terminal, a line every few seconds
elsewhere, and a log file always.

All of it is read from the run directories (status.json and the tail of journal.jsonl); no job is
asked anything. The log file gets one line for each change of a point's state and a snapshot a
minute, so that it stays readable for sweeps of thousands of points. `sweeps/status.py` draws its
rows with the same functions."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ablations.cost import share_done
from simvtp.config.schema import Experiment
from simvtp.runs.metric_names import MetricName
from simvtp.runs.results import rate_text
from sweeps.monitor.run_state import (
    ALIVE,
    CANCELLED,
    FAILED,
    FINISHED,
    KILLED,
    PRUNED,
    STARTING,
    STOPPED,
    PointState,
    last_lines,
)

WAITING = "waiting"
COLOURS = {
    FINISHED: "green",
    FAILED: "red",
    KILLED: "red",
    CANCELLED: "yellow",
    PRUNED: "dim",
    WAITING: "dim",
}  # others: bold
TAIL_BYTES = 16384
MANY_LINES = 50  # on a pipe, more running points than this are only counted
MANY_LOGGED = 300  # the same in the log file, which gets a snapshot only once a minute


@dataclass(frozen=True)
class PointView:
    """One row: where a point stands. Numbers that are not known are None."""

    name: str
    state: str
    stage: str = ""
    step: int = 0
    total: int = 0
    loss: float | None = None
    clips_per_s: float | None = None
    stage_eta_s: float | None = None
    share: float = 0.0  # of the point's work that is done, estimated
    note: str = ""
    node: str = ""
    job: str = ""
    best: float | None = (
        None  # of a running point: the best validation figure that its journal's tail shows
    )


@dataclass(frozen=True)
class SweepView:
    """All rows, with the time since the start of this call and an estimate of the time left (None:
    not known yet).
    """

    title: str
    points: tuple[PointView, ...]
    elapsed_s: float
    eta_s: float | None

    def count(self, *states: str) -> int:
        return sum(self._counts[state] for state in states)

    @cached_property
    def _counts(self) -> Counter[str]:
        return Counter(point.state for point in self.points)


def look(
    name: str,
    experiment: Experiment | None,
    run_dir: Path,
    state: PointState,
    note: str = "",
    metric: str = "",
    node: str = "",
) -> PointView:
    """The row of one point, from its state and the tail of its journal (which is read for running
    points only).

    `experiment`: needed for the share of the work that is done. `metric`: the plan's, for the best
    figure so far. `node`: where it runs, if the caller knows better than the status."""
    status, job = state.status, str(state.job.get("job_id") or "")
    if state.state == STARTING:  # what lies in the run directory is of an earlier attempt
        return PointView(
            name, state.state, note=note, node=node or str(state.job.get("host") or ""), job=job
        )
    node = node or str(status.get("host") or state.job.get("host") or "")
    if state.state not in ALIVE:
        return PointView(
            name,
            state.state,
            share=float(state.state == FINISHED),
            note=note or state.message,
            node=node,
            job=job,
        )
    stage, step, total = (
        str(status.get("stage", "")),
        int(status.get("step") or 0),
        int(status.get("total_steps") or 0),
    )
    entries = journal_tail(run_dir / "journal.jsonl")
    metrics = newest_metrics(entries, stage)
    return PointView(
        name,
        state.state,
        stage,
        step,
        total,
        _finite(metrics.get("loss/total")),
        _finite(metrics.get("speed/clips_per_s")),
        _finite(metrics.get("speed/eta_s")),
        share_done(experiment, stage, step / total if total else 0.0) if experiment else 0.0,
        note or state.message or ("" if metrics else _last_said(state)),
        node,
        job,
        best_validation(entries, metric),
    )


def _last_said(state: PointState) -> str:
    """The job's last line, for the time in which it prepares its data or scores and has no loss to
    show.
    """
    lines = last_lines(Path(state.job["stdout"]), 1, reach=2048) if state.job.get("stdout") else []
    return lines[0][:100] if lines else ""


def journal_tail(journal: Path, reach: int = TAIL_BYTES) -> list[dict[str, Any]]:
    """The whole lines in the last few kilobytes of a journal; damaged ones are passed over."""
    try:
        with open(journal, "rb") as file:
            file.seek(0, 2)
            start = max(0, file.tell() - reach)
            file.seek(start)
            lines = file.read().split(b"\n")
    except OSError:
        return []
    found = []
    for line in lines[
        1 if start else 0 : -1
    ]:  # the first may be cut by us, the last is empty or not yet whole
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found


def newest_metrics(entries: Sequence[Mapping[str, Any]], stage: str) -> dict[str, float]:
    """The newest value of each metric of that stage."""
    found: dict[str, float] = {}
    for entry in entries:
        if entry.get("kind") == "metrics" and entry.get("stage") == stage:
            found.update(entry.get("metrics", {}))
    return found


def best_validation(entries: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    """The best value on the validation split of the figure that `metric` names: `val/t2v/R1` for
    `test/finetuned/t2v/R1`, `val/accuracy` for `test/finetuned/qa/open-ended/accuracy`."""
    names = [str(name) for name in MetricName.parse(metric).on_validation()]
    metrics = [entry.get("metrics", {}) for entry in entries if entry.get("kind") == "metrics"]
    known = [
        value
        for some in metrics
        for name in names
        if (value := _finite(some.get(name))) is not None
    ]
    better = min if MetricName.parse(metric).lower_is_better else max
    return better(known) if known else None


def estimate(
    points: Sequence[PointView],
    started: Mapping[str, tuple[float, float]],
    durations: Sequence[float],
    slots: int,
) -> float | None:
    """Seconds left for the whole sweep; None while nothing is known.

    Args: started: for each running point the time at which this call first saw it, and the share of
        its work that was done then. durations: seconds that whole points took in this call. slots:
        how many points run at once.
    """
    now, rests, lengths = time.time(), [], list(durations)
    for point in points:
        if point.name not in started or point.state not in ALIVE:
            continue
        since, share = started[point.name]
        gained = point.share - share
        if gained > 0.01:
            length = (now - since) / gained
            lengths.append(length)
            rests.append(length * (1 - point.share))
    if not lengths:
        return None
    length = sum(lengths) / len(lengths)
    alive = sum(point.state in ALIVE for point in points)
    rests += [length] * (alive - len(rests) + sum(point.state == WAITING for point in points))
    return max(sum(rests) / max(1, slots), max(rests, default=0.0))


def line(point: PointView, number: int, of: int) -> str:
    """`[2/5] video 0.90 text 0.75 · pretrain 120/620 · loss 3.21 · 210 clips/s · ETA 1:10`"""
    return " · ".join([f"[{number}/{of}] {point.name}", *_facts(point)])


def summary(view: SweepView) -> str:
    """`1 of 5 points finished, 2 running, 2 waiting · 3:10 so far · about 7:20 left`"""
    left = (
        f" · about {clock(view.eta_s)} left"
        if view.eta_s is not None and view.count(*ALIVE, WAITING)
        else ""
    )
    return f"{counts(view)} · {clock(view.elapsed_s)} so far{left}"


def counts(view: SweepView) -> str:
    """`1 of 5 points finished, 2 running, 2 waiting`: only what there is."""
    words = (
        (ALIVE, "running"),
        ((WAITING,), "waiting"),
        ((STOPPED,), "stopped"),
        ((FAILED, KILLED), "failed"),
        ((CANCELLED,), "cancelled"),
        ((PRUNED,), "pruned"),
    )
    parts = [f"{number} {word}" for states, word in words if (number := view.count(*states))]
    return ", ".join([f"{view.count(FINISHED)} of {len(view.points)} points finished", *parts])


def clock(seconds: float | None) -> str:
    """`1:05`, `2:03:10`, or `?`."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _facts(point: PointView) -> list[str]:
    facts = [
        f"{point.stage} {point.step}/{point.total}" if point.total else point.stage or point.state
    ]
    if point.loss is not None:
        facts.append(f"loss {point.loss:.3g}")
    if point.clips_per_s is not None:
        facts.append(f"{rate_text(point.clips_per_s)} clips/s")
    if point.stage_eta_s is not None:
        facts.append(f"ETA {clock(point.stage_eta_s)}")
    if point.note and point.loss is None:
        facts.append(point.note)
    return facts


class Display(Protocol):
    """Where progress goes. `note` says a thing once, `show` is called often with the newest view."""

    def __enter__(self) -> Display: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def note(self, text: str) -> None: ...
    def show(self, view: SweepView, now: bool = False) -> None: ...


@dataclass
class Lines:
    """Plain lines, for files and pipes: one per running point (unless there are `many`) and one for
    the sweep, at most every `every_s` seconds."""

    console: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))
    every_s: float = 12.0
    many: int = MANY_LINES
    _last: float = field(default=-math.inf, init=False)

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def note(self, text: str) -> None:
        self.console.print(text, markup=False)
        self.console.file.flush()

    def show(self, view: SweepView, now: bool = False) -> None:
        if not now and time.monotonic() - self._last < self.every_s:
            return
        self._last = time.monotonic()
        lines = []
        if view.count(*ALIVE) <= self.many:
            numbered = enumerate(view.points, 1)
            lines = [
                line(point, number, len(view.points))
                for number, point in numbered
                if point.state in ALIVE
            ]
        self.note("\n".join([*lines, summary(view)]))


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
        self.console.print(text, markup=False, highlight=False)

    def show(self, view: SweepView, now: bool = False) -> None:
        self._live.update(table(view, max(4, self.console.size.height - 8)), refresh=True)


def table(view: SweepView, rows: int) -> Table:
    """The live table; where there are more points than `rows`, the running ones come first, then
    those that need somebody; those that wait or are finished are left to the summary."""
    shown = list(view.points)
    if len(shown) > rows:
        running = [point for point in shown if point.state in ALIVE]
        shown = [
            *running,
            *(point for point in shown if point.state not in (FINISHED, WAITING, *ALIVE)),
        ]
    hidden = len(shown) - rows
    caption = f"and {hidden} more rows · {summary(view)}" if hidden > 0 else summary(view)
    return draw(shown[:rows], view.title, caption)


def draw(points: Sequence[PointView], title: str, caption: str) -> Table:
    """A table of these points; node and job only where there are any."""
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
            point.name,
            point.state,
            *([point.node] if nodes else []),
            point.stage,
            *numbers(point),
            *([point.job] if jobs else []),
            point.note,
            style=COLOURS.get(point.state, "bold"),
        )
    return drawn


def numbers(point: PointView) -> tuple[str, str, str, str]:
    """Step, loss, clips/s and ETA as words; empty where unknown."""
    return (
        f"{point.step}/{point.total}" if point.total else "",
        "" if point.loss is None else f"{point.loss:.3g}",
        "" if point.clips_per_s is None else rate_text(point.clips_per_s),
        "" if point.stage_eta_s is None else clock(point.stage_eta_s),
    )


class Logged:
    """Another display, with a record in a file: every note, each change of a point's state, and a
    snapshot once a minute.
    """

    def __init__(self, inner: Display, path: Path, every_s: float = 60.0) -> None:
        self._inner = inner
        self._file = open(path, "a")  # noqa: SIM115  (closed in __exit__)
        self._lines = Lines(
            Console(file=self._file, highlight=False, soft_wrap=True, width=200),
            every_s,
            MANY_LOGGED,
        )
        self._states: dict[str, str] = {}

    def __enter__(self) -> Logged:
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
        self._lines.note(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")

    def show(self, view: SweepView, now: bool = False) -> None:
        self._inner.show(view, now)
        changes = self._changes(view)
        if changes:
            self._lines.note("\n".join(changes))
        self._lines.show(view, now)

    def _changes(self, view: SweepView) -> list[str]:
        """A line for each point whose state is not what it was in the last view (the first view is
        a snapshot anyway).
        """
        before, self._states = self._states, {point.name: point.state for point in view.points}
        changed = [
            point for point in view.points if before.get(point.name, point.state) != point.state
        ]
        at = time.strftime("%Y-%m-%d %H:%M:%S")
        return [
            f"{at} {point.name}: {before[point.name]} -> {point.state}{_place(point)}"
            for point in changed
        ]


def _place(point: PointView) -> str:
    """` (node n1, job 12_3)`, as far as it is known."""
    parts = [
        f"{word} {value}" for word, value in (("node", point.node), ("job", point.job)) if value
    ]
    return f" ({', '.join(parts)})" if parts else ""


def make_display(log: Path | None, every_s: float = 12.0) -> Display:
    """A live table if standard output is a terminal, plain lines otherwise; copied into `log` if
    that is given.
    """
    console = Console(highlight=False, soft_wrap=True)
    inner: Display = (
        LiveTable(Console(highlight=False)) if console.is_terminal else Lines(console, every_s)
    )
    if log is None:
        return inner
    log.parent.mkdir(parents=True, exist_ok=True)
    return Logged(inner, log)


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
