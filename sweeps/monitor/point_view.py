"""The rows that a user sees: state and progress of each point, read from its run directory.

Read are status.json and the tail of journal.jsonl; no job is asked anything."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ablations.cost import fraction_done
from simvtp.config.experiment_config import Experiment
from simvtp.runs.metric_names import MetricName
from simvtp.runs.results import rate_text
from simvtp.runs.run_records import RunState
from sweeps.monitor.point_state import ALIVE, PointState, last_lines

WAITING = "waiting"  # state of a point that will be started
TAIL_BYTES = 16384


@dataclass(frozen=True)
class PointView:
    """One row. Numbers that are not known are None.

    Attributes:
        name: of the point.
        state: a RunState, or WAITING.
        stage: present stage.
        step: steps done in it.
        total: steps of the stage.
        loss: newest loss.
        clips_per_s: newest speed.
        stage_eta_s: seconds left in the stage.
        fraction: estimated fraction of the point's work that is done.
        note: a short text.
        node: machine.
        job: id of the job.
        best: of a running point, the best validation value in its journal's tail.
    """

    name: str
    state: str
    stage: str = ""
    step: int = 0
    total: int = 0
    loss: float | None = None
    clips_per_s: float | None = None
    stage_eta_s: float | None = None
    fraction: float = 0.0
    note: str = ""
    node: str = ""
    job: str = ""
    best: float | None = None


@dataclass(frozen=True)
class SweepView:
    """All rows of a sweep.

    Attributes:
        title: of the sweep.
        points: the rows.
        elapsed_s: time since the start of this call.
        eta_s: estimated time left; None if not known yet.
    """

    title: str
    points: tuple[PointView, ...]
    elapsed_s: float
    eta_s: float | None

    def count(self, *states: str) -> int:
        """Returns the number of rows in these states."""
        return sum(self._counts[state] for state in states)

    @cached_property
    def _counts(self) -> Counter[str]:
        return Counter(point.state for point in self.points)


def point_view(
    name: str,
    experiment: Experiment | None,
    run_dir: Path,
    state: PointState,
    note: str = "",
    metric: str = "",
    node: str = "",
) -> PointView:
    """Returns the row of one point.

    Args:
        name: of the point.
        experiment: needed for the fraction of the work that is done.
        run_dir: its run directory; the journal is read for running points only.
        state: its state.
        note: text that replaces the one from the run directory.
        metric: the plan's, for the best value so far.
        node: the machine, if the caller knows better than status.json.
    """
    host = state.job.host if state.job else ""
    if state.state == RunState.STARTING:  # the run directory shows an earlier attempt
        return PointView(name, state.state, note=note, node=node or host, job=state.job_id)
    status = state.status
    node = node or (status.host if status else "") or host
    if not state.alive or status is None:
        finished = float(state.state == RunState.FINISHED)
        text = note or state.message
        return PointView(
            name, state.state, fraction=finished, note=text, node=node, job=state.job_id
        )
    entries = journal_tail(run_dir / "journal.jsonl")
    metrics = newest_metrics(entries, status.stage)
    of_stage = status.step / status.total_steps if status.total_steps else 0.0
    return PointView(
        name,
        state.state,
        status.stage,
        status.step,
        status.total_steps,
        loss=_finite(metrics.get("loss/total")),
        clips_per_s=_finite(metrics.get("speed/clips_per_s")),
        stage_eta_s=_finite(metrics.get("speed/eta_s")),
        fraction=fraction_done(experiment, status.stage, of_stage) if experiment else 0.0,
        note=note or state.message or ("" if metrics else _last_line(state)),
        node=node,
        job=state.job_id,
        best=best_validation(entries, metric),
    )


def _last_line(state: PointState) -> str:
    """Returns the job's last line, for the time before it has a loss to show."""
    if state.job is None or not state.job.stdout:
        return ""
    lines = last_lines(Path(state.job.stdout), 1, reach=2048)
    return lines[0][:100] if lines else ""


def journal_tail(journal: Path, reach: int = TAIL_BYTES) -> list[dict[str, Any]]:
    """Returns the complete lines in the last few kilobytes of a journal; skips damaged ones."""
    try:
        with open(journal, "rb") as file:
            file.seek(0, 2)
            start = max(0, file.tell() - reach)
            file.seek(start)
            lines = file.read().split(b"\n")
    except OSError:
        return []
    found = []
    # the first line may start before the tail, the last is empty or incomplete
    for line in lines[1 if start else 0 : -1]:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found


