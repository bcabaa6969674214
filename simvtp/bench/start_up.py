"""Time from the command of an experiment to its first training step: `simvtp bench start`.

Each measurement starts a new process, which records its own progress in its status.json (see
`simvtp.experiment.startup_timing`); nothing is patched and nothing is guessed from outside.
"""

from __future__ import annotations

import importlib.util
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from simvtp.bench.step.step_page import conditions
from simvtp.errors import UserError
from simvtp.runs.atomic_files import read_json

PHASES = {
    "imported": "imports done",
    "data": "data ready",
    "model": "model built",
    "first_step": "first step begins",
}
FIRST_STEP = "first_step"
SHORT = (
    "pretrain.max_steps=1",
    "runtime.sync_every_s=600",
)  # the tracker is written to once, at the end
POINT = (
    "--video-ratios",
    "0.9",
    "--text-ratios",
    "0.75",
    "--parallel",
    "1",
    "--executor",
    "local",
    "--no-report",
)


@dataclass(frozen=True)
class StartUpOptions:
    """Options of a measurement.

    Attributes:
        recipe: The recipe that is started.
        overrides: Its changed settings, `key=value`.
        rounds: Starts of each kind.
        sweep: Also measure a sweep of one point.
    """

    recipe: str = "tiny"
    overrides: tuple[str, ...] = ()
    rounds: int = 5
    sweep: bool = True


@dataclass
class Spent:
    """Wall-clock and CPU seconds, one value a round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, wall: float, cpu: float) -> None:
        self.wall.append(wall)
        self.cpu.append(cpu)


@dataclass
class Starts:
    """Measured start-ups.

    Attributes:
        run: {phase: seconds since the command}.
        point: {phase: seconds since the submission of the sweep's job}.
        tracker: The tracker's first write, into a new store.
    """

    run: dict[str, Spent] = field(default_factory=lambda: {name: Spent() for name in PHASES})
    point: dict[str, Spent] = field(default_factory=lambda: {name: Spent() for name in PHASES})
    tracker: Spent = field(default_factory=Spent)


@dataclass(frozen=True)
class _Ended:
    """A finished process: its start, CPU seconds (children included) and run directory."""

    began: float
    cpu_s: float
    run_dir: Path

    @property
    def status(self) -> dict[str, Any]:
        return dict(read_json(self.run_dir / "status.json"))


def measure_start(options: StartUpOptions, say: Callable[[str], None] = print) -> Starts:
    """Starts the experiment repeatedly; the first start, which makes missing data, is not counted.

    Raises:
        UserError: The experiment does not reach its first step.
    """
    found = Starts()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _run(options, folder / "first", tracked=False)
        say("  one start to make the data, not counted")
        for number in range(options.rounds):
            pair = {}
            for tracked in (True, False) if number % 2 else (False, True):
                pair[tracked] = _run(options, folder / f"{number}-{tracked}", tracked=tracked)
            _add(found.run, pair[True].status["start"], pair[True].began)
            written = (pair[True].run_dir / "mirror.json").stat().st_mtime
            found.tracker.add(
                written - pair[True].status["updated"], pair[True].cpu_s - pair[False].cpu_s
            )
            if options.sweep:
                ended = _point(options, folder / f"{number}-sweep")
                _add(
                    found.point,
                    ended.status["start"],
                    read_json(ended.run_dir / "job.json")["submitted"],
                )
            say(f"  round {number + 1} of {options.rounds}")
    return found


def _add(
    spent: Mapping[str, Spent], start: Mapping[str, Mapping[str, float]], began: float
) -> None:
    for name in PHASES:
        spent[name].add(start[name]["time"] - began, start[name]["cpu_s"])


def _run(options: StartUpOptions, root: Path, tracked: bool) -> _Ended:
    """Runs one step of pre-training; with the tracker in `root`, or with none."""
    tracker = (
        f"runtime.tracking_uri=sqlite:///{root / 'mlflow.db'}"
        if tracked
        else "runtime.tracking_uri=off"
    )
    return _run_module(
        [
            "simvtp",
            "pretrain",
            options.recipe,
            *options.overrides,
            *SHORT,
            f"runtime.root={root}",
            tracker,
        ],
        root,
    )


def _point(options: StartUpOptions, root: Path) -> _Ended:
    """Runs a sweep of one point to its end, with one step of fine-tuning."""
    words = [
        "sweeps.run",
        "mask_ratio",
        "--recipe",
        options.recipe,
        *POINT,
        "--root",
        str(root),
        "--tracking-uri",
        "off",
    ]
    return _run_module(
        [
            *words,
            *options.overrides,
            *SHORT,
            "finetune.train.max_steps=1",
            "finetune.evaluations=1",
        ],
        root,
    )


def _run_module(words: Sequence[str], root: Path) -> _Ended:
    used, began = _children(), time.time()
    done = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, check=False
    )
    cpu_s = _children() - used
    reached = [
        path.parent
        for path in root.glob("*/status.json")
        if FIRST_STEP in read_json(path).get("start", {})
    ]
    if not reached:
        printed = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise UserError(
            "bench start: the experiment did not reach its first step; "
            f"its last line: {printed[-1] if printed else '(nothing printed)'}"
        )
    return _Ended(began, cpu_s, reached[0])


def _children() -> float:
    """Returns the CPU seconds of all children that have ended, their children included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def start_page(options: StartUpOptions, starts: Starts) -> str:
    """Returns the Markdown page: seconds of each phase, and the conditions."""
    compiled = Path(importlib.util.cache_from_source(torch.__file__)).exists()
    uncompiled = "no: Python compiles all libraries at each start; see docs/performance.md"
    overhead = Spent()
    for one, other in zip(
        _pairs(starts.point[FIRST_STEP]), _pairs(starts.run[FIRST_STEP]), strict=False
    ):
        overhead.add(one[0] - other[0], one[1] - other[1])
    rows = [
        *((f"`run`: {name}", starts.run[phase]) for phase, name in PHASES.items()),
        ("the tracker's first write, into a new store, after the training", starts.tracker),
        *((f"a sweep's point: {name}", starts.point[phase]) for phase, name in PHASES.items()),
        ("a sweep's point over `run`, to the first step", overhead),
    ]
    lines = [
        "# Start-up",
        "",
        *conditions(torch.device("cpu")),
        f"| compiled Python | {'yes' if compiled else uncompiled} |",
        "",
        _explanation(options),
        "",
        "| | wall, s | CPU, s |",
        "| --- | --: | --: |",
        *(
            f"| {name} | {_median_and_range(spent.wall)} | {_median_and_range(spent.cpu)} |"
            for name, spent in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def _explanation(options: StartUpOptions) -> str:
    return (
        f"`{' '.join((options.recipe, *options.overrides))}`, with its data made before; median "
        f"of {options.rounds} starts, minimum and maximum in brackets. Seconds since the command, "
        "or since the submission of the point's job (local executor). CPU seconds are those of "
        "the process with its threads, without the supervisor of a point. Tracker: wall-clock "
        "time from the end of the training to its write; CPU time of the whole run less one with "
        "tracking off, in turns."
    )


def _pairs(spent: Spent) -> zip[tuple[float, float]]:
    return zip(spent.wall, spent.cpu, strict=True)


def _median_and_range(values: Sequence[float]) -> str:
    return (
        f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})" if values else "—"
    )
