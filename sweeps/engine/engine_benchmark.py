"""Measures the cost of the engine: `python -m sweeps.engine.engine_benchmark overhead|scale`.

The experiment is empty, so that only the engine is measured: `overhead` times single points, one
after the other; `scale` runs thousands of them and counts lost and repeated ones, the memory of the
controller, the time of status.py and the calls of squeue. Results go to results/sweep_engine/ with
--write."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ablations import mask_ratio
from ablations.design import Ablation
from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override
from simvtp.config.tiny_recipes import tiny
from simvtp.errors import UserError
from simvtp.runs import provenance
from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.attempts import attempts
from simvtp.runs.results import Protocol, Result
from simvtp.runs.run_records import RunState
from simvtp.runs.rundir import StatusWriter
from sweeps.engine.sweep_engine import run_sweep
from sweeps.monitor.point_state import read_state
from sweeps.runner import EXECUTORS, JobOptions, require_executor
from sweeps.runner.slurm_queue import SlurmQueue
from sweeps.study import sweep_folder

ENTRY = "sweeps.engine.engine_benchmark:nothing"
METRICS = ("R1", "R5", "R10", "R50", "MdR", "MnR")


def nothing(experiment: Experiment, *, say: object = print) -> list[Result]:
    """Runs an empty experiment: writes that it runs, its results, and that it has finished."""
    folder = experiment.run_dir
    (folder / "began.txt").write_text(str(time.time()))
    with StatusWriter(folder, writes=True) as status:
        status.update(stage="pretrain", step=0, total_steps=0)
        setting = "finetuned" if experiment.finetune.enabled else "zero-shot"
        protocol = Protocol(
            "retrieval",
            "none",
            "test",
            setting,
            "t2v",
            0,
            0,
            0,
            "pessimistic",
            experiment.seed,
            "0" * 64,
        )
        result = Result(protocol, dict.fromkeys(METRICS, 0.0), dict.fromkeys(METRICS, 0.0), 1, 1)
        write_atomically(folder / "results.json", json.dumps([result.to_dict()]))
    (folder / "ended.txt").write_text(str(time.time()))
    return [result]


@dataclass
class ControllerSamples:
    """Samples of the controller, one after each point.

    Attributes:
        ended_at: times at which it recorded the end of a point.
        memory_mib: its memory at these times.
    """

    ended_at: list[float] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)

    def __call__(self) -> None:
        self.ended_at.append(time.time())
        self.memory_mib.append(psutil.Process().memory_info().rss / 2**20)


def grid(root: Path, points: int) -> Ablation:
    """Returns a grid of `points` empty experiments: one cell, many seeds."""
    base = override(tiny(), [f"runtime.root={root}", "runtime.tracking_uri=off"])
    return mask_ratio.build(base, video_ratios=(0.5,), text_ratios=(0.5,), seeds=range(points))


def run(options: JobOptions, root: Path, points: int) -> dict[str, object]:
    """Runs the grid and returns what it cost; raises UserError if the folder is not empty."""
    if root.exists() and any(root.iterdir()):
        raise UserError(
            f"--root {root} is not empty: choose a new folder, so that nothing is finished already."
        )
    ablation, samples, queue = grid(root, points), ControllerSamples(), SlurmQueue()
    size = len(ablation.points())
    began = time.time()
    run_sweep(ablation, options, on_point=samples, every_s=30.0, queue=queue)
    took = time.time() - began
    states = [read_state(point.run_dir) for point in ablation.points()]
    started = [len(attempts(point.run_dir)) for point in ablation.points()]
    waits = sorted(
        _seconds(point.run_dir / "began.txt") - state.submitted
        for point, state in zip(ablation.points(), states, strict=True)
    )
    ends = sorted(_seconds(point.run_dir / "ended.txt") for point in ablation.points())
    status_s = _status(root, ablation.sweep_id)
    tenth = max(1, size // 10)
    return {
        "points": size,
        "executor": options.executor,
        "jobs at once": options.parallel,
        "seconds": round(took, 1),
        "seconds a point": round(took / size, 3),
        "finished": sum(state.state == RunState.FINISHED for state in states),
        "started more than once": sum(count > 1 for count in started),
        "never started": sum(count == 0 for count in started),
        "submission to the experiment's first line, s (median, worst)": _pair(waits),
        "last line to the controller's record, s (median, worst)": _pair(
            sorted(t - e for t, e in zip(sorted(samples.ended_at), ends, strict=False))
        ),
        "controller memory after a tenth of the points and at the end, MiB": (
            f"{samples.memory_mib[tenth - 1]:.0f}, {samples.memory_mib[-1]:.0f}"
        ),
        "status.py, s (three calls)": ", ".join(f"{seconds:.2f}" for seconds in status_s),
        "squeue calls": queue.calls,
        "files in the sweep's folder": sum(
            len(files) for _, _, files in os.walk(sweep_folder(ablation))
        ),
    }


def imports_s() -> float:
    """Returns the median time in seconds that a job's Python takes to start and to import."""

    def once() -> float:
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-c", "import numpy, submitit.core._submit, sweeps.runner.point"],
            check=True,
        )
        return time.monotonic() - began

    return statistics.median(once() for _ in range(5))