def newest_metrics(entries: Sequence[Mapping[str, Any]], stage: str) -> dict[str, float]:
    """Returns the newest value of each metric of that stage."""
    found: dict[str, float] = {}
    for entry in entries:
        if entry.get("kind") == "metrics" and entry.get("stage") == stage:
            found.update(entry.get("metrics", {}))
    return found


def best_validation(entries: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    """Returns the best validation value of the quantity that `metric` names; None without any.

    That is `val/t2v/R1` for `test/finetuned/t2v/R1`, and `val/accuracy` for
    `test/finetuned/qa/open-ended/accuracy`.
    """
    wanted = MetricName.parse(metric)
    names = [str(name) for name in wanted.on_validation()]
    metrics = [entry.get("metrics", {}) for entry in entries if entry.get("kind") == "metrics"]
    values = [_finite(some.get(name)) for some in metrics for name in names]
    known = [value for value in values if value is not None]
    if not known:
        return None
    return min(known) if wanted.lower_is_better else max(known)


def estimate(
    points: Sequence[PointView],
    started: Mapping[str, tuple[float, float]],
    durations: Sequence[float],
    slots: int,
) -> float | None:
    """Returns the estimated seconds left for the whole sweep; None while nothing is known.

    Args:
        points: all rows.
        started: for each running point the time at which this call first saw it, and the fraction
            of its work that was done then.
        durations: seconds that complete points took in this call.
        slots: points that run at once.
    """
    now, remaining, lengths = time.time(), list[float](), list(durations)
    for point in points:
        if point.name not in started or point.state not in ALIVE:
            continue
        since, fraction = started[point.name]
        gained = point.fraction - fraction
        if gained > 0.01:
            length = (now - since) / gained
            lengths.append(length)
            remaining.append(length * (1 - point.fraction))
    if not lengths:
        return None
    length = sum(lengths) / len(lengths)
    alive = sum(point.state in ALIVE for point in points)
    waiting = sum(point.state == WAITING for point in points)
    remaining += [length] * (alive - len(remaining) + waiting)
    return max(sum(remaining) / max(1, slots), max(remaining, default=0.0))


def point_line(point: PointView, number: int, of: int) -> str:
    """Returns the row as a line.

    `[2/5] video 0.90 text 0.75 · pretrain 120/620 · loss 3.21 · 210 clips/s · ETA 1:10`
    """
    return " · ".join([f"[{number}/{of}] {point.name}", *_parts(point)])


def summary_line(view: SweepView) -> str:
    """Returns `1 of 5 points finished, 2 running, 2 waiting · 3:10 so far · about 7:20 left`."""
    known = view.eta_s is not None and view.count(*ALIVE, WAITING)
    left = f" · about {format_duration(view.eta_s)} left" if known else ""
    return f"{count_line(view)} · {format_duration(view.elapsed_s)} so far{left}"


def count_line(view: SweepView) -> str:
    """Returns `1 of 5 points finished, 2 running, 2 waiting`, without what is zero."""
    words = (
        (ALIVE, "running"),
        ((WAITING,), "waiting"),
        ((RunState.STOPPED,), "stopped"),
        ((RunState.FAILED, RunState.KILLED), "failed"),
        ((RunState.CANCELLED,), "cancelled"),
        ((RunState.PRUNED,), "pruned"),
    )
    parts = [f"{number} {word}" for states, word in words if (number := view.count(*states))]
    finished = view.count(RunState.FINISHED)
    return ", ".join([f"{finished} of {len(view.points)} points finished", *parts])


def format_duration(seconds: float | None) -> str:
    """Returns `1:05`, `2:03:10`, or `?`."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def number_columns(point: PointView) -> tuple[str, str, str, str]:
    """Returns step, loss, clips/s and ETA as text; empty where unknown."""
    return (
        f"{point.step}/{point.total}" if point.total else "",
        "" if point.loss is None else f"{point.loss:.3g}",
        "" if point.clips_per_s is None else rate_text(point.clips_per_s),
        "" if point.stage_eta_s is None else format_duration(point.stage_eta_s),
    )


def _parts(point: PointView) -> list[str]:
    step, loss, speed, eta = number_columns(point)
    parts = [f"{point.stage} {step}" if step else point.stage or point.state]
    parts += [f"loss {loss}"] if loss else []
    parts += [f"{speed} clips/s"] if speed else []
    parts += [f"ETA {eta}"] if eta else []
    parts += [point.note] if point.note and not loss else []
    return parts


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
