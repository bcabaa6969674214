"""How long an experiment takes from its command to its first training step, on this machine:
`python -m simvtp bench start`.

Each measurement is a program of its own, started anew. What it has come to and when, it tells
itself in its status.json (see `simvtp.experiment.startup_timing`); nothing is patched and nothing
is guessed from outside.
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
from simvtp.runs.journal import read_json

MARKS = {
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
class Plan:
    """What is measured: `rounds` times each, of this recipe with these overrides (`key=value`)."""

    recipe: str = "tiny"
    overrides: tuple[str, ...] = ()
    rounds: int = 5
    sweep: bool = True


@dataclass
class Spent:
    """Seconds of the clock and of the processor, a value a round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, wall: float, cpu: float) -> None:
        self.wall.append(wall)
        self.cpu.append(cpu)


@dataclass
class Starts:
    """What was measured. `run` and `point`: mark -> seconds since the command, or since the
    submission of the sweep's job.
    """

    run: dict[str, Spent] = field(default_factory=lambda: {name: Spent() for name in MARKS})
    point: dict[str, Spent] = field(default_factory=lambda: {name: Spent() for name in MARKS})
    tracker: Spent = field(default_factory=Spent)


@dataclass(frozen=True)
class _Ended:
    """A program that has ended: when it was started, the processor seconds of it and its children,
    and what it left.
    """

    began: float
    cpu_s: float
    run_dir: Path

    @property
    def status(self) -> dict[str, Any]:
        return dict(read_json(self.run_dir / "status.json"))


def measure_start(plan: Plan, say: Callable[[str], None] = print) -> Starts:
    """Start the experiment again and again. The first start, which makes data that is missing, does
    not count.

    Raises UserError if the experiment does not come to its first step.
    """
    found = Starts()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _run(plan, folder / "first", tracked=False)
        say("  one start that does not count, which makes the data")
        for number in range(plan.rounds):
            pair = {}
            for tracked in (True, False) if number % 2 else (False, True):
                pair[tracked] = _run(plan, folder / f"{number}-{tracked}", tracked=tracked)
            _add(found.run, pair[True].status["start"], pair[True].began)
            written = (pair[True].run_dir / "mirror.json").stat().st_mtime
            found.tracker.add(
                written - pair[True].status["updated"], pair[True].cpu_s - pair[False].cpu_s
            )
            if plan.sweep:
                ended = _point(plan, folder / f"{number}-sweep")
                _add(
                    found.point,
                    ended.status["start"],
                    read_json(ended.run_dir / "job.json")["submitted"],
                )
            say(f"  round {number + 1} of {plan.rounds}")
    return found


def _add(
    spent: Mapping[str, Spent], start: Mapping[str, Mapping[str, float]], began: float
) -> None:
    for name in MARKS:
        spent[name].add(start[name]["time"] - began, start[name]["cpu_s"])


def _run(plan: Plan, root: Path, tracked: bool) -> _Ended:
    """The pre-training of one step; with the tracker in `root`, or with none."""
    tracker = (
        f"runtime.tracking_uri=sqlite:///{root / 'mlflow.db'}"
        if tracked
        else "runtime.tracking_uri=off"
    )
    return _carried_out(
        [
            "simvtp",
            "pretrain",
            plan.recipe,
            *plan.overrides,
            *SHORT,
            f"runtime.root={root}",
            tracker,
        ],
        root,
    )


def _point(plan: Plan, root: Path) -> _Ended:
    """A sweep of one point, which goes on to its end: with one step of fine-tuning."""
    words = [
        "sweeps.run",
        "mask_ratio",
        "--recipe",
        plan.recipe,
        *POINT,
        "--root",
        str(root),
        "--tracking-uri",
        "off",
    ]
    return _carried_out(
        [*words, *plan.overrides, *SHORT, "finetune.train.max_steps=1", "finetune.evaluations=1"],
        root,
    )


def _carried_out(words: Sequence[str], root: Path) -> _Ended:
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
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise UserError(
            f"bench start: the experiment did not come to its first step; it said: {said[-1] if said else 'nothing'}"
        )
    return _Ended(began, cpu_s, reached[0])


def _children() -> float:
    """Processor seconds of all children that have ended, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def start_page(plan: Plan, starts: Starts) -> str:
    """The page: what takes how long, and under which conditions."""
    compiled = Path(importlib.util.cache_from_source(torch.__file__)).exists()
    settings = " ".join((plan.recipe, *plan.overrides))
    overhead = Spent()
    for one, other in zip(
        _pairs(starts.point[FIRST_STEP]), _pairs(starts.run[FIRST_STEP]), strict=False
    ):
        overhead.add(one[0] - other[0], one[1] - other[1])
    rows = [
        *((f"`run`: {name}", starts.run[mark]) for mark, name in MARKS.items()),
        ("the tracker's first write, into a new store, after the training", starts.tracker),
        *((f"a sweep's point: {name}", starts.point[mark]) for mark, name in MARKS.items()),
        ("a sweep's point over `run`, to the first step", overhead),
    ]
    return "\n".join([
        "# Start-up", "", *conditions(torch.device("cpu")),
        f"| compiled Python | {'yes' if compiled else 'no: Python compiles all libraries at each start; see docs/performance.md'} |", "",
        f"`{settings}`, its data made before; median of {plan.rounds} starts, least and most in brackets. Seconds since the command, or since the "
        "submission of the point's job (local executor); processor seconds are of the process itself, its threads included, without the "
        "supervisor of a point. The tracker: of the clock from the end of the training to its write, of the processor the whole run less one "
        "with tracking off, in turns.", "",
        "| | wall, s | processor, s |", "| --- | --: | --: |",
        *(f"| {name} | {_told(spent.wall)} | {_told(spent.cpu)} |" for name, spent in rows),
    ]) + "\n"  # fmt: skip


def _pairs(spent: Spent) -> zip[tuple[float, float]]:
    return zip(spent.wall, spent.cpu, strict=True)


def _told(values: Sequence[float]) -> str:
    return (
        f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})" if values else "—"
    )