def _status(root: Path, sweep_id: str) -> list[float]:
    script, found = Path(__file__).resolve().parents[1] / "status.py", []
    for _ in range(3):
        began = time.monotonic()
        subprocess.run(
            [sys.executable, str(script), sweep_id, "--root", str(root), "--all"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        found.append(time.monotonic() - began)
    return found


def _seconds(path: Path) -> float:
    return float(path.read_text()) if path.exists() else float("nan")


def _pair(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f}, {max(values):.2f}" if values else "—"


def _page(command: str, figures: dict[str, object]) -> str:
    where = provenance.capture()
    lines = [
        f"# Cost of the engine: {figures['points']} empty points, {figures['executor']} executor",
        "",
    ]
    lines += [
        f"Command: `{command}`  ",
        f"Commit: {where.commit[:12]}{' with changes' if where.dirty else ''}  ",
    ]
    lines += [
        f"Machine: {where.cpu}, {len(os.sched_getaffinity(0))} cores, "
        f"Python {platform.python_version()}",
        "",
        "| what | figure |",
        "|---|---|",
    ]
    return "\n".join(lines + [f"| {key} | {value} |" for key, value in figures.items()]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sweeps.engine.engine_benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("overhead", "scale"))
    parser.add_argument("--executor", choices=EXECUTORS, default="local")
    parser.add_argument(
        "--points", type=int, default=0, help="default: overhead 20, scale 2000 (slurm 300)"
    )
    parser.add_argument(
        "--parallel",
        type=int,
        default=0,
        help="jobs at once (default: overhead 1, scale one per core)",
    )
    parser.add_argument("--root", type=Path, required=True, help="an empty folder")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="also write the figures as Markdown"
    )
    given = parser.parse_args(arguments)
    single = given.what == "overhead"
    points = given.points or (20 if single else 300 if given.executor == "slurm" else 2000)
    options = JobOptions(
        executor=given.executor,
        parallel=given.parallel or int(single),
        minutes=30,
        entry=ENTRY,
        memory="1G",
        continuations=3,
    )
    try:
        require_executor(options)
        figures = run(options, given.root.absolute(), points)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    figures["of that, Python's start and imports, s (median of five)"] = round(imports_s(), 2)
    words = [f"--points {points}"] if given.points else []
    words += [f"--parallel {given.parallel}"] if given.parallel else []
    page = _page(
        " ".join(
            [
                "python -m sweeps.engine.engine_benchmark",
                given.what,
                f"--executor {given.executor}",
                *words,
                "--root FOLDER",
            ]
        ),
        figures,
    )
    print(f"\n{page}")
    if given.write:
        given.write.write_text(page)
    whole = figures["finished"] == figures["points"] and not figures["started more than once"]
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
