"""`sweeps/cancel.py` on real run directories and processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ablations.design import Ablation
from simvtp.config.experiment_config import Experiment
from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.runs.journal import read_journal
from sweeps import cancel, status
from sweeps.monitor.overview import find_sweeps, survey
from sweeps.runner.liveness import state_of
from sweeps.runner.slurm_queue import SlurmQueue
from tests.sweeps import ratio_grid
from tests.sweeps.conftest import held_jobs, wait_for
from tests.sweeps.recorded_runs import (
    digest,
    fake_programs,
    make_run,
    process_facts,
    root_of,
    run_sweep,
    start_sweep,
    starts,
    states,
    write_plan,
)


def test_a_cancelled_sweep_stays_cancelled_until_it_is_retried(
    base: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--parallel", "2", "pretrain.max_steps=10"]
    grid = ratio_grid.build(base)
    waiting = grid.points()[2].run_dir
    with held_jobs(base):
        process = start_sweep(base, *settings)
        wait_for(lambda: states(grid)[:2] == ["running", "running"])
        before = digest(waiting)
        assert cancel.main([grid.sweep_id, "--dry-run", *root_of(grid)]) == 0
        out = capsys.readouterr().out
        assert "Nothing was changed" in out and out.count("will not be started") == 2
        assert f"is being run by process {process.pid}" in out
        assert digest(waiting) == before
        assert states(grid)[:2] == ["running", "running"]

        assert cancel.main([grid.sweep_id, "--yes", *root_of(grid)]) == 0
        assert states(grid) == ["cancelled"] * 4
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 1, out
    started = [(point.run_dir / "starts.txt").exists() for point in grid.points()]
    assert started == [True, True, False, False], "the rest was not started"
    for point in grid.points()[:2]:
        assert read_json(point.run_dir / "checkpoint.json")["step"] < 10
    assert cancel.main([grid.sweep_id, "--yes", *root_of(grid)]) == 0
    assert "Nothing to cancel" in capsys.readouterr().out

    run_sweep(base, *settings)
    assert states(grid) == ["cancelled"] * 4
    assert [starts(point) for point in grid.points()[:2]] == [1, 1]
    run_sweep(base, "--retry", "--only", "text=0.15", *settings)
    chosen = [point for point in grid.points() if point.cell["masks.text_ratio"] == 0.15]
    found = [state_of(point.run_dir, SlurmQueue()).state for point in chosen]
    assert found == ["finished", "finished"]
    steps = [line["step"] for _, line in read_journal(grid.points()[0].run_dir / "journal.jsonl")]
    assert sorted(set(steps)) == list(range(1, 11)), (
        "it continued from the checkpoint that it saved when it was cancelled"
    )


def test_stopped_points_are_continued_by_the_same_command(base: Experiment) -> None:
    settings = ["--parallel", "2", "--video-ratios", "0.9", "pretrain.max_steps=10"]
    grid = ratio_grid.build(base, (0.9,))
    with held_jobs(base):
        process = start_sweep(base, *settings)
        wait_for(lambda: states(grid) == ["running", "running"])
        assert cancel.main([grid.sweep_id, "--stop", "--yes", *root_of(grid)]) == 0
        process.communicate(timeout=120)
    assert states(grid) == ["stopped", "stopped"]
    run_sweep(base, *settings)
    assert states(grid) == ["finished", "finished"]
    assert [starts(point) for point in grid.points()] == [2, 2]


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
                "video=0.95",
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
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('deaf', flush=True); time.sleep(60)"
    )
    deaf = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert deaf.stdout is not None and deaf.stdout.readline().strip() == "deaf"

    record = {
        "executor": "local",
        "job_id": str(deaf.pid),
        "submitted": time.time(),
        **process_facts(deaf.pid),
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
    assert state_of(point.run_dir, SlurmQueue()).state == "cancelled"


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
    fake_programs(tools, squeue=queue, scancel="echo no permission >&2; exit 1")
    assert status.main(root_of(grid)) == 0
    rows = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    names = [
        row.point.name
        for row in survey(find_sweeps(Path(grid.base.runtime.root))[0], SlurmQueue()).rows
    ]
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
    fake_programs(tools, squeue=queue, scancel=f"echo $# $@ >> {asked}")
    assert cancel.main([grid.sweep_id, "--yes", "--points", *names[:2], *root_of(grid)]) == 0
    assert asked.read_text() == "2 12_0 12_1\n"
    fake_programs(tools, squeue="exit 0")
    assert states(grid)[:3] == ["cancelled", "cancelled", "killed"]
    fake_programs(tools, squeue="exit 1")
    assert status.main(root_of(grid)) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1].endswith("SLURM does not answer: its jobs count as alive")
    assert "starting" in next(line for line in out.splitlines() if line.startswith(names[2]))


def test_obsolete_points_are_cancelled_and_those_of_current_plans_are_not(
    base: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ratio_grid.build(base)
    with held_jobs(base):
        process = start_sweep(base, "--parallel", "4", "pretrain.max_steps=10")
        try:
            wait_for(lambda: states(grid) == ["running"] * 4)
            process.kill()  # the jobs go on; the grid is made smaller
            process.communicate()
            smaller = ratio_grid.build(grid.base, (0.9,))
            write_plan(smaller)
            assert cancel.main(["mask_ratio", "--obsolete", "--yes", *root_of(grid)]) == 0
            assert "2 point(s) cancelled" in capsys.readouterr().out
            wanted = {point.fingerprint for point in smaller.points()}
            running = [state == "running" for state in states(grid)]
            assert running == [point.fingerprint in wanted for point in grid.points()]
        finally:
            assert cancel.main(["mask_ratio", "--yes", "--grace", "20", *root_of(grid)]) == 0
    assert states(grid) == ["cancelled"] * 4
