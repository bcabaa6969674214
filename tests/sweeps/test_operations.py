"""status, cancel and doctor on real run directories, real processes and a real tracker."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ablations import mask_ratio
from ablations.design import Ablation, Point
from ablations.search import build as build_search
from simvtp import tracking
from simvtp.config.overrides import override
from simvtp.config.schema import Experiment
from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.runs.attempts import owner
from simvtp.runs.journal import Journal, read_journal
from simvtp.runs.rundir import write_identity
from simvtp.tracking.store import Store
from sweeps import cancel, doctor, status
from sweeps.monitor.overview import controller, find_sweeps, survey
from sweeps.monitor.run_state import process_mark
from sweeps.repair.rebuild import open_recorded, rebuild_study
from sweeps.runner.slurm_queue import shared_queue, state_of
from sweeps.study import open_study
from tests.sweeps import jobs
from tests.sweeps.conftest import ROOT

HEAVY = ("torch", "optuna", "submitit", "mlflow", "pandas", "transformers")
COMMAND = "import sys; from sweeps.cli.command import main; from sweeps.mask_ratio import SWEEP; sys.exit(main(SWEEP, sys.argv[1:], 'tests.sweeps.jobs:run'))"
QUIET = ["--tracking-uri", "off", "--no-report"]


# ---- what the tests are made of ------------------------------------------------------------------


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


def kill_quietly(run_dir: Path) -> None:
    """As if the process had gone without a word."""
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


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "it did not happen in time"
        time.sleep(0.05)


def start_sweep(base: Experiment, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COMMAND, "--root", base.runtime.root, *QUIET, *arguments]
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
def held(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the controller's lock of a sweep."""
    program = "import fcntl,sys,time; f=open(sys.argv[1],'a+'); fcntl.lockf(f, fcntl.LOCK_EX); f.write('process 1 on n1'); f.flush(); print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
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
    return [state_of(point.run_dir).state for point in grid.points()]


def doctor_says(
    capsys: pytest.CaptureFixture[str], grid: Ablation, *arguments: str
) -> tuple[int, str]:
    code = doctor.main([*root_of(grid), *arguments])
    out, err = capsys.readouterr()
    return code, out + err


def pretend(tools: Path, **scripts: str) -> None:
    """Programs of SLURM that are shell scripts, in a folder that is on the PATH."""
    tools.mkdir(exist_ok=True)
    for name, script in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    shared_queue().forget()


# ---- all three -----------------------------------------------------------------------------------


