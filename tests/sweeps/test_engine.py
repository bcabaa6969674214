"""The engine with real submitit processes, files and signals; only the experiment is small."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest
from submitit.slurm.slurm import _make_sbatch_string

from ablations.design import Ablation, Point
from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override
from simvtp.errors import UserError
from simvtp.runs.journal import read_journal
from sweeps.engine.sweep_engine import run_sweep, sweep_folder
from sweeps.engine.sweep_outcome import SweepSummary
from sweeps.monitor.point_state import read_job
from sweeps.runner import JobOptions
from sweeps.runner.liveness import state_of
from sweeps.runner.local import LocalJobs
from sweeps.runner.point import PointJob
from sweeps.runner.slurm import slurm_parameters
from sweeps.runner.slurm_queue import SlurmQueue
from sweeps.study import GridStudy
from tests.sweeps import ratio_grid
from tests.sweeps.conftest import ENTRY, ROOT, change, held_jobs, release_when, wait_for
from tests.sweeps.recorded_runs import locked

LOCAL = JobOptions(entry=ENTRY, parallel=2)

CONTROLLER = """
import sys
from tests.sweeps import ratio_grid
from simvtp.config.overrides import override
from simvtp.config.recipes import tiny
from sweeps.engine.sweep_engine import run_sweep
from sweeps.runner import JobOptions
grid = ratio_grid.build(override(tiny(), sys.argv[1:]))
run_sweep(grid, JobOptions(entry="tests.sweeps.jobs:run", parallel=2), every_s=0.5)
"""


def sweep(ablation: Ablation, **options: object) -> SweepSummary:
    return run_sweep(ablation, LOCAL, poll_s=0.02, **options)  # type: ignore[arg-type]


def states(done: SweepSummary) -> list[str]:
    return [outcome.state.state for outcome in done.outcomes]


def steps(point: Point) -> list[int]:
    return [
        line["step"]
        for _, line in read_journal(point.run_dir / "journal.jsonl")
        if line["kind"] == "metrics"
    ]


def starts(point: Point) -> int:
    return len((point.run_dir / "starts.txt").read_text().split())


def start_controller(
    base: Experiment, *settings: str, program: str = CONTROLLER
) -> subprocess.Popen[str]:
    given = [f"runtime.root={base.runtime.root}", "runtime.tracking_uri=off", *settings]
    return subprocess.Popen(
        [sys.executable, "-c", program, *given],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_all_points_run_once_and_a_second_call_runs_nothing(
    grid: Ablation, capsys: pytest.CaptureFixture[str]
) -> None:
    done = sweep(grid, parent_run_id="abc")
    assert states(done) == ["finished"] * 4 and not done.unfinished
    assert [outcome.value for outcome in done.outcomes] == pytest.approx([13.5, 67.5, 14.25, 71.25])
    for point in grid.points():
        assert steps(point) == list(range(1, 11)) and starts(point) == 1
        assert json.loads((point.run_dir / "sweep.json").read_text()) == {
            "sweep_id": grid.sweep_id,
            "ablation": "mask_ratio",
            "parent_run_id": "abc",
            "cell": dict(point.cell),
        }
        assert (point.run_dir / "provenance.json").exists()
        assert json.loads((point.run_dir / "job.json").read_text())["executor"] == "local"
    folder = sweep_folder(grid)
    assert json.loads((folder / "plan.json").read_text()) == grid.plan()
    assert "finished video 0.90 text 0.75" in (folder / "sweep.log").read_text()

    (folder / "study.journal").unlink()  # a cache: rebuilt from the run directories
    assert states(sweep(grid)) == ["finished"] * 4
    assert all(starts(point) == 1 for point in grid.points())
    assert GridStudy(folder / "study.journal", grid.sweep_id, grid.points()).counts() == {
        "COMPLETE": 4
    }
    assert "4 of 4 points finished" in capsys.readouterr().out


def sweep_log(grid: Ablation) -> str:
    return (sweep_folder(grid) / "sweep.log").read_text()


def test_a_controller_that_is_killed_loses_nothing_and_runs_nothing_twice(base: Experiment) -> None:
    grid = ratio_grid.build(base)
    points = grid.points()
    with held_jobs(base) as hold:
        first = start_controller(base, "pretrain.max_steps=10")
        wait_for(lambda: all((point.run_dir / "status.json").exists() for point in points[:2]))
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        alive = [state_of(point.run_dir, SlurmQueue()).alive for point in points]
        assert alive == [True, True, False, False]
        second = start_controller(base, "pretrain.max_steps=10")
        wait_for(lambda: sweep_log(grid).count("is running already") == 2)
        hold.unlink()
        out, _ = second.communicate(timeout=120)
    assert second.returncode == 0, out
    for point in points:
        assert steps(point) == list(range(1, 11)) and starts(point) == 1
    study = GridStudy(sweep_folder(grid) / "study.journal", grid.sweep_id, points)
    assert study.counts() == {"COMPLETE": 4}, "adopted, not submitted again"


def test_jobs_that_are_killed_with_their_controller_continue_from_their_checkpoint(
    base: Experiment,
) -> None:
    grid = ratio_grid.build(base)
    points = grid.points()
    with held_jobs(base):
        first = start_controller(base, "pretrain.max_steps=10")
        wait_for(lambda: all((point.run_dir / "status.json").exists() for point in points[:2]))
        os.kill(first.pid, signal.SIGKILL)  # and the machine goes down, so to say
        for point in points[:2]:
            job = read_job(point.run_dir)
            assert job is not None
            os.killpg(job.pid, signal.SIGKILL)
        first.wait()
        wait_for(
            lambda: all(
                state_of(point.run_dir, SlurmQueue()).state == "killed" for point in points[:2]
            )
        )
    done = sweep(grid)
    assert states(done) == ["finished"] * 4
    assert [starts(point) for point in points] == [2, 2, 1, 1]
    for point in points[:2]:
        assert sorted(set(steps(point))) == list(range(1, 11))
    study = GridStudy(sweep_folder(grid) / "study.journal", grid.sweep_id, points)
    assert study.counts() == {"FAIL": 2, "COMPLETE": 4}


def test_ctrl_c_lets_the_jobs_save_and_the_same_command_continues(base: Experiment) -> None:
    grid = ratio_grid.build(base, (0.9,), (0.15, 0.75))
    program = CONTROLLER.replace(
        "override(tiny(), sys.argv[1:])", "override(tiny(), sys.argv[1:]), (0.9,), (0.15, 0.75)"
    )
    with held_jobs(base):
        first = start_controller(base, "pretrain.max_steps=10", program=program)
        wait_for(lambda: all((point.run_dir / "status.json").exists() for point in grid.points()))
        jobs = [read_job(point.run_dir) for point in grid.points()]
        first.send_signal(signal.SIGINT)
        out, _ = first.communicate(timeout=120)
    assert "stopping 2 job(s)" in out
    for job in jobs:
        assert job is not None
        assert (
            not psutil.pid_exists(job.pid)
            or psutil.Process(job.pid).status() == psutil.STATUS_ZOMBIE
        )
    found = [state_of(point.run_dir, SlurmQueue()).state for point in grid.points()]
    assert found == ["stopped", "stopped"]
    assert states(sweep(grid)) == ["finished", "finished"]
    for point in grid.points():
        assert steps(point) == list(range(1, 11)), (
            "stopped after a step, continued with the next one"
        )


def test_a_failing_point_is_reported_and_the_others_go_on(
    grid: Ablation, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = change(grid, "finetune.enabled=false")
    mixed = ratio_grid.build(failing.base, (0.9,), (0.15, 0.75))
    mixed_done = sweep(mixed)
    assert states(mixed_done) == ["failed", "failed"] and not mixed_done.interrupted
    out = capsys.readouterr().out
    assert "failed video 0.90 text 0.15: the loss became NaN at step 5" in out
    assert "    | a line before the failure" in out and "log: " in out
    assert [starts(point) for point in mixed.points()] == [1, 1], "not tried again in the same call"

    assert states(sweep(mixed)) == ["failed", "failed"]
    assert [starts(point) for point in mixed.points()] == [1, 1], "nor in the next one"
    assert states(sweep(mixed, retry=True, selected={mixed.points()[0].fingerprint})) == ["failed"]
    assert [starts(point) for point in mixed.points()] == [2, 1], "but with --retry"


def test_a_defect_shows_its_traceback(grid: Ablation, capsys: pytest.CaptureFixture[str]) -> None:
    one = ratio_grid.build(grid.base, (0.9,), (0.75,))
    done = run_sweep(one, JobOptions(entry="tests.sweeps.jobs:crash"), poll_s=0.02)
    assert done.outcomes[0].reason == "ZeroDivisionError: a defect"
    out = capsys.readouterr().out
    assert 'tests/sweeps/jobs.py", line' in out and "    | ZeroDivisionError: a defect" in out


def test_one_point_killed_from_outside_does_not_stop_the_others(
    base: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ratio_grid.build(override(base, ["losses.mvm=2"]), (0.9,), (0.15, 0.75))
    finished = grid.points()[1]
    finished.run_dir.mkdir(parents=True)
    (finished.run_dir / "checkpoint.json").write_text(
        '{"step": 8}'
    )  # past the step at which it would die
    assert states(sweep(grid)) == ["killed", "finished"]
    assert "ended without a message" in capsys.readouterr().out


def test_two_jobs_for_one_experiment_wait_for_each_other(base: Experiment) -> None:
    """A controller killed between submitting and writing job.json leads to a second job.

    It must not write at the same time as the first.
    """
    grid = ratio_grid.build(override(base, ["pretrain.max_steps=20"]), (0.9,), (0.75,))
    point = grid.points()[0]
    executor = LocalJobs(LOCAL, sweep_folder(grid), 2, SlurmQueue())
    jobs = executor.submit([point, point])
    wait_for(lambda: not any(executor.alive(job) for job in jobs))
    assert steps(point) == list(range(1, 21)) and starts(point) == 1


def test_a_process_that_lost_its_parent_is_still_watched(base: Experiment) -> None:
    grid = ratio_grid.build(base, (0.9,), (0.75,))
    point = grid.points()[0]
    executor = LocalJobs(LOCAL, sweep_folder(grid), 1, SlurmQueue())
    with held_jobs(base) as hold:
        job = executor.submit([point])[0]
        job.write()
        wait_for(lambda: (point.run_dir / "status.json").exists())
        os.kill(job.record.pid, signal.SIGKILL)  # submitit's process, not the experiment
        wait_for(lambda: not executor.alive(job))
        log = sweep_folder(grid) / "sweep.log"
        release_when(hold, lambda: log.exists() and "is running already" in log.read_text())
        assert states(sweep(grid)) == ["finished"]
    assert steps(point) == list(range(1, 11)) and starts(point) == 1


def test_setup_commands_run_before_the_job_and_their_failure_is_shown(
    base: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ratio_grid.build(base, (0.9,), (0.75,))
    broken = JobOptions(entry=ENTRY, setup=("echo preparing", "no-such-command"))
    done = run_sweep(grid, broken, poll_s=0.02)
    assert states(done) == ["killed"] and "no-such-command" in capsys.readouterr().out
    point = grid.points()[0]
    marked = JobOptions(
        entry=ENTRY, setup=(f"mkdir -p {point.run_dir}", f"echo $$ > {point.run_dir}/setup.txt")
    )
    assert states(run_sweep(grid, marked, poll_s=0.02)) == ["finished"]
    record = json.loads((point.run_dir / "job.json").read_text())
    assert int((point.run_dir / "setup.txt").read_text()) == record["pid"], (
        "the job keeps the process id of its setup"
    )


def test_only_selected_points_are_run(grid: Ablation) -> None:
    chosen = grid.points()[2]
    done = sweep(grid, selected={chosen.fingerprint})
    assert states(done) == ["finished"]
    assert [state_of(point.run_dir, SlurmQueue()).state for point in grid.points()] == [
        "missing",
        "missing",
        "finished",
        "missing",
    ]


def test_a_second_controller_is_sent_away(grid: Ablation) -> None:
    folder = sweep_folder(grid)
    folder.mkdir(parents=True)
    lock = folder / "controller.lock"
    refusal = "this sweep is being run by process 1 on n1 already"
    with locked(lock), pytest.raises(UserError, match=refusal):
        sweep(grid)
    with open(lock, "a+") as file:  # the lock went with its process
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert lock.read_text() == "process 1 on n1"


BY_HAND = """
import sys
from tests.sweeps import ratio_grid
from simvtp.config.overrides import override
from simvtp.config.recipes import tiny
from tests.sweeps.jobs import run
run(ratio_grid.build(override(tiny(), sys.argv[1:]), (0.9,), (0.75,)).points()[0].experiment)
"""


def test_an_experiment_that_runs_by_hand_is_watched_and_not_started_again(base: Experiment) -> None:
    grid = ratio_grid.build(base, (0.9,), (0.75,))
    point, log = grid.points()[0], sweep_folder(grid) / "sweep.log"
    given = [f"runtime.root={base.runtime.root}", "pretrain.max_steps=10"]
    with held_jobs(base) as hold:
        by_hand = subprocess.Popen([sys.executable, "-c", BY_HAND, *given], cwd=ROOT)
        wait_for(lambda: (point.run_dir / "status.json").exists())
        release_when(hold, lambda: log.exists() and "is running already" in log.read_text())
        assert states(sweep(grid)) == ["finished"]
    assert by_hand.wait() == 0 and starts(point) == 1 and not (point.run_dir / "job.json").exists()


def test_debug_runs_in_this_process(grid: Ablation) -> None:
    one = ratio_grid.build(grid.base, (0.9,), (0.15, 0.75))
    done = run_sweep(one, JobOptions(executor="debug", entry=ENTRY), poll_s=0.0)
    assert states(done) == ["finished", "finished"]
    assert Counter(
        (point.run_dir / "starts.txt").read_text().strip() for point in one.points()
    ) == {str(os.getpid()): 2}


def test_each_job_gets_its_share_of_gpus_and_threads(
    tmp_path: Path, grid: Ablation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    monkeypatch.setattr("sweeps.runner.local.torch_devices", lambda: 3)  # this machine has none
    monkeypatch.delenv("OMP_NUM_THREADS")
    executor = LocalJobs(JobOptions(cpus=3), tmp_path, 8, SlurmQueue())
    assert executor.slots == 3
    assert [executor._environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(4)] == [
        "4",
        "5",
        "6",
        "4",
    ]
    assert executor._environment(0)["OMP_NUM_THREADS"] == "3"
    assert LocalJobs(JobOptions(gpus=2), tmp_path, 8, SlurmQueue()).slots == 1
    assert "CUDA_VISIBLE_DEVICES" not in LocalJobs(
        JobOptions(gpus=0), tmp_path, 8, SlurmQueue()
    )._environment(0)
    with pytest.raises(UserError, match="--gpus 4: this machine has 3"):
        LocalJobs(JobOptions(gpus=4), tmp_path, 8, SlurmQueue())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="no GPU is visible"):
        LocalJobs(JobOptions(gpus=1), tmp_path, 8, SlurmQueue())


def test_slurm_options_become_sbatch_flags(tmp_path: Path) -> None:
    """Only the text of the script; a real cluster is another test's business."""
    options = JobOptions(
        "slurm",
        parallel=4,
        gpus=8,
        cpus=10,
        memory="120G",
        minutes=2880,
        nodes=2,
        partition="gpu",
        account="lab",
        setup=("module load cuda",),
        slurm={"reservation": "r1"},
    )
    script = _make_sbatch_string(
        "program", tmp_path, map_count=12, **slurm_parameters(options, "mask_ratio-0")
    )
    for flag in (
        *("partition=gpu", "account=lab", "nodes=2"),
        "gpus-per-node=8",
        "ntasks-per-node=8",
        "cpus-per-task=10",
        "mem=120G",
        "time=2880",
    ):
        assert f"#SBATCH --{flag}\n" in script
    assert (
        "--array=0-11%4" in script
        and "--signal=USR2@120" in script
        and "#SBATCH --requeue" in script
        and "--reservation=r1" in script
    )
    assert "--kill-on-bad-exit=1" in script and "module load cuda" in script
    assert re.search(r"^srun .*--cpus-per-task=10 --cpu-bind=cores ", script, re.MULTILINE)
    again = PointJob().checkpoint({"name": "x"}, ENTRY)
    assert isinstance(again.function, PointJob) and again.args == ({"name": "x"}, ENTRY), (
        "a requeued job gets the same values"
    )
