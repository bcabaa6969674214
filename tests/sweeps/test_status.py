"""`sweeps/status.py` on real run directories and processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ablations.design import Ablation
from simvtp.config.experiment_config import Experiment
from simvtp.runs.atomic_files import read_json, write_atomically
from sweeps import status
from sweeps.monitor.overview import find_sweeps, survey
from sweeps.runner.slurm_queue import SlurmQueue
from tests.sweeps import jobs, ratio_grid
from tests.sweeps.conftest import ROOT, held_jobs, wait_for
from tests.sweeps.recorded_runs import (
    kill_quietly,
    make_run,
    root_of,
    start_sweep,
    states,
    write_plan,
)


def test_the_table_is_plain_and_whole_in_a_pipe(grid: Ablation) -> None:
    write_plan(grid)
    finished, failed, killed, _ = grid.points()
    make_run(grid, finished)
    make_run(grid, failed, "failed", "the loss became NaN at step 5, " + "and so on " * 30)
    record = {
        "executor": "local",
        "job_id": "77",
        "submitted": 1.0,
        "host": socket.gethostname(),
        "pid": 1,
        "pid_started": -1.0,
    }
    (failed.run_dir / "err").write_text("first\nValueError: the last line\n")
    write_atomically(
        failed.run_dir / "job.json", json.dumps(record | {"stderr": str(failed.run_dir / "err")})
    )
    kill_quietly(make_run(grid, killed))
    done = subprocess.run(
        [sys.executable, "sweeps/status.py", *root_of(grid)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    row = {line.split("  ")[0]: line for line in lines}
    by_state = {point.cell["masks.text_ratio"]: point for point in grid.points()}
    assert len(by_state) == 2
    assert (
        sum(" finished " in line for line in lines) >= 1
        and f"{jobs.result(finished.experiment).metrics['R1']:.2f}" in done.stdout
    )
    assert "and so on " * 29 in done.stdout, "never cut in a pipe"
    assert (
        "    | ValueError: the last line" in lines and f"    log: {failed.run_dir / 'err'}" in lines
    )
    assert "77" in next(line for line in row.values() if str(failed.run_dir / "err") in line)
    assert lines[-1].startswith("1 of 4 points finished, 1 waiting, 2 failed · ") and lines[
        -1
    ].endswith("no controller is running")

    document = json.loads(
        subprocess.run(
            [sys.executable, "sweeps/status.py", "--json", *root_of(grid)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        ).stdout
    )
    points = document["sweeps"][0]["points"]
    assert [point["state"] for point in points] == ["finished", "failed", "killed", "missing"]
    assert points[0]["value"] == jobs.result(finished.experiment).metrics["R1"] and points[1][
        "log"
    ] == str(failed.run_dir / "err")


def test_finished_sweeps_are_left_out_unless_asked_for(
    grid: Ablation, capsys: pytest.CaptureFixture[str]
) -> None:
    for point in grid.points():
        make_run(grid, point)
    longer = replace(grid, seeds=(0, 1))
    write_plan(grid)
    write_plan(longer)

    def shown(*arguments: str) -> list[str]:
        assert status.main([*arguments, *root_of(grid)]) == 0
        out = capsys.readouterr().out
        return [sweep for sweep in (grid.sweep_id, longer.sweep_id) if sweep in out]

    assert shown() == [longer.sweep_id]
    assert shown("--all") == shown("mask_ratio") == [grid.sweep_id, longer.sweep_id]
    assert shown(grid.sweep_id) == shown(grid.sweep_id[:-2]) == [grid.sweep_id]


LINE = json.dumps(
    {"kind": "metrics", "time": 1.0, "stage": "pretrain", "step": 1, "metrics": {"loss/total": 0.5}}
)
RESULT = {
    "protocol": {
        "task": "retrieval",
        "dataset": "s",
        "split": "test",
        "setting": "finetuned",
        "direction": "t2v",
        "frames": 8,
        "segments": 1,
        "crops": 1,
        "ties": "pessimistic",
        "seed": 0,
        "checkpoint": "0",
    },
    "metrics": {"R1": 50.0},
    "chance": {"R1": 0.5},
    "queries": 9,
    "gallery": 9,
    "ranks": list(range(200)),
}
COUNTED = """
import runpy, sys
root, opened = sys.argv[1], 0
def count(event, arguments):
    global opened
    opened += event == "open" and str(arguments[0]).startswith(root)
