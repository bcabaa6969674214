"""Run directories, sweeps and SLURM programs for the tests of the scripts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ablations.design import Ablation, Point
from simvtp.config.experiment_config import Experiment
from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.runs.journal import Journal
from simvtp.runs.process_identity import process_start
from simvtp.runs.rundir import write_identity
from sweeps import doctor
from sweeps.runner.liveness import state_of
from sweeps.runner.slurm_queue import SlurmQueue
from tests.sweeps import jobs
from tests.sweeps.conftest import ROOT

COMMAND = """
import sys
from sweeps.cli.command import main
from tests.sweeps.ratio_grid import SWEEP
sys.exit(main(SWEEP, sys.argv[1:], "tests.sweeps.jobs:run"))
"""
LOCK = """
import fcntl, sys, time
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
file.write("process 1 on n1")
file.flush()
print("held", flush=True)
time.sleep(60)
"""

QUIET = ["--tracking-uri", "off", "--no-report"]
RECIPE = ["--recipe", "tiny"]  # that of the fixture `base`


def folder_of(grid: Ablation) -> Path:
    return Path(grid.base.runtime.root) / "sweeps" / grid.sweep_id


def root_of(grid: Ablation) -> list[str]:
    return ["--root", grid.base.runtime.root]


def write_plan(grid: Ablation) -> Path:
    write_atomically(folder_of(grid) / "plan.json", json.dumps(grid.plan()))
    return folder_of(grid)


def make_run(grid: Ablation, point: Point, state: str = "finished", message: str = "") -> Path:
    """A run directory as an experiment leaves it, without running one."""
    write_identity(point.experiment, point.run_dir)
    origin = {
        "sweep_id": grid.sweep_id,
        "ablation": grid.name,
        "parent_run_id": "",
        "cell": dict(point.cell),
    }
    write_atomically(point.run_dir / "sweep.json", json.dumps(origin))
    journal = Journal(point.run_dir / "journal.jsonl")
    for step in range(1, 6):
        journal.write("metrics", stage="pretrain", step=step, metrics={"loss/total": 1 / step})
    result = jobs.result(point.experiment)
    if state == "finished":
        journal.write("result", result=result.to_dict())
        write_atomically(point.run_dir / "results.json", json.dumps([result.to_dict()]))
    journal.close()
    jobs.status(point.run_dir, state, 5, 10, message)
    return point.run_dir


def ended_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def process_facts(pid: int) -> dict[str, object]:
    """Returns the fields of job.json that identify a process."""
    return {"host": socket.gethostname(), "pid": pid, "pid_started": process_start(pid)}


def kill_quietly(run_dir: Path) -> None:
    """Makes the run look as if its process had been killed."""
    values = read_json(run_dir / "status.json") | {"state": "running", "pid": ended_process()}
    write_atomically(run_dir / "status.json", json.dumps(values))


def digest(folder: Path) -> str:
    """Of all names and contents below a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(
            str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b"")
        )
    return found.hexdigest()


def start_sweep(base: Experiment, *arguments: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-c",
        COMMAND,
        *RECIPE,
        "--root",
        base.runtime.root,
        *QUIET,
        *arguments,
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def run_sweep(base: Experiment, *arguments: str) -> str:
    process = start_sweep(base, *arguments)
    return process.communicate(timeout=120)[0]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Yields another process that holds the controller's lock of a sweep."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOCK, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline().strip() == "held"
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def starts(point: Point) -> int:
    return len((point.run_dir / "starts.txt").read_text().split())


def states(grid: Ablation) -> list[str]:
    return [state_of(point.run_dir, SlurmQueue()).state for point in grid.points()]


def run_doctor(
    capsys: pytest.CaptureFixture[str], grid: Ablation, *arguments: str
) -> tuple[int, str]:
    code = doctor.main([*root_of(grid), *arguments])
    out, err = capsys.readouterr()
    return code, out + err


def fake_programs(tools: Path, **scripts: str) -> None:
    """Programs of SLURM that are shell scripts, in a folder that is on the PATH."""
    tools.mkdir(exist_ok=True)
    for name, script in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