def test_the_commands_do_not_import_the_heavy_libraries(grid: Ablation) -> None:
    write_plan(grid)
    kill_quietly(make_run(grid, grid.points()[0]))
    program = (
        "import sys\n"
        "from sweeps import cancel, doctor, status\n"
        "from sweeps.monitor import live_progress, overview, run_state\n"
        "from sweeps.runner import slurm_queue\n"
        f"assert status.main({root_of(grid)!r}) == 0\n"
        f"assert cancel.main([{grid.sweep_id!r}, '--dry-run', *{root_of(grid)!r}]) == 0\n"
        f"print('loaded', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "loaded []", done.stdout + done.stderr


@pytest.mark.parametrize("program", ["status", "cancel", "doctor"])
def test_help_has_examples_and_runs_as_a_script(program: str) -> None:
    done = subprocess.run(
        [sys.executable, f"sweeps/{program}.py", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert (
        done.returncode == 0
        and "examples:" in done.stdout
        and f"python sweeps/{program}.py" in done.stdout
    ), done.stderr


def test_bad_input_is_one_sentence_and_status_2(
    grid: Ablation, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_plan(grid)
    write_plan(replace(grid, seeds=(0, 1)))

    def refused(main: Callable[[Sequence[str]], int], *arguments: str) -> str:
        try:
            code = main(arguments)
        except SystemExit as leave:  # argparse
            code = int(leave.code or 0)
        out, err = capsys.readouterr()
        assert code == 2 and out == "" and len(err.strip().splitlines()) == 1, (code, out, err)
        return err

    assert "there is no such folder" in refused(status.main, "--root", str(tmp_path / "nowhere"))
    assert "no sweep 'losses' under" in refused(status.main, "losses", *root_of(grid))
    assert "fits several sweeps" in refused(status.main, "mask_", *root_of(grid))
    assert "unrecognized arguments: --wach" in refused(status.main, "--wach")
    assert "--only colour=red: write one of" in refused(
        cancel.main, grid.sweep_id, "--only", "colour=red", *root_of(grid)
    )
    assert "leaves no point" in refused(
        cancel.main, grid.sweep_id, "--only", "video_ratio=0.1", *root_of(grid)
    )
    assert "--points nobody: there is no such point" in refused(
        cancel.main, grid.sweep_id, "--points", "nobody", *root_of(grid)
    )
    assert "there is no such folder" in refused(doctor.main, "--root", str(tmp_path / "nowhere"))


def test_who_runs_a_sweep_is_seen_without_taking_its_lock(grid: Ablation) -> None:
    folder = write_plan(grid)
    assert controller(folder) == ""
    with held(folder / "controller.lock"):
        assert controller(folder) == "process 1 on n1"
    assert controller(folder) == "", "the text that a dead controller left is no controller"
    with open(folder / "controller.lock", "a") as file:  # nothing is left of the question
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# ---- status --------------------------------------------------------------------------------------


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


def test_two_thousand_points_are_answered_from_few_files_and_the_ends_of_journals(
    tmp_path: Path,
) -> None:
    root, points = tmp_path / "runs", []
    result = {"protocol": {"task": "retrieval", "dataset": "s", "split": "test", "setting": "finetuned", "direction": "t2v", "frames": 8, "segments": 1, "crops": 1, "ties": "pessimistic", "seed": 0, "checkpoint": "0"}, "metrics": {"R1": 50.0}, "chance": {"R1": 0.5}, "queries": 9, "gallery": 9, "ranks": list(range(200))}  # fmt: skip
    line = (
        json.dumps(
            {
                "kind": "metrics",
                "time": 1.0,
                "stage": "pretrain",
                "step": 1,
                "metrics": {"loss/total": 0.5},
            }
        )
        + "\n"
    )
    for number in range(2000):
        fingerprint = hashlib.sha256(str(number).encode()).hexdigest()
        points.append(
            {
                "cell": {"masks.video_ratio": number / 2000},
                "seed": 0,
                "fingerprint": fingerprint,
                "cell_fingerprint": fingerprint,
            }
        )
        state = ("finished", "finished", "running", "failed")[number % 4]
        folder = root / fingerprint[:12]
        (folder / "lease").mkdir(parents=True)
        attempt = {
            "token": 1,
            "host": "n1",
            "pid": 1,
            "pid_started": 1.0,
            "gpus": 1,
            "began": 0.0,
            "ended": 3600.0,
        }
        (folder / "lease" / "00000001.ended.json").write_text(json.dumps(attempt))
        (folder / "job.json").write_text(json.dumps({"executor": "local", "job_id": "1", "host": socket.gethostname(), "pid": 1, "pid_started": -1.0, "submitted": 1.0}))  # fmt: skip
        jobs_status = {
            "state": state,
            "stage": "pretrain",
            "step": 1,
            "total_steps": 9,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "updated": time.time(),
        }
        (folder / "status.json").write_text(json.dumps(jobs_status))
        (folder / "journal.jsonl").write_text(line * (1000 if state == "running" else 1))
        if state == "finished":
            (folder / "results.json").write_text(json.dumps([result, result]))
    plan = {
        "sweep_id": "big-00000000",
        "ablation": "big",
        "title": "Big",
        "axes": [{"key": "masks.video_ratio", "label": "video", "values": []}],
    }
    write_atomically(
        root / "sweeps" / "big-00000000" / "plan.json",
        json.dumps(plan | {"seeds": [0], "metric": "test/finetuned/t2v/R1", "points": points}),
    )
    # What takes the time on a shared file system is counted, not timed: files opened, and bytes
    # read (docs/scale.md has the seconds).
    counted = f"""
import runpy, sys
opened = 0
def watch(event, arguments):
    global opened
    opened += event == "open" and str(arguments[0]).startswith({str(root)!r})
sys.addaudithook(watch)
read = lambda: int(open("/proc/self/io").readline().split()[1])
sys.argv = ["status", "--root", {str(root)!r}]
before = read()
try:
    runpy.run_path("sweeps/status.py", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print(opened, read() - before, file=sys.stderr)
"""
    process = subprocess.run(
        [sys.executable, "-c", counted], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert process.stdout.splitlines()[-1].startswith(
        "1000 of 2000 points finished, 500 running, 500 failed · 2000.00 GPU-hours"
    )
    opened, read = map(int, process.stderr.split())
    journals = 500 * 1000 * len(line)
    assert 2000 <= opened <= 5 * 2000, f"{opened} files opened for 2,000 points"
    assert read < journals / 2, (
        f"{read} bytes read, {journals} of them lie in journals of which only the end is wanted"
    )


def test_a_running_sweep_is_seen_with_its_steps_jobs_and_controller(
    base: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start_sweep(base, "--parallel", "2", "pretrain.max_steps=100")
    grid = mask_ratio.build(override(base, ["pretrain.max_steps=100"]))
    try:
        wait_for(lambda: states(grid)[:2] == ["running", "running"])
        overview = survey(find_sweeps(Path(base.runtime.root))[0])
        running = [row for row in overview.rows if row.state.state == "running"]
        assert [row.view.state for row in overview.rows[2:]] == ["waiting", "waiting"]
        assert overview.controller.startswith(f"process {process.pid} on ")
        for row in running:
            assert row.view.total == 100 and row.view.step >= 1 and row.view.stage == "pretrain"
            assert row.view.node == socket.gethostname() and row.view.job == str(
                read_json(row.point.run_dir / "job.json")["job_id"]
            )
            assert Path(row.log).exists()
        assert status.main(root_of(grid)) == 0
        out = capsys.readouterr().out
        assert (
            f"controller: process {process.pid}" in out.splitlines()[-1]
            and "2 running, 2 waiting" in out
        )
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)


# A shell that starts the tests in the background lets them, and what they start, ignore Ctrl-C.
HEARS_CTRL_C = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


def test_the_live_table_is_drawn_until_ctrl_c(grid: Ablation) -> None:
    write_plan(grid)
    make_run(grid, grid.points()[0])
    terminal, side = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "150", "LINES": "40"}
    command = [sys.executable, "sweeps/status.py", "--watch", "1", *root_of(grid)]
    process = subprocess.Popen(
        [sys.executable, "-c", HEARS_CTRL_C, *command],
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


# ---- cancel --------------------------------------------------------------------------------------


def test_a_cancelled_sweep_stays_cancelled_until_it_is_retried(
    base: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--parallel", "2", "pretrain.max_steps=200"]
    grid = mask_ratio.build(override(base, ["pretrain.max_steps=200"]))
    process = start_sweep(base, *settings)
    wait_for(
        lambda: (
            states(grid)[:2] == ["running", "running"]
            and all((p.run_dir / "checkpoint.json").exists() for p in grid.points()[:2])
        )
    )
    before = digest(Path(base.runtime.root) / grid.points()[2].fingerprint[:12])
    assert cancel.main([grid.sweep_id, "--dry-run", *root_of(grid)]) == 0
    out = capsys.readouterr().out
    assert (
        "Nothing was changed" in out
        and f"is being run by process {process.pid}" in out
        and out.count("will not be started") == 2
    )
    assert digest(Path(base.runtime.root) / grid.points()[2].fingerprint[:12]) == before
    assert states(grid)[:2] == ["running", "running"]

    assert cancel.main([grid.sweep_id, "--yes", *root_of(grid)]) == 0
    assert states(grid) == ["cancelled"] * 4
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1, out
    assert [(point.run_dir / "starts.txt").exists() for point in grid.points()] == [
        True,
        True,
        False,
        False,
    ], "the rest was not started"
    assert all(
        read_json(point.run_dir / "checkpoint.json")["step"] < 200 for point in grid.points()[:2]
    )
    assert cancel.main([grid.sweep_id, "--yes", *root_of(grid)]) == 0
    assert "Nothing to cancel" in capsys.readouterr().out

    run_sweep(base, *settings)
    assert states(grid) == ["cancelled"] * 4 and [starts(point) for point in grid.points()[:2]] == [
        1,
        1,
    ]
    run_sweep(base, "--retry", "--only", "text=0.15", *settings)
    chosen = [point for point in grid.points() if point.cell["masks.text_ratio"] == 0.15]
    assert [state_of(point.run_dir).state for point in chosen] == ["finished", "finished"]
    steps = [line["step"] for _, line in read_journal(grid.points()[0].run_dir / "journal.jsonl")]
    assert sorted(set(steps)) == list(range(1, 201)), (
        "it went on from the checkpoint that it saved when it was cancelled"
    )


def test_stopped_points_are_continued_by_the_same_command(base: Experiment) -> None:
    settings = ["--parallel", "2", "--video-ratios", "0.9", "pretrain.max_steps=100"]
    grid = mask_ratio.build(override(base, ["pretrain.max_steps=100"]), (0.9,))
    process = start_sweep(base, *settings)
    wait_for(lambda: all((point.run_dir / "checkpoint.json").exists() for point in grid.points()))
    assert cancel.main([grid.sweep_id, "--stop", "--yes", *root_of(grid)]) == 0
    process.communicate(timeout=120)
    assert states(grid) == ["stopped", "stopped"]
    run_sweep(base, *settings)
    assert states(grid) == ["finished", "finished"] and [
        starts(point) for point in grid.points()
    ] == [2, 2]


def test_only_the_named_points_are_cancelled_and_nobody_is_asked_without_a_terminal(
    grid: Ablation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plan(grid)
    names = [point.name for point in grid.points()]
    make_run(grid, grid.points()[0])
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
    assert cancel.main([grid.sweep_id, *root_of(grid)]) == 2
    assert "add --yes" in capsys.readouterr().err and states(grid)[1:] == ["missing"] * 3
    assert (
        cancel.main(
            [
                grid.sweep_id,
                "--yes",
                "--points",
                names[1],
                grid.points()[2].fingerprint[:8],
                *root_of(grid),
            ]
        )
        == 0
    )
    assert states(grid) == ["finished", "cancelled", "cancelled", "missing"]
    assert (
        cancel.main(
            [
                grid.sweep_id,
                "--yes",
                "--only",
                "video=0.9",
                "--only",
                "text_ratio=0.75",
                *root_of(grid),
            ]
        )
        == 0
    )
    assert states(grid)[3] == "cancelled"


def test_a_job_that_does_not_listen_is_killed(grid: Ablation) -> None:
    write_plan(grid)
    point = grid.points()[0]
    program = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    deaf = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert deaf.stdout is not None and deaf.stdout.readline().strip() == "deaf"

    record = {
        "executor": "local",
        "job_id": str(deaf.pid),
        "submitted": time.time(),
        **process_mark(deaf.pid),
    }
    write_atomically(point.run_dir / "job.json", json.dumps(record))
    assert (
        cancel.main(
            [
                grid.sweep_id,
                "--yes",
                "--grace",
                "0.3",
                "--points",
                point.fingerprint[:12],
                *root_of(grid),
            ]
        )
        == 0
    )
    assert deaf.wait(timeout=10) == -signal.SIGKILL
    assert state_of(point.run_dir).state == "cancelled"


def test_jobs_of_slurm_are_shown_and_cancelled_in_one_call(
    grid: Ablation,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pretended programs; tests/slurm has the real ones."""
    write_plan(grid)
    tools, asked = tmp_path / "bin", tmp_path / "scancel.txt"
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    for number, point in enumerate(grid.points()[:3]):
        record = {
            "executor": "slurm",
            "job_id": f"12_{number}",
            "name": "s",
            "submitted": time.time(),
            "stdout": "/o",
            "stderr": "/e",
            "gpus": 8,
        }
        write_atomically(point.run_dir / "job.json", json.dumps(record))
    queue = "echo '12_0|PENDING||Resources|0:00|s'; echo '12_1|RUNNING|n2|None|1:00|s'"
    pretend(tools, squeue=queue, scancel="echo no permission >&2; exit 1")
    assert status.main(root_of(grid)) == 0
    rows = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    names = [row.point.name for row in survey(find_sweeps(Path(grid.base.runtime.root))[0]).rows]
    assert (
        "PENDING (Resources)" in rows[names[0]]
        and "n2" in rows[names[1]]
        and "killed" in rows[names[2]]
        and "waiting" in rows[names[3]]
    )

    assert cancel.main([grid.sweep_id, "--yes", "--points", *names[:2], *root_of(grid)]) == 1
    assert "SLURM says: no permission" in capsys.readouterr().err
    assert "ended" not in read_json(grid.points()[0].run_dir / "job.json"), (
        "it goes on, so it is not called cancelled"
    )
    pretend(tools, squeue=queue, scancel=f"echo $# $@ >> {asked}")
    assert cancel.main([grid.sweep_id, "--yes", "--points", *names[:2], *root_of(grid)]) == 0
    assert asked.read_text() == "2 12_0 12_1\n"
    pretend(tools, squeue="exit 0")
    assert states(grid)[:3] == ["cancelled", "cancelled", "killed"]
    pretend(tools, squeue="exit 1")
    assert status.main(root_of(grid)) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1].endswith("SLURM does not answer: its jobs are taken to be there")
    assert "starting" in next(line for line in out.splitlines() if line.startswith(names[2]))


def test_obsolete_points_are_cancelled_and_those_of_present_plans_are_not(
    base: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--parallel", "4", "pretrain.max_steps=400"]
    grid = mask_ratio.build(override(base, ["pretrain.max_steps=400"]))
    process = start_sweep(base, *settings)
    try:
        wait_for(lambda: states(grid) == ["running"] * 4)
        process.kill()  # the jobs go on; the grid is made smaller
        process.communicate()
        smaller = mask_ratio.build(grid.base, (0.9,))
        write_plan(smaller)
        assert cancel.main(["mask_ratio", "--obsolete", "--yes", *root_of(grid)]) == 0
        assert "2 point(s) cancelled" in capsys.readouterr().out
        kept = {point.fingerprint for point in smaller.points()}
        assert [state == "running" for state in states(grid)] == [
            point.fingerprint in kept for point in grid.points()
        ]
    finally:
        assert cancel.main(["mask_ratio", "--yes", "--grace", "20", *root_of(grid)]) == 0
    assert states(grid) == ["cancelled"] * 4


# ---- doctor --------------------------------------------------------------------------------------


def test_nothing_is_wrong_with_a_sound_root(
    grid: Ablation, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_plan(grid)
    for point in grid.points():
        make_run(grid, point)
    study = open_recorded(find_sweeps(Path(grid.base.runtime.root))[0])
    study.plan(lambda point, last: True)
    assert (folder / "study.journal").exists()
    before = digest(Path(grid.base.runtime.root))
    assert doctor_says(capsys, grid) == (0, f"Nothing is wrong under {grid.base.runtime.root}.\n")
    assert digest(Path(grid.base.runtime.root)) == before, "looking changes nothing"


def torn_journal(run_dir: Path) -> Callable[[], None]:
    path = run_dir / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind": "metr')

    def check() -> None:
        assert path.read_bytes() == whole

    return check


def damaged_journal(run_dir: Path) -> Callable[[], None]:
    path = run_dir / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"\0" * (len(lines[1]) - 1) + b"\n", *lines[2:]]))

    def check() -> None:
        mended = [line for _, line in read_journal(path)]
        assert [line.get("step") for line in mended[:5]] == [1, None, 3, 4, 5]
        assert path.stat().st_size == sum(map(len, lines)), "places in it stay what they were"
        assert len(list(run_dir.glob("journal.jsonl.damaged-*"))) == 1

    return check


def running_without_process(run_dir: Path) -> Callable[[], None]:
    kill_quietly(run_dir)
    (run_dir / "results.json").unlink()

    def check() -> None:
        assert (
            read_json(run_dir / "status.json")["state"] == "stopped"
            and state_of(run_dir).state == "stopped"
        )

    return check


def stale_lease(run_dir: Path) -> Callable[[], None]:
    values = {
        "token": 1,
        "host": socket.gethostname(),
        "pid": ended_process(),
        "pid_started": 7.0,
        "job": "",
        "restart": 0,
        "gpus": 0,
        "began": 1.0,
    }
    write_atomically(run_dir / "lease" / "00000001.json", json.dumps(values))
    assert owner(run_dir) is not None

    def check() -> None:
        assert owner(run_dir) is None and (run_dir / "lease" / "00000001.ended.json").exists()

    return check


def half_written_checkpoint(run_dir: Path) -> Callable[[], None]:
    path = run_dir / "checkpoints" / "pretrain" / ".step_5.pt.123.tmp"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")
    os.utime(path, (1.0, 1.0))
    young = path.with_name(".step_6.pt.124.tmp")
    young.write_bytes(b"being written")

    def check() -> None:
        assert not path.exists() and young.exists()

    return check


def unreadable_results(run_dir: Path) -> Callable[[], None]:
    (run_dir / "results.json").write_text("[{")

    def check() -> None:
        assert not (run_dir / "results.json").exists() and state_of(run_dir).state == "killed", (
            "it is scored again"
        )

    return check


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (torn_journal, "the last line of journal.jsonl is torn (14 bytes)"),
        (damaged_journal, "journal.jsonl is damaged in line 2"),
        (running_without_process, "its status says running, and no process is there"),
        (stale_lease, "which is gone, was never ended"),
        (half_written_checkpoint, "1 half-written file(s)"),
        (unreadable_results, "results.json cannot be read"),
    ],
)
def test_damage_of_a_run_directory_is_said_and_mended(
    damage: Callable[[Path], Callable[[], None]],
    said: str,
    grid: Ablation,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_plan(grid)
    root = Path(grid.base.runtime.root)
    check = damage(make_run(grid, grid.points()[0]))
    before = digest(root)
    code, out = doctor_says(capsys, grid, "--dry-run")
    assert code == 1 and said in out and "nothing was changed" in out
    assert digest(root) == before
    with held(folder_of(grid) / "controller.lock"):
        before = digest(root)
        code, out = doctor_says(capsys, grid, "--yes")
        assert code == 1 and "left alone: " in out and digest(root) == before, (
            "not while its sweep is being run"
        )
    code, out = doctor_says(capsys, grid, "--yes")
    assert code == 0 and said in out and "1 thing(s) mended." in out, out
    check()
    assert doctor_says(capsys, grid)[0] == 0


def torn_study(folder: Path, grid: Ablation) -> Callable[[], None]:
    with open(folder / "study.journal", "ab") as file:
        file.write(b'{"op_code": 4, "wor')
    return lambda: None


def damaged_study(folder: Path, grid: Ablation) -> Callable[[], None]:
    lines = (folder / "study.journal").read_bytes().splitlines(keepends=True)
    (folder / "study.journal").write_bytes(b"".join([lines[0], b"rubbish\n", *lines[1:]]))
    return lambda: None


def lost_trials(folder: Path, grid: Ablation) -> Callable[[], None]:
    return lambda: None  # the fixture study has one


def study_lock(folder: Path, grid: Ablation) -> Callable[[], None]:
    lock = folder / "study.journal.lock"
    lock.symlink_to(folder / "study.journal")

    def check() -> None:
        assert not os.path.lexists(lock)

    return check


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (torn_study, "the last line of study.journal is torn"),
        (damaged_study, "line 2 of study.journal is damaged"),
        (lost_trials, "2 trial(s) of the study are RUNNING without a job"),
        (study_lock, "left the lock of the study behind"),
    ],
)
def test_damage_of_a_study_is_said_and_mended(
    damage: Callable[[Path, Ablation], Callable[[], None]],
    said: str,
    grid: Ablation,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, root = write_plan(grid), Path(grid.base.runtime.root)
    for point in grid.points()[:2]:
        make_run(grid, point, "finished" if point is grid.points()[0] else "failed", "a reason")
    study = open_recorded(find_sweeps(root)[0])
    study.plan(lambda point, last: point.fingerprint in {p.fingerprint for p in grid.points()[:2]})
    asked = [study.ask().fingerprint, study.ask().fingerprint]
    if damage is not lost_trials:
        study.tell(asked[0], [1.0])
        study.tell(asked[1], None, "a reason")
    del study
    check = damage(folder, grid)
    before = digest(root)
    code, out = doctor_says(capsys, grid, "--dry-run")
    assert code == 1 and said in out and digest(root) == before, out
    code, out = doctor_says(capsys, grid, "--yes")
    assert code == 0 and said in out, out
    check()
    assert open_recorded(find_sweeps(root)[0]).counts() == {"COMPLETE": 1, "FAIL": 1}
    assert doctor_says(capsys, grid)[0] == 0


def test_a_disk_that_is_full_or_cannot_be_written_is_said(
    grid: Ablation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor.main(["--root", "/proc", "--dry-run"]) == 1
    assert "/proc cannot be written" in capsys.readouterr().out
    write_plan(grid)
    monkeypatch.setattr("sweeps.repair.diagnose.LITTLE_SPACE", 1 << 62)
    code, out = doctor_says(capsys, grid, "--yes")
    assert code == 1 and "MB are free" in out and "to do: free some space" in out


def test_code_that_no_job_uses_is_removed_with_yes_only(
    grid: Ablation, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(grid)
    root = Path(grid.base.runtime.root)
    used, unused, fresh = (
        root / "sweeps" / "code" / name for name in ("0" * 16, "1" * 16, "2" * 16)
    )
    for folder in (used, unused, fresh):
        (folder / "simvtp").mkdir(parents=True)
        (folder / "simvtp" / "__init__.py").write_text("# code")
    for folder in (used, unused):
        os.utime(folder, (1.0, 1.0))
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        record = {
            "executor": "local",
            "job_id": "1",
            "submitted": time.time(),
            **process_mark(sleeper.pid),
            "code": str(used),
        }
        write_atomically(grid.points()[0].run_dir / "job.json", json.dumps(record))
        code, out = doctor_says(capsys, grid)
        assert (
            code == 0
            and f"sweeps/code/{unused.name}" in out
            and "only with --yes" in out
            and used.name not in out
            and fresh.name not in out
        )
        assert unused.exists()
        assert doctor_says(capsys, grid, "--yes")[0] == 0
        assert not unused.exists() and used.exists() and fresh.exists()
    finally:
        sleeper.kill()
        sleeper.wait()


def test_an_interrupted_submission_is_not_guessed_about(
    grid: Ablation,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = write_plan(grid)
    record = {
        "token": "ab",
        "name": "sweep.ab",
        "submitted": 1.0,
        "fingerprints": [grid.points()[0].fingerprint],
        "job_ids": None,
    }
    write_atomically(folder / "submissions" / "ab.json", json.dumps(record))
    tools = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")

    def slurm(script: str) -> tuple[int, str]:
        pretend(tools, squeue=script)
        return doctor_says(capsys, grid, "--yes")

    code, out = slurm("exit 1")
    assert code == 1 and "SLURM cannot be asked" in out
    code, out = slurm("echo '12_0|PENDING||Resources|0:00|sweep.ab'")
    assert (
        code == 1
        and "SLURM has job 12_0" in out
        and read_json(folder / "submissions" / "ab.json")["job_ids"] is None
    )
    code, out = slurm("exit 0")
    assert code == 0 and read_json(folder / "submissions" / "ab.json")["job_ids"] == ["none"], out


def test_a_tracker_that_does_not_answer_is_said_and_nothing_is_lost(
    grid: Ablation, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    away = mask_ratio.build(override(grid.base, [f"runtime.tracking_uri={address}"]))
    write_plan(away)
    make_run(away, away.points()[0])
    code, out = doctor_says(capsys, away, "--yes")
    assert code == 1 and "does not answer" in out and "python -m simvtp sync" in out


# ---- the tracker and rebuilding ------------------------------------------------------------------


@pytest.fixture
def tracked(grid: Ablation, monkeypatch: pytest.MonkeyPatch) -> Ablation:
    """The same grid with its tracker in the root."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return replace(
        grid, base=replace(grid.base, runtime=replace(grid.base.runtime, tracking_uri=""))
    )


def test_tracked_runs_without_a_process_are_ended(
    tracked: Ablation, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(tracked)
    tracking.start_sweep(tracked.plan(), tracked.base.runtime)
    point = tracked.points()[0]
    run_dir = make_run(tracked, point, "running")  # this very process lives while it is mirrored
    tracking.Mirror(run_dir, point.experiment.runtime).sync()
    uri = tracking.resolve_uri(tracked.base.runtime)
    assert uri is not None
    assert {run.fingerprint or run.sweep_id for run in tracking.running_runs(uri)} == {
        point.fingerprint,
        tracked.sweep_id,
    }
    kill_quietly(run_dir)
    code, out = doctor_says(capsys, tracked, "--yes")
    assert (
        code == 0
        and f"{run_dir.name} is RUNNING in the tracker" in out
        and f"{tracked.sweep_id} is RUNNING in the tracker" in out
    ), out
    assert tracking.running_runs(uri) == []
    assert Store(uri).find({"run_key": point.fingerprint})[0].status == "KILLED"


def run_ids(record: Any) -> dict[str, str]:
    """Fingerprint of each run that a record names, by the tracker's id of the run."""
    if isinstance(record, list):
        return {key: value for part in record for key, value in run_ids(part).items()}
    if not isinstance(record, dict):
        return {}
    own = (
        {record["run_id"]: record["fingerprint"]}
        if record.get("run_id") and "fingerprint" in record
        else {}
    )
    return own | run_ids(list(record.values()))


def test_studies_and_store_are_made_anew_and_the_report_is_the_same(
    tracked: Ablation, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    root, folder = Path(tracked.base.runtime.root), write_plan(tracked)
    tracking.start_sweep(tracked.plan(), tracked.base.runtime)
    for point in tracked.points()[:3]:
        tracking.Mirror(make_run(tracked, point), tracked.base.runtime).sync()
    make_run(tracked, tracked.points()[3], "failed", "the loss became NaN")
    tracking.sync_all(root)
    study = open_recorded(find_sweeps(root)[0])
    study.plan(lambda point, last: True)
    while (planned := study.ask()) is not None:
        row = next(
            row
            for row in survey(find_sweeps(root)[0]).rows
            if row.point.fingerprint == planned.fingerprint
        )
        study.tell(planned.fingerprint, None if row.value is None else [row.value], row.view.note)
    counts = study.counts()
    del study
    assert counts == {"COMPLETE": 3, "FAIL": 1}

    def program(
        *arguments: str,
    ) -> None:  # one of its own: mlflow keeps the store that was removed open
        done = subprocess.run(
            [sys.executable, "-m", *arguments, "--root", str(root)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def report(name: str) -> dict[str, bytes]:
        """All files of the report, with the tracker's ids of the runs replaced by their
        fingerprints: MLflow draws new ones.
        """
        out = tmp_path / name
        program("reports.build", "mask_ratio", "--out", str(out))
        files = {
            str(path.relative_to(out)): path.read_bytes()
            for path in sorted(out.rglob("*"))
            if path.is_file()
        }
        for run_id, fingerprint in run_ids(
            read_json(out / "mask_ratio" / "provenance.json")
        ).items():
            for new, old in ((fingerprint, run_id), (fingerprint[:8], run_id[:8])):
                files = {
                    name: content.replace(old.encode(), new.encode())
                    for name, content in files.items()
                }
        return files

    before = report("before")
    (folder / "study.journal").unlink()  # both lost altogether
    (root / "mlflow.db").unlink()
    code, out = doctor_says(capsys, tracked, "--rebuild", "--dry-run")
    assert code == 0 and "Nothing was changed" in out and not (folder / "study.journal").exists()
    program("sweeps.doctor", "--rebuild", "--yes")
    after = report("after")
    assert list(after) == list(before) and len(before) > 8 and b"37.5" in b"".join(before.values())
    assert [name for name in before if before[name] != after[name]] == []
    assert open_recorded(find_sweeps(root)[0]).counts() == counts

    rebuild_study(find_sweeps(root)[0])
    assert len(list(folder.glob("study.journal.old-*"))) == 1, "nothing is thrown away"


def test_the_study_of_a_search_is_made_anew_from_its_plan(base: Experiment) -> None:
    search = build_search(
        base, trials=4, space="masks.video_ratio=0.3:0.9,losses.mvm=1", pruner="halving"
    )
    points = [
        search.point(dict(search.first().cell) | {"masks.video_ratio": ratio})
        for ratio in (0.3, 0.5, 0.7)
    ]  # type: ignore[union-attr]
    folder = Path(base.runtime.root) / "sweeps" / search.sweep_id
    write_atomically(folder / "plan.json", json.dumps(search.plan(points)))
    for point, state, best in zip(
        points, ("finished", "failed", "finished"), (20.0, 5.0, 40.0), strict=True
    ):
        run_dir = make_run(search, point, state, "a reason")  # type: ignore[arg-type]
        journal = Journal(run_dir / "journal.jsonl")
        journal.write(
            "metrics",
            stage="finetune",
            step=10,
            metrics={"val/mean_recall": best, "val/t2v/R1": best},
        )
        journal.close()
    sweep = find_sweeps(Path(base.runtime.root))[0]
    assert "3" in rebuild_study(sweep)
    study = open_study(folder / "study.journal", search, sweep.plan["points"])
    assert study.repairs == [] and study.counts() == {"COMPLETE": 2, "FAIL": 1}
    assert {point.fingerprint for point in study.points()} == {
        point.fingerprint for point in points
    }
    text = (folder / "study.journal").read_text()
    assert "40.0" in text and "a reason" in text
    proposed = study.ask()  # it goes on where it was
    assert (
        proposed is not None
        and proposed.fingerprint not in {point.fingerprint for point in points}
        and study.ask() is None
    )


def test_nothing_is_rebuilt_under_a_running_sweep(
    tracked: Ablation, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_plan(tracked)
    make_run(tracked, tracked.points()[0])
    with held(folder / "controller.lock"):
        before = digest(Path(tracked.base.runtime.root))
        code, out = doctor_says(capsys, tracked, "--rebuild", "--yes")
        assert code == 1 and "left alone: it is being run by process 1 on n1" in out
        assert digest(Path(tracked.base.runtime.root)) == before