sys.addaudithook(count)
read = lambda: int(open("/proc/self/io").readline().split()[1])
sys.argv = ["status", "--root", root]
before = read()
try:
    runpy.run_path("sweeps/status.py", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print(opened, read() - before, file=sys.stderr)
"""


def write_small_run(folder: Path, state: str) -> None:
    """Writes the files of a run that status.py reads; a running one has a long journal."""
    (folder / "lease").mkdir(parents=True)
    here = {"host": socket.gethostname(), "pid": os.getpid()}
    attempt = {"token": 1, "host": "n1", "pid": 1, "pid_started": 1.0, "gpus": 1}
    attempt |= {"began": 0.0, "ended": 3600.0}
    job = {"executor": "local", "job_id": "1", "pid_started": -1.0, "submitted": 1.0}
    stage = {"state": state, "stage": "pretrain", "step": 1, "total_steps": 9}
    (folder / "lease" / "00000001.ended.json").write_text(json.dumps(attempt))
    (folder / "job.json").write_text(json.dumps(job | here | {"pid": 1}))
    (folder / "status.json").write_text(json.dumps(stage | here | {"updated": time.time()}))
    lines = 1000 if state == "running" else 1
    (folder / "journal.jsonl").write_text(f"{LINE}\n" * lines)
    if state == "finished":
        (folder / "results.json").write_text(json.dumps([RESULT, RESULT]))


def test_two_thousand_points_are_answered_from_few_files_and_the_ends_of_journals(
    tmp_path: Path,
) -> None:
    root, points = tmp_path / "runs", []
    for number in range(2000):
        fingerprint = hashlib.sha256(str(number).encode()).hexdigest()
        cell = {"masks.video_ratio": number / 2000}
        points.append({"cell": cell, "seed": 0, "fingerprint": fingerprint})
        state = ("finished", "finished", "running", "failed")[number % 4]
        write_small_run(root / fingerprint[:12], state)
    plan = {
        "sweep_id": "big-00000000",
        "ablation": "big",
        "title": "Big",
        "axes": [{"key": "masks.video_ratio", "label": "video", "values": []}],
        "seeds": [0],
        "metric": "test/finetuned/t2v/R1",
        "points": points,
    }
    write_atomically(root / "sweeps" / "big-00000000" / "plan.json", json.dumps(plan))
    # Files opened and bytes read are counted, as they take the time on a shared file system
    # (docs/scale.md has the seconds).
    process = subprocess.run(
        [sys.executable, "-c", COUNTED, str(root)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.splitlines()[-1].startswith(
        "1000 of 2000 points finished, 500 running, 500 failed · 2000.00 GPU-hours"
    )
    opened, read = map(int, process.stderr.split())
    journals = 500 * 1000 * len(LINE)
    assert 2000 <= opened <= 5 * 2000, f"{opened} files opened for 2,000 points"
    assert read < journals / 2, f"{read} bytes read; the journals have {journals}"


def test_a_running_sweep_is_seen_with_its_steps_jobs_and_controller(
    base: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ratio_grid.build(base)
    with held_jobs(base):
        process = start_sweep(base, "--parallel", "2", "pretrain.max_steps=10")
        try:
            wait_for(lambda: states(grid)[:2] == ["running", "running"])
            overview = survey(find_sweeps(Path(base.runtime.root))[0], SlurmQueue())
            assert [row.view.state for row in overview.rows[2:]] == ["waiting", "waiting"]
            assert overview.controller.startswith(f"process {process.pid} on ")
            for row in overview.rows[:2]:
                assert row.view.total == 10 and row.view.step >= 1 and row.view.stage == "pretrain"
                job = read_json(row.point.run_dir / "job.json")
                assert row.view.node == socket.gethostname() and row.view.job == job["job_id"]
                assert Path(row.log).exists()
            assert status.main(root_of(grid)) == 0
            out = capsys.readouterr().out
            assert f"controller: process {process.pid}" in out.splitlines()[-1]
            assert "2 running, 2 waiting" in out
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=120)


# A shell that starts the tests in the background lets them, and what they start, ignore Ctrl-C.
ACCEPTS_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_the_live_table_is_drawn_until_ctrl_c(grid: Ablation) -> None:
    write_plan(grid)
    make_run(grid, grid.points()[0])
    terminal, side = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "150", "LINES": "40"}
    command = [sys.executable, "sweeps/status.py", "--watch", "1", *root_of(grid)]
    process = subprocess.Popen(
        [sys.executable, "-c", ACCEPTS_CTRL_C, *command],
        cwd=ROOT,
        stdin=side,
        stdout=side,
        stderr=side,
        env=environment,
        close_fds=True,
    )
    os.close(side)
    seen = b""
    try:
        while seen.count(b"1 of 4 points finished") < 3:  # drawn again and again
            seen += os.read(terminal, 65536)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the terminal is closed at its end
            while chunk := os.read(terminal, 65536):
                seen += chunk
        assert process.wait(timeout=20) == 0 and b"Traceback" not in seen
    finally:
        process.kill()
        os.close(terminal)
