"""Where the sweeps under a root stand, read from their plans and run directories: what status,
cancel and doctor share.

No job is asked anything, and SLURM is asked once for all of its jobs. Nothing here imports torch,
Optuna, submitit or MLflow, so that an answer about thousands of points takes less than two seconds.
"""

from __future__ import annotations

import argparse
import fcntl
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from simvtp.config.schema import RuntimeConfig
from simvtp.errors import ConfigError, UserError
from simvtp.runs.atomic_files import read_json_or_none
from sweeps.monitor.live_progress import WAITING, PointView, SweepView, counts, look
from sweeps.monitor.run_state import (
    ALIVE,
    CANCELLED,
    FAILED,
    FINISHED,
    KILLED,
    MISSING,
    PRUNED,
    STOPPED,
    PointState,
    failed_rank,
    gpu_hours,
    node,
    read_value,
)
from sweeps.runner.slurm_queue import available, shared_queue, state_of

LOST = "its job went away without a word (killed from outside, or out of memory)"
IDLE = (MISSING, STOPPED, KILLED)  # states that the same sweep command starts or continues


@dataclass(frozen=True)
class PlannedPoint:
    """A point as plan.json has it; looks to a study like a point of an ablation."""

    name: str
    cell: Mapping[str, Any]
    seed: int
    fingerprint: str
    run_dir: Path


@dataclass(frozen=True)
class SweepFolder:
    """A sweep that was started under `root`: `<root>/sweeps/<id>/plan.json`."""

    folder: Path
    root: Path
    plan: Mapping[str, Any]

    @property
    def sweep_id(self) -> str:
        return self.folder.name

    @property
    def ablation(self) -> str:
        return str(self.plan["ablation"])

    @property
    def planned_at(self) -> float:
        """When its plan was last written: when the sweep command was last given."""
        return (self.folder / "plan.json").stat().st_mtime

    @cached_property
    def points(self) -> tuple[PlannedPoint, ...]:
        found = {}
        for point in self.plan["points"]:
            words = [
                f"{key.rpartition('.')[2]} {value}"
                for key, value in {**point["cell"], "seed": point["seed"]}.items()
            ]
            run_dir = self.root / point["fingerprint"][:12]
            name = str(point.get("name") or " ".join(words))
            found[point["fingerprint"]] = PlannedPoint(
                name, point["cell"], point["seed"], point["fingerprint"], run_dir
            )
        return tuple(found.values())

    def matching(self, only: Sequence[str]) -> tuple[PlannedPoint, ...]:
        """The points whose cells have all these values; ConfigError if none has. A key may be
        shortened as long as it fits one axis: `masks.video_ratio=0.9`, `video_ratio=0.9`,
        `video=0.9`, `seed=1`."""
        keys = [*(axis["key"] for axis in self.plan.get("axes", ())), "seed"]
        chosen = self.points
        for text in only:
            short, sign, value = text.partition("=")
            fitting = [key for key in keys if short in (key, key.rpartition(".")[2])] or [
                key for key in keys if short and short in key
            ]
            if not sign or len(fitting) != 1:
                raise ConfigError(
                    f"--only {text}: write one of {', '.join(keys)}, then = and a value of that axis."
                )
            key = fitting[0]
            chosen = tuple(
                p for p in chosen if same_value(p.seed if key == "seed" else p.cell.get(key), value)
            )
        if not chosen:
            raise ConfigError(
                f"--only {' --only '.join(only)} leaves no point of {self.sweep_id}; sweeps/status.py lists them."
            )
        return chosen


def same_value(value: Any, text: str) -> bool:
    try:
        return float(value) == float(text)
    except (TypeError, ValueError):
        return str(value) == text


# ---- which sweeps --------------------------------------------------------------------------------


def find_sweeps(root: Path, names: Sequence[str] = ()) -> list[SweepFolder]:
    """The sweeps under `root`, newest last; with `names` those that they mean (id, beginning of one
    id, or name of an ablation).

    ConfigError where there is none, or where a beginning fits several.
    """
    if not root.is_dir():
        raise ConfigError(f"--root {root}: there is no such folder; give the folder of the runs.")
    every = sorted(
        filter(None, map(_load, root.glob("sweeps/*/plan.json"))),
        key=lambda sweep: (sweep.planned_at, sweep.sweep_id),
    )
    if not names:
        return every
    chosen: dict[str, SweepFolder] = {}
    for name in names:
        exact = [sweep for sweep in every if name in (sweep.sweep_id, sweep.ablation)]
        found = exact or [sweep for sweep in every if sweep.sweep_id.startswith(name)]
        ids = ", ".join(sweep.sweep_id for sweep in found or every)
        if not found:
            raise ConfigError(
                f"no sweep '{name}' under {root}; there {'are: ' + ids if ids else 'is none'}."
            )
        if not exact and len(found) > 1:
            raise ConfigError(
                f"'{name}' fits several sweeps under {root}: {ids}; write more of the id."
            )
        chosen |= {sweep.sweep_id: sweep for sweep in found}
    return list(chosen.values())


def _load(path: Path) -> SweepFolder | None:
    """None for a plan that cannot be read (the doctor speaks of those)."""
    plan = read_json_or_none(path, dict)
    if plan is None or "ablation" not in plan or "points" not in plan:
        return None
    return SweepFolder(path.parent, path.parents[2], plan)


# ---- who runs them -------------------------------------------------------------------------------


