"""Real submitit processes, real files, real signals; only the experiment is a small one
(tests/sweeps/jobs.py).
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from submitit.slurm.slurm import _make_sbatch_string

from ablations import mask_ratio
from ablations.design import Ablation, Point
from simvtp.config.overrides import override
from simvtp.config.schema import Experiment
from simvtp.errors import UserError
from simvtp.runs.journal import read_journal
from sweeps.engine.sweep_engine import Summary, run_sweep, sweep_folder
from sweeps.monitor.run_state import ALIVE
from sweeps.runner import Options, point_state
from sweeps.runner.local import LocalJobs
from sweeps.runner.point import PointJob
from sweeps.runner.slurm import slurm_parameters
from sweeps.study import GridStudy
from tests.sweeps.conftest import ENTRY, ROOT, change

LOCAL = Options(entry=ENTRY, parallel=2)

CONTROLLER = """
import sys
from ablations import mask_ratio
from simvtp.config.overrides import override
from simvtp.config.recipes import tiny
from sweeps.engine.sweep_engine import run_sweep
from sweeps.runner import Options
run_sweep(mask_ratio.build(override(tiny(), sys.argv[1:])), Options(entry="tests.sweeps.jobs:run", parallel=2), every_s=0.5)
"""


def sweep(ablation: Ablation, **options: object) -> Summary:
    return run_sweep(ablation, LOCAL, poll_s=0.1, **options)  # type: ignore[arg-type]


def states(done: Summary) -> list[str]:
    return [outcome.state.state for outcome in done.outcomes]


def steps(point: Point) -> list[int]:
    return [
        line["step"]
        for _, line in read_journal(point.run_dir / "journal.jsonl")
        if line["kind"] == "metrics"
    ]


def starts(point: Point) -> int:
    return len((point.run_dir / "starts.txt").read_text().split())


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "it did not happen in time"
        time.sleep(0.05)


def start_controller(base: Experiment, *settings: str) -> subprocess.Popen[str]:
    given = [f"runtime.root={base.runtime.root}", "runtime.tracking_uri=off", *settings]
    return subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, *given],
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
    assert [outcome.value for outcome in done.outcomes] == pytest.approx([7.5, 37.5, 13.5, 67.5])
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


def test_a_controller_that_is_killed_loses_nothing_and_runs_nothing_twice(base: Experiment) -> None:
    longer = override(
        base, ["pretrain.max_steps=120"]
    )  # six seconds: a busy machine takes its time to start the second controller
    grid = mask_ratio.build(longer)
    points = grid.points()
    first = start_controller(longer, "pretrain.max_steps=120")
    wait_for(lambda: all((point.run_dir / "journal.jsonl").exists() for point in points[:2]))
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert [point_state(point).state in ALIVE for point in points] == [True, True, False, False]
    second = start_controller(longer, "pretrain.max_steps=120")
    out, _ = second.communicate(timeout=120)
    assert second.returncode == 0, out
    assert out.count("is running already") == 2
    for point in points:
        assert steps(point) == list(range(1, 121)) and starts(point) == 1
    study = GridStudy(sweep_folder(grid) / "study.journal", grid.sweep_id, points)
    assert study.counts() == {"COMPLETE": 4}, "adopted, not submitted again"


def test_jobs_that_are_killed_with_their_controller_continue_from_their_checkpoint(
    base: Experiment,
) -> None:
    longer = override(base, ["pretrain.max_steps=40"])
    grid = mask_ratio.build(longer)
    points = grid.points()
    first = start_controller(longer, "pretrain.max_steps=40")
    wait_for(lambda: all((point.run_dir / "checkpoint.json").exists() for point in points[:2]))
    os.kill(first.pid, signal.SIGKILL)  # and the machine goes down, so to say
    for point in points[:2]:
        os.killpg(json.loads((point.run_dir / "job.json").read_text())["pid"], signal.SIGKILL)
    first.wait()
    wait_for(lambda: [point_state(point).state for point in points[:2]] == ["killed", "killed"])
    done = sweep(grid)
    assert states(done) == ["finished"] * 4
    assert [starts(point) for point in points] == [2, 2, 1, 1]
    for point in points[:2]:
        assert sorted(set(steps(point))) == list(range(1, 41))
    assert GridStudy(sweep_folder(grid) / "study.journal", grid.sweep_id, points).counts() == {
        "FAIL": 2,
        "COMPLETE": 4,
    }


def test_ctrl_c_lets_the_jobs_save_and_the_same_command_continues(base: Experiment) -> None:
    grid = mask_ratio.build(override(base, ["pretrain.max_steps=60"]), (0.9,), (0.15, 0.75))
    program = CONTROLLER.replace(
        "override(tiny(), sys.argv[1:])", "override(tiny(), sys.argv[1:]), (0.9,), (0.15, 0.75)"
    )
    given = [
        f"runtime.root={base.runtime.root}",
        "runtime.tracking_uri=off",
        "pretrain.max_steps=60",
    ]
    first = subprocess.Popen(
        [sys.executable, "-c", program, *given],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(lambda: all((point.run_dir / "checkpoint.json").exists() for point in grid.points()))
    pids = [json.loads((point.run_dir / "job.json").read_text())["pid"] for point in grid.points()]
    first.send_signal(signal.SIGINT)
    out, _ = first.communicate(timeout=120)
    assert "stopping 2 job(s)" in out
    assert not any(
        psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        for pid in pids
    )
    assert [point_state(point).state for point in grid.points()] == ["stopped", "stopped"]
    assert states(sweep(grid)) == ["finished", "finished"]
    for point in grid.points():
        assert steps(point) == list(range(1, 61)), (
            "stopped after a step, continued with the next one"
        )


def test_a_failing_point_is_reported_and_the_others_go_on(
    grid: Ablation, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = change(grid, "finetune.enabled=false")
    mixed = mask_ratio.build(failing.base, (0.9,), (0.15, 0.75))
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
    one = mask_ratio.build(grid.base, (0.9,), (0.75,))
    done = run_sweep(one, Options(entry="tests.sweeps.jobs:crash"), poll_s=0.1)
    assert done.outcomes[0].reason == "ZeroDivisionError: a defect"
    out = capsys.readouterr().out
    assert 'tests/sweeps/jobs.py", line' in out and "    | ZeroDivisionError: a defect" in out


def test_one_point_killed_from_outside_does_not_stop_the_others(
    base: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = mask_ratio.build(override(base, ["losses.mvm=2"]), (0.9,), (0.15, 0.75))
    finished = grid.points()[1]
    finished.run_dir.mkdir(parents=True)
    (finished.run_dir / "checkpoint.json").write_text(
        '{"step": 8}'
    )  # past the step at which it would die
    assert states(sweep(grid)) == ["killed", "finished"]
    assert "went away without a word" in capsys.readouterr().out


def test_two_jobs_for_one_experiment_wait_for_each_other(base: Experiment) -> None:
    """A controller killed between submitting and writing the job down leads to a second job: it
    must not write beside the first.
    """
    grid = mask_ratio.build(override(base, ["pretrain.max_steps=20"]), (0.9,), (0.75,))
    point = grid.points()[0]
    executor = LocalJobs(LOCAL, sweep_folder(grid), 2)
    jobs = executor.submit([point, point])
    wait_for(lambda: not any(executor.alive(job) for job in jobs))
    assert steps(point) == list(range(1, 21)) and starts(point) == 1


def test_a_process_that_lost_its_parent_is_still_watched(base: Experiment) -> None:
    grid = mask_ratio.build(override(base, ["pretrain.max_steps=60"]), (0.9,), (0.75,))
    point = grid.points()[0]
    executor = LocalJobs(LOCAL, sweep_folder(grid), 1)
    job = executor.submit([point])[0]
    job.write()
    wait_for(lambda: (point.run_dir / "status.json").exists())
    os.kill(job.record["pid"], signal.SIGKILL)  # submitit's process, not the experiment
    wait_for(lambda: not executor.alive(job))
    assert states(sweep(grid)) == ["finished"]
    assert steps(point) == list(range(1, 61)) and starts(point) == 1


def test_setup_commands_run_before_the_job_and_their_failure_is_shown(
    base: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = mask_ratio.build(base, (0.9,), (0.75,))
    broken = Options(entry=ENTRY, setup=("echo preparing", "no-such-command"))
    done = run_sweep(grid, broken, poll_s=0.1)
    assert states(done) == ["killed"] and "no-such-command" in capsys.readouterr().out
    point = grid.points()[0]
    marked = Options(
        entry=ENTRY, setup=(f"mkdir -p {point.run_dir}", f"echo $$ > {point.run_dir}/setup.txt")
    )
    assert states(run_sweep(grid, marked, poll_s=0.1)) == ["finished"]
    record = json.loads((point.run_dir / "job.json").read_text())
    assert int((point.run_dir / "setup.txt").read_text()) == record["pid"], (
        "the job keeps the process id of its setup"
    )


def test_only_selected_points_are_run(grid: Ablation) -> None:
    chosen = grid.points()[2]
    done = sweep(grid, selected={chosen.fingerprint})
    assert states(done) == ["finished"]
    assert [point_state(point).state for point in grid.points()] == [
        "missing",
        "missing",
        "finished",
        "missing",
    ]


def test_a_second_controller_is_sent_away(grid: Ablation) -> None:
    folder = sweep_folder(grid)
    folder.mkdir(parents=True)
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import fcntl,time; f=open({str(folder / 'controller.lock')!r},'a+'); fcntl.lockf(f, fcntl.LOCK_EX); f.write('process 1 on n1'); f.flush(); print('held', flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert holder.stdout is not None and holder.stdout.readline().strip() == "held"
    try:
        with pytest.raises(UserError, match="this sweep is being run by process 1 on n1 already"):
            sweep(grid)
    finally:
        holder.kill()
        holder.wait()
    with open(folder / "controller.lock") as file:  # the lock went with its process
        fcntl.lockf(open(folder / "controller.lock", "a"), fcntl.LOCK_EX | fcntl.LOCK_NB)  # noqa: SIM115
        assert file.read() == "process 1 on n1"


def test_an_experiment_that_runs_by_hand_is_watched_and_not_started_again(base: Experiment) -> None:
    grid = mask_ratio.build(override(base, ["pretrain.max_steps=60"]), (0.9,), (0.75,))
    point = grid.points()[0]
    program = "import sys; from ablations import mask_ratio; from simvtp.config.overrides import override; from simvtp.config.recipes import tiny; from tests.sweeps.jobs import run; run(mask_ratio.build(override(tiny(), sys.argv[1:]), (0.9,), (0.75,)).points()[0].experiment)"
    by_hand = subprocess.Popen(
        [
            sys.executable,
            "-c",
            program,
            f"runtime.root={base.runtime.root}",
            "pretrain.max_steps=60",
        ],
        cwd=ROOT,
    )
    wait_for(lambda: (point.run_dir / "status.json").exists())
    assert states(sweep(grid)) == ["finished"]
    assert by_hand.wait() == 0 and starts(point) == 1 and not (point.run_dir / "job.json").exists()


def test_debug_runs_in_this_process(grid: Ablation) -> None:
    one = mask_ratio.build(grid.base, (0.9,), (0.15, 0.75))
    done = run_sweep(one, Options(executor="debug", entry=ENTRY), poll_s=0.0)
    assert states(done) == ["finished", "finished"]
    assert Counter(
        (point.run_dir / "starts.txt").read_text().strip() for point in one.points()
    ) == {str(os.getpid()): 2}


def test_each_job_gets_its_share_of_gpus_and_threads(
    tmp_path: Path, grid: Ablation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    monkeypatch.delenv("OMP_NUM_THREADS")
    executor = LocalJobs(Options(cpus=3), tmp_path, 8)
    assert executor.slots == 3
    assert [executor._environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(4)] == [
        "4",
        "5",
        "6",
        "4",
    ]
    assert executor._environment(0)["OMP_NUM_THREADS"] == "3"
    assert LocalJobs(Options(gpus=2), tmp_path, 8).slots == 1
    assert "CUDA_VISIBLE_DEVICES" not in LocalJobs(Options(gpus=0), tmp_path, 8)._environment(0)
    with pytest.raises(UserError, match="--gpus 4: this machine has 3"):
        LocalJobs(Options(gpus=4), tmp_path, 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="no GPU is visible"):
        LocalJobs(Options(gpus=1), tmp_path, 8)


def test_slurm_options_become_sbatch_flags(tmp_path: Path) -> None:
    """Only the text of the script; a real cluster is another test's business."""
    options = Options("slurm", parallel=4, gpus=8, cpus=10, mem_gb=120, minutes=2880, nodes=2, partition="gpu", account="lab", setup=("module load cuda",), slurm={"reservation": "r1"})  # fmt: skip
    script = _make_sbatch_string(
        "program", tmp_path, map_count=12, **slurm_parameters(options, "mask_ratio-0")
    )
    for flag in (
        "partition=gpu",
        "account=lab",
        "nodes=2",
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
    again = PointJob().checkpoint({"name": "x"}, ENTRY)
    assert isinstance(again.function, PointJob) and again.args == ({"name": "x"}, ENTRY), (
        "a requeued job gets the same values"
    )
