"""The order of jobs, attempts and ends never depends on the clocks of two machines."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest

from ablations.design import Ablation
from simvtp.runs.run_records import JobRecord, RunState, RunStatus
from sweeps.engine.sweep_engine import run_sweep
from sweeps.monitor.point_state import (
    RANK_FAILURE,
    rank_failure,
    read_job,
    read_state,
    record_end,
    write_job,
)
from sweeps.runner import JobOptions
from tests.sweeps.conftest import change

NODE = {"host": "n1", "pid": 41, "pid_started": 7.0}


def write_attempt(run_dir: Path, token: int, ended: bool = True, **values: object) -> None:
    """Writes the lease file of an attempt on another machine."""
    folder = run_dir / "lease"
    folder.mkdir(parents=True, exist_ok=True)
    record = {"token": token, "began": 1.0, **NODE, **values}
    record |= {"ended": 2.0} if ended else {}
    name = f"{token:08d}.ended.json" if ended else f"{token:08d}.json"
    (folder / name).write_text(json.dumps(record))


def write_status(run_dir: Path, state: RunState, updated: float) -> None:
    status = RunStatus(state, message="a reason", updated=updated, host="n1", pid=41)
    status = dataclasses.replace(status, pid_started=7.0)
    (run_dir / "status.json").write_text(json.dumps(status.to_dict()))


def job(attempt: int) -> JobRecord:
    return JobRecord("local", "5", submitted=time.time(), after_attempt=attempt, host="n1", pid=40)


@pytest.mark.parametrize("skew_s", [-600.0, -3.0, 0.0, 3.0, 600.0])
def test_a_status_belongs_to_the_job_whose_attempt_wrote_it(tmp_path: Path, skew_s: float) -> None:
    write_attempt(tmp_path, 1)
    write_status(tmp_path, RunState.FAILED, time.time() + skew_s)
    write_job(tmp_path, job(attempt=0))
    assert read_state(tmp_path, alive=False).state == RunState.FAILED, "it ended this job"
    write_job(tmp_path, job(attempt=1))
    state = read_state(tmp_path, alive=False)
    assert state.state == RunState.KILLED and state.status is None, "of an earlier job"
    assert read_state(tmp_path, alive=True).state == RunState.STARTING


@pytest.mark.parametrize("skew_s", [-600.0, 600.0])
def test_a_point_is_cancelled_until_another_attempt_starts(tmp_path: Path, skew_s: float) -> None:
    write_attempt(tmp_path, 1, began=time.time() + skew_s)
    write_job(tmp_path, job(attempt=0))
    record_end(tmp_path, RunState.CANCELLED, "", "a test")
    assert read_state(tmp_path, alive=False).state == RunState.CANCELLED
    write_attempt(tmp_path, 2, began=time.time() + skew_s)
    write_status(tmp_path, RunState.STOPPED, time.time() + skew_s)
    assert read_state(tmp_path, alive=False).state == RunState.STOPPED, "started by hand since"


def test_the_failure_of_a_rank_belongs_to_its_job(tmp_path: Path) -> None:
    note = {"rank": 1, "message": "no", "at": time.time() - 600, "job_id": "5"}
    (tmp_path / RANK_FAILURE).write_text(json.dumps(note))
    assert rank_failure(tmp_path, job(0)) == "rank 1: no"
    assert rank_failure(tmp_path, dataclasses.replace(job(0), job_id="6")) == ""


def test_a_job_whose_clock_is_behind_fails_once(
    grid: Ablation, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = change(grid, "finetune.enabled=false")
    options = JobOptions(entry="tests.sweeps.jobs:run_ten_minutes_behind", continuations=3)
    done = run_sweep(failing, options, poll_s=0.02, selected={failing.points()[0].fingerprint})
    (outcome,) = done.outcomes
    assert outcome.state.state == RunState.FAILED
    assert outcome.reason.startswith("the loss became NaN")
    assert len((outcome.point.run_dir / "starts.txt").read_text().split()) == 1
    record = read_job(outcome.point.run_dir)
    assert record is not None and record.after_attempt == 0