def controller(folder: Path) -> str:
    """Who runs the sweep at this moment (`process 12 on n1 (since ...)`); "" if nobody does. Asked
    without taking the lock.
    """
    path = folder / "controller.lock"
    try:
        with open(path, "rb") as file:
            question = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
            answer = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, question))
            return (
                (file.read().decode(errors="replace").strip() or "another process")
                if answer[0] != fcntl.F_UNLCK
                else ""
            )
    except OSError:
        return ""


# ---- how they stand ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """How one point stands. `value`: the plan's metric, once it is measured; hours over all
    attempts.
    """

    point: PlannedPoint
    state: PointState
    view: PointView
    value: float | None
    gpu_hours: float
    cpu_hours: float

    @property
    def log(self) -> str:
        """The log that says most: standard error of what failed, else the output; "" if nothing was
        started.
        """
        keys = (
            ("stderr", "stdout") if self.state.state in (FAILED, KILLED) else ("stdout", "stderr")
        )
        return next((str(path) for key in keys if (path := self.state.job.get(key))), "")


@dataclass(frozen=True)
class Overview:
    """How one sweep stands."""

    sweep: SweepFolder
    rows: tuple[Row, ...]
    controller: str
    answered: bool = True  # False: SLURM was asked and did not answer

    @property
    def gpu_hours(self) -> float:
        return sum(row.gpu_hours for row in self.rows)

    @property
    def cpu_hours(self) -> float:
        return sum(row.cpu_hours for row in self.rows)

    @property
    def finished(self) -> bool:
        return all(row.state.state in (FINISHED, PRUNED) for row in self.rows)

    def view(self) -> SweepView:
        return SweepView(
            f"{self.sweep.sweep_id}: {self.sweep.plan.get('title', '')}",
            tuple(row.view for row in self.rows),
            0.0,
            None,
        )

    def summary(self) -> str:
        """Counts, hours, controller, in one line."""
        hours = (
            f"{self.gpu_hours:.2f} GPU-hours"
            if self.gpu_hours
            else f"{self.cpu_hours:.2f} CPU-hours"
        )
        run_by = f"controller: {self.controller}" if self.controller else "no controller is running"
        silent = "" if self.answered else " · SLURM does not answer: its jobs are taken to be there"
        return f"{counts(self.view())} · {hours} · {run_by}{silent}"


def _queue_says(state: PointState) -> tuple[str, str]:
    """(node, note) of a living job of SLURM: `("n1", "")`, or `("", "PENDING (Resources)")` while
    it waits.
    """
    if state.state not in ALIVE or state.job.get("executor") != "slurm" or not available():
        return "", ""
    job = (shared_queue().jobs() or {}).get(str(state.job["job_id"]))
    if job is None:
        return "", ""
    return job.node, f"{job.state} ({job.reason})" if job.waits else ""


def survey(sweep: SweepFolder) -> Overview:
    """How all points of a sweep stand."""
    metric = str(sweep.plan.get("metric", ""))
    rows = tuple(_row(point, state_of(point.run_dir), metric) for point in sweep.points)
    asked = available() and any(
        row.state.job.get("executor") == "slurm" and row.state.state != FINISHED for row in rows
    )
    return Overview(
        sweep, rows, controller(sweep.folder), not asked or shared_queue().jobs() is not None
    )


def _row(point: PlannedPoint, state: PointState, metric: str) -> Row:
    if state.state == MISSING:
        return Row(point, state, PointView(point.name, WAITING), None, 0.0, 0.0)
    host, waits = _queue_says(state)
    finished = read_value(point.run_dir, metric) if state.state == FINISHED else None
    view = look(
        point.name,
        None,
        point.run_dir,
        state,
        waits or reason(state, point.run_dir),
        metric,
        host or node(point.run_dir),
    )
    hours = gpu_hours(point.run_dir, state.status), float(state.status.get("cpu_hours") or 0.0)
    return Row(point, state, view, finished[0] if finished else None, *hours)


def reason(state: PointState, run_dir: Path) -> str:
    """Why a point is not finished, in one line; "" for one that runs, waits or is finished."""
    if state.state == KILLED:
        return failed_rank(run_dir, float(state.job.get("submitted") or 0)) or state.message or LOST
    words = {
        FAILED: "no reason given",
        STOPPED: "stopped",
        CANCELLED: f"by {state.ended.get('by') or 'somebody'}",
        PRUNED: "pruned",
    }
    return (state.message or words[state.state]) if state.state in words else ""


# ---- what the commands share ---------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """A script of this folder: bad input is one sentence and status 2, without the usage text in
    front of it.
    """

    def __init__(self, name: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=f"python sweeps/{name}.py",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; --help lists the options.\n")

    def add_root(self) -> None:
        """`--root` of the commands that look at what is there."""
        self.add_argument(
            "--root",
            type=Path,
            default=Path(RuntimeConfig.root),
            metavar="DIR",
            help="folder of the runs (default: %(default)s)",
        )


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows of words as an aligned table; never cut, so that it can be read by another program.
    `right`: columns set to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [
        [
            word.rjust(w) if n in right else word.ljust(w)
            for n, (word, w) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
    return "\n".join("  ".join(row).rstrip() for row in cells)


def agreed(question: str) -> bool:
    """Ask on the terminal. Without one, nobody can agree: UserError names the option that does."""
    if not sys.stdin.isatty():
        raise UserError(
            "there is no terminal to ask on: add --yes to go ahead, or --dry-run to look only."
        )
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
