"""Causes of ended jobs, restarts, and budgets."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from ablations.design import Ablation
from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override
from simvtp.config.tree import to_dict
from simvtp.errors import RankLost, StopReason, UserError
from simvtp.runs.attempts import attempts
from simvtp.runs.lease import hold
from simvtp.runs.run_records import JobEnd, JobRecord, RunState, RunStatus
from simvtp.runs.rundir import StatusWriter
from sweeps.engine.budget import Budget
from sweeps.engine.retry_policy import RetryPolicy, lost, write_cause
from sweeps.engine.sweep_engine import run_sweep
from sweeps.monitor.point_state import (
    RANK_FAILURE,
    PointState,
    gpu_hours,
    read_job,
    read_state,
    record_end,
    write_job,
)
from sweeps.runner import JobOptions
from sweeps.runner.job import run_job
from sweeps.runner.job_end import from_accounting, from_controller
from tests.sweeps import ratio_grid
from tests.sweeps.conftest import ENTRY, change

LOCAL = JobOptions(entry=ENTRY, parallel=2)


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (["7|CANCELLED by 0|0:0|n1", "7.0|CANCELLED|0:15|n1"], "cancelled"),
        (
            ["7|FAILED|1:0|n1", "7.batch|FAILED|1:0|n1", "7.0|OUT_OF_MEMORY|0:125|n1"],
            "out_of_memory",
        ),
        (["7|NODE_FAIL|1:0|n2"], "node_fail"),
        (["7|FAILED|0:9|n2"], "killed"),
        (["7|FAILED|137:0|n2"], "killed"),
        (["7|FAILED|1:0|n2"], "failed"),
        (["7|TIMEOUT|0:0|n2", "7.batch|CANCELLED|0:15|n2"], "timeout"),
        (["7|PREEMPTED|0:0|n2"], "preempted"),
        (["7|COMPLETED|0:0|n2"], "completed"),
        (["7|RUNNING|0:0|n2"], None),
        (["7|PENDING|0:0|None assigned"], None),
        ([], None),
    ],
)
def test_causes_from_the_accounting(lines: list[str], cause: str | None) -> None:
    found = from_accounting(lines).get("7")
    assert (found.cause if found else None) == cause


def test_causes_of_array_elements_and_from_the_controller() -> None:
    found = from_accounting(
        ["7_1|COMPLETED|0:0|n1", "7_1.0|COMPLETED|0:0|n1", "7_2|CANCELLED by 0|0:0|n1"]
    )
    assert {key: cause.cause for key, cause in found.items()} == {
        "7_1": "completed",
        "7_2": "cancelled",
    }
    said = from_controller(
        "JobId=9 JobName=x UserId=root(0) JobState=NODE_FAIL Reason=NodeDown "
        "ExitCode=0:1 NodeList=n3"
    )
    assert said is not None and said.cause == "node_fail" and "n3" in said.message
    assert (
        from_controller("JobId=9 JobState=RUNNING ExitCode=0:0") is None
        and from_controller("") is None
    )


def state(
    name: RunState,
    cause: str = "",
    message: str = "",
    executor: str = "slurm",
    reason: StopReason | None = None,
) -> PointState:
    job = JobRecord(executor, "7", ended=JobEnd(cause, message) if cause else None)
    return PointState(name, RunStatus(name, message=message, reason=reason), job)


def test_what_is_continued_without_being_asked() -> None:
    yes = [
        state(RunState.KILLED, cause)
        for cause in ("node_fail", "killed", "preempted", "timeout", "unknown", "failed", "")
    ]
    yes += [
        state(RunState.STOPPED, "completed", "stopped at step 3", reason=StopReason.REQUEUE),
        state(RunState.STOPPED, "preempted", reason=StopReason.TERMINATED),
    ]
    no = [
        state(RunState.KILLED, "out_of_memory"),
        state(RunState.CANCELLED, "cancelled"),
        state(RunState.PRUNED, "pruned"),
        state(RunState.FAILED),
        state(RunState.FINISHED),
    ]
    no += [
        state(RunState.STOPPED, "", "stopped at step 3 (SIGUSR2)", reason=StopReason.TERMINATED),
        state(RunState.STOPPED, "stopped", reason=StopReason.REQUEUE),
    ]
    assert all(lost(some) for some in yes) and not any(lost(some) for some in no)


def test_a_point_that_comes_no_further_is_given_up(grid: Ablation) -> None:
    point = grid.points()[0]
    retries = RetryPolicy(2)
    asked = [retries.wanted(point, state(RunState.KILLED, "killed")) for _ in range(3)]
    assert asked == [True, True, False]
    (point.run_dir / "checkpoints" / "pretrain").mkdir(parents=True)
    (point.run_dir / "checkpoints" / "pretrain" / "step_00000010.pt").touch()
    assert retries.wanted(point, state(RunState.KILLED, "killed")), "it has come further"
    assert not RetryPolicy(0).wanted(point, state(RunState.KILLED, "killed"))


def test_a_point_whose_second_rank_has_failed_by_itself_is_not_continued(grid: Ablation) -> None:
    point = grid.points()[0]
    point.run_dir.mkdir(parents=True)
    (point.run_dir / RANK_FAILURE).write_text(
        json.dumps({"rank": 1, "message": "ValueError: no", "at": time.time()})
    )
    assert not RetryPolicy(2).wanted(point, state(RunState.KILLED, "failed"))


def test_a_silent_rank_is_named_in_the_table(tmp_path: Path) -> None:
    # What nccl says before it ends its own process is in the job's log alone.
    log = tmp_path / "7.err"
    log.write_text(
        "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9, "
        "OpType=ALLREDUCE) ran for 600010 milliseconds before timing out.\nAborted (core dumped)\n"
    )
    job = JobRecord("slurm", "7", stderr=str(log))
    write_job(tmp_path, job)
    found = PointState(RunState.KILLED, None, job)
    write_cause(tmp_path, found, JobEnd("failed", "its process ended with status 6 (on n1)"))
    ended = read_job(tmp_path)
    assert ended is not None and ended.ended is not None and ended.ended.cause == "failed"
    assert "did not answer in time" in ended.ended.message
    assert lost(PointState(RunState.KILLED, None, ended)), "it is continued"


def test_a_rank_whose_fellow_has_gone_ends_as_a_lost_job(
    base: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost_rank(experiment: Experiment, say: object) -> None:
        with StatusWriter(experiment.run_dir, writes=True):
            raise RankLost("another process of this run has gone away")

    monkeypatch.setattr("sweeps.runner.job._load", lambda entry: lost_rank)
    with pytest.raises(RankLost):
        run_job(to_dict(base))
    assert read_state(base.run_dir, alive=False).state == RunState.KILLED
    assert lost(read_state(base.run_dir, alive=False))


def test_a_killed_point_is_continued_in_the_same_call(base: Experiment) -> None:
    dies = ratio_grid.build(
        override(base, ["losses.mvm=2"]), video_ratios=(0.5,), text_ratios=(0.5,)
    )
    done = run_sweep(dies, JobOptions(entry=ENTRY, continuations=2), poll_s=0.02)
    assert [outcome.state.state for outcome in done.outcomes] == [RunState.FINISHED]
    assert len(attempts(dies.points()[0].run_dir)) == 2


def test_a_cancelled_point_is_left_alone_until_it_is_asked_for(
    grid: Ablation, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = grid.points()
    run_sweep(grid, LOCAL, poll_s=0.02, selected={first.fingerprint})
    (first.run_dir / "results.json").unlink()
    (first.run_dir / "status.json").unlink()
    record_end(first.run_dir, "cancelled", "cancelled by the user", "sweeps/cancel.py")
    time.sleep(0.01)
    assert read_state(first.run_dir).state == RunState.CANCELLED
    done = run_sweep(grid, LOCAL, poll_s=0.02)
    assert [outcome.state.state for outcome in done.outcomes] == [RunState.CANCELLED] + [
        RunState.FINISHED
    ] * len(others)
    assert "cancelled by the user" in capsys.readouterr().out
    assert not run_sweep(grid, LOCAL, poll_s=0.02, retry=True).unfinished


def test_a_rank_that_fails_leaves_its_reason_and_ends_with_an_error(
    base: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simvtp.config.tree import to_dict

    fails = change(
        ratio_grid.build(base, video_ratios=(0.5,), text_ratios=(0.5,)), "finetune.enabled=false"
    ).points()[0]
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UserError, match="NaN at step"):
        run_job(to_dict(fails.experiment), ENTRY)
    said = json.loads((fails.run_dir / "rank_failure.json").read_text())
    assert said["rank"] == 1 and "NaN at step" in said["message"] and not attempts(fails.run_dir)


def test_a_budget_counts_what_was_set_aside_and_starts_no_more_than_it_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    budget = Budget(1.0)
    assert budget.allows(running=3), "nothing is known before the first point has finished"
    for number in range(2):
        folder = tmp_path / str(number)
        with hold(folder):
            pass
        path = folder / "lease" / "00000001.ended.json"
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, "began": 0.0, "ended": 720.0}))  # 0.2 h on two GPUs
        assert gpu_hours(folder) == pytest.approx(0.4)
        budget.close(folder, PointState(RunState.FINISHED))
    assert budget.spent == pytest.approx(0.8) and budget.per_point == pytest.approx(0.4)
    assert not budget.allows(running=0) and not budget.used_up
    assert Budget(2.0).allows(100)
    budget.limit = 1.25
    assert budget.allows(running=0) and not budget.allows(running=1)
