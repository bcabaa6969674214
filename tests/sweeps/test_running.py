"""How jobs are run: frozen code, cluster profiles, causes of ended jobs, continuations, budgets,
controllers in the background.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ablations import mask_ratio
from ablations.design import Ablation
from ablations.search import Search
from ablations.search import build as build_search
from simvtp.config.overrides import override
from simvtp.config.schema import Experiment, to_dict
from simvtp.errors import ConfigError, RankLost, StopReason, UserError
from simvtp.runs.attempts import attempts
from simvtp.runs.lease import hold
from simvtp.runs.rundir import StatusWriter
from sweeps.cli.command import main
from sweeps.cli.options import make_options, read_arguments
from sweeps.engine.budget import Budget
from sweeps.engine.retry_policy import Continuations, lost
from sweeps.engine.sweep_engine import run_sweep
from sweeps.mask_ratio import SWEEP
from sweeps.monitor.run_state import (
    CANCELLED,
    FAILED,
    FINISHED,
    KILLED,
    PRUNED,
    RANK_FAILURE,
    STOPPED,
    PointState,
    gpu_hours,
    note_end,
    read_state,
)
from sweeps.runner import Options
from sweeps.runner.code_snapshot import freeze
from sweeps.runner.job import run_job
from sweeps.runner.slurm import slurm_parameters
from sweeps.runner.slurm_queue import _from_accounting, _from_controller
from sweeps.study import open_study
from tests.sweeps.conftest import ENTRY, ROOT, change

LOCAL = Options(entry=ENTRY, parallel=2)


# ---- frozen code ---------------------------------------------------------------------------------


def small_tree(folder: Path, word: str) -> Path:
    """A source tree whose job says a word."""
    for package in ("simvtp", "ablations", "sweeps", "extra"):
        (folder / package).mkdir(parents=True, exist_ok=True)
        (folder / package / "__init__.py").write_text("")
    (folder / "extra" / "job.py").write_text(f"WORD = {word!r}\n")
    (folder / "extra" / "data.bin").write_bytes(b"not code")
    return folder


def word_of(environment: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "import extra.job; print(extra.job.WORD)"],
        env=os.environ | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or done.stderr


def test_a_job_imports_the_code_of_its_submission_whatever_becomes_of_the_tree(
    tmp_path: Path,
) -> None:
    source = small_tree(tmp_path / "source", "submitted")
    frozen = freeze(tmp_path / "runs", "extra.job:run", source)
    small_tree(source, "edited later")
    assert word_of(frozen.environment(), cwd=source) == "submitted", (
        "the folder in which the job starts must not win"
    )
    later = freeze(tmp_path / "runs", "extra.job:run", source)
    assert later.path != frozen.path and word_of(later.environment(), cwd=source) == "edited later"
    assert not (frozen.path / "extra" / "data.bin").exists()


def test_the_same_code_is_copied_once_and_an_edited_copy_is_replaced(tmp_path: Path) -> None:
    source = small_tree(tmp_path / "source", "submitted")
    first = freeze(tmp_path / "runs", "extra.job:run", source)
    again = freeze(tmp_path / "runs", "extra.job:run", source)
    assert first == again and len(list((tmp_path / "runs" / "sweeps" / "code").iterdir())) == 1
    edited = first.path / "extra" / "job.py"
    edited.chmod(0o644)
    edited.write_text("WORD = 'tampered'\n")
    assert (
        word_of(freeze(tmp_path / "runs", "extra.job:run", source).environment(), tmp_path)
        == "submitted"
    )


def test_a_sweep_runs_its_frozen_code_and_says_which(grid: Ablation) -> None:
    done = run_sweep(grid, LOCAL, poll_s=0.1)
    for outcome in done.outcomes:
        code = Path(read_state(outcome.point.run_dir).job["code"])
        module = Path("sweeps", "runner", "job.py")
        assert (code / module).read_text() == (ROOT / module).read_text()
        assert {attempt.token for attempt in attempts(outcome.point.run_dir)} == {1}
        lease = json.loads((outcome.point.run_dir / "lease" / "00000001.ended.json").read_text())
        assert Path(lease["code"]) == code, "the job imported something else"


# ---- cluster profiles ----------------------------------------------------------------------------


def profile(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def test_a_profile_gives_defaults_and_the_command_line_wins(tmp_path: Path) -> None:
    text = 'executor = "slurm"\npartition = "gpu"\ngpus = 4\ntime = "2:00"\nsetup = ["module load x"]\n[sbatch]\nexclude = "n1"\n'
    args = read_arguments(
        SWEEP, ["--cluster", profile(tmp_path, text), "--gpus", "2", "--setup", "echo"]
    )
    options = make_options(args)
    assert (options.executor, options.partition, options.gpus, options.minutes) == (
        "slurm",
        "gpu",
        2,
        120,
    )
    assert (
        options.setup == ("module load x", "echo")
        and options.slurm == {"exclude": "n1"}
        and options.continuations == 3
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('partitoin = "gpu"', "did you mean partition?"),
        ("gpus = [1]", "gpus is one value"),
        ('setup = "echo"', "setup is a list"),
        ('time = "soon"', "'soon' is not a time"),
        ('executor = "pbs"', "one of local, slurm, debug"),
        ("gpus = ", "is not TOML"),
        ('root = "x"', "there is no option root"),
    ],
)
def test_a_wrong_profile_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        read_arguments(SWEEP, ["--cluster", profile(tmp_path, text)])


def test_the_profiles_that_come_with_the_project_are_valid() -> None:
    for path in (ROOT / "sweeps" / "clusters").glob("*.toml"):
        options = make_options(read_arguments(SWEEP, ["--cluster", path.stem]))
        assert slurm_parameters(options, "name")["nodes"] == 1


@pytest.mark.parametrize(("minutes", "seconds"), [(1, 1), (3, 60), (10, 120), (0, 120)])
def test_the_warning_before_the_time_limit_leaves_half_of_it(minutes: int, seconds: int) -> None:
    assert slurm_parameters(Options("slurm", minutes=minutes), "name")["signal_delay_s"] == seconds


def test_an_unknown_profile_names_those_that_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SWEEP, ["--cluster", "nowhere", "--dry-run"]) == 2
    assert "example" in capsys.readouterr().err


# ---- why jobs ended ------------------------------------------------------------------------------


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
    found = _from_accounting(lines).get("7")
    assert (found.cause if found else None) == cause


def test_causes_of_array_elements_and_from_the_controller() -> None:
    found = _from_accounting(
        ["7_1|COMPLETED|0:0|n1", "7_1.0|COMPLETED|0:0|n1", "7_2|CANCELLED by 0|0:0|n1"]
    )
    assert {key: cause.cause for key, cause in found.items()} == {
        "7_1": "completed",
        "7_2": "cancelled",
    }
    said = _from_controller(
        "JobId=9 JobName=x UserId=root(0) JobState=NODE_FAIL Reason=NodeDown ExitCode=0:1 NodeList=n3"
    )
    assert said is not None and said.cause == "node_fail" and "n3" in said.message
    assert (
        _from_controller("JobId=9 JobState=RUNNING ExitCode=0:0") is None
        and _from_controller("") is None
    )


def state(
    name: str,
    cause: str = "",
    message: str = "",
    executor: str = "slurm",
    reason: StopReason | None = None,
) -> PointState:
    job = {
        "executor": executor,
        **({"ended": {"cause": cause, "message": message}} if cause else {}),
    }
    return PointState(name, {"message": message, "reason": reason}, job)


def test_what_is_continued_without_being_asked() -> None:
    yes = [
        state(KILLED, cause)
        for cause in ("node_fail", "killed", "preempted", "timeout", "unknown", "failed", "")
    ]
    yes += [
        state(STOPPED, "completed", "stopped at step 3", reason=StopReason.REQUEUE),
        state(STOPPED, "preempted", reason=StopReason.TERMINATED),
    ]
    no = [
        state(KILLED, "out_of_memory"),
        state(CANCELLED, "cancelled"),
        state(PRUNED, "pruned"),
        state(FAILED),
        state(FINISHED),
    ]
    no += [
        state(STOPPED, "", "stopped at step 3 (SIGUSR2)", reason=StopReason.TERMINATED),
        state(STOPPED, "stopped", reason=StopReason.REQUEUE),
    ]
    assert all(lost(some) for some in yes) and not any(lost(some) for some in no)


def test_a_point_that_comes_no_further_is_given_up(grid: Ablation) -> None:
    point = grid.points()[0]
    continuations = Continuations(2)
    asked = [continuations.wanted(point, state(KILLED, "killed")) for _ in range(3)]
    assert asked == [True, True, False]
    (point.run_dir / "checkpoints" / "pretrain").mkdir(parents=True)
    (point.run_dir / "checkpoints" / "pretrain" / "step_00000010.pt").touch()
    assert continuations.wanted(point, state(KILLED, "killed")), "it has come further"
    assert not Continuations(0).wanted(point, state(KILLED, "killed"))


def test_a_point_whose_second_rank_has_failed_by_itself_is_not_continued(grid: Ablation) -> None:
    point = grid.points()[0]
    point.run_dir.mkdir(parents=True)
    (point.run_dir / RANK_FAILURE).write_text(
        json.dumps({"rank": 1, "message": "ValueError: no", "at": time.time()})
    )
    assert not Continuations(2).wanted(point, state(KILLED, "failed"))


def test_a_rank_whose_fellow_has_gone_ends_as_a_lost_job(
    base: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost_rank(experiment: Experiment, say: object) -> None:
        with StatusWriter(experiment.run_dir, writes=True):
            raise RankLost("another process of this run has gone away")

    monkeypatch.setattr("sweeps.runner.job._load", lambda entry: lost_rank)
    with pytest.raises(RankLost):
        run_job(to_dict(base))
    assert read_state(base.run_dir, alive=False).state == KILLED
    assert lost(read_state(base.run_dir, alive=False))


def test_a_killed_point_is_continued_in_the_same_call(base: Experiment) -> None:
    dies = mask_ratio.build(
        override(base, ["losses.mvm=2"]), video_ratios=(0.5,), text_ratios=(0.5,)
    )
    done = run_sweep(dies, Options(entry=ENTRY, continuations=2), poll_s=0.1)
    assert [outcome.state.state for outcome in done.outcomes] == [FINISHED]
    assert len(attempts(dies.points()[0].run_dir)) == 2


def test_a_cancelled_point_is_left_alone_until_it_is_asked_for(
    grid: Ablation, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = grid.points()
    run_sweep(grid, LOCAL, poll_s=0.1, selected={first.fingerprint})
    (first.run_dir / "results.json").unlink()
    (first.run_dir / "status.json").unlink()
    note_end(first.run_dir, "cancelled", "cancelled by the user", "sweeps/cancel.py")
    time.sleep(0.01)
    assert read_state(first.run_dir).state == CANCELLED
    done = run_sweep(grid, LOCAL, poll_s=0.1)
    assert [outcome.state.state for outcome in done.outcomes] == [CANCELLED] + [FINISHED] * len(
        others
    )
    assert "cancelled by the user" in capsys.readouterr().out
    assert not run_sweep(grid, LOCAL, poll_s=0.1, retry=True).unfinished


def test_a_rank_that_fails_leaves_its_reason_and_ends_with_an_error(
    base: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simvtp.config.schema import to_dict

    fails = change(
        mask_ratio.build(base, video_ratios=(0.5,), text_ratios=(0.5,)), "finetune.enabled=false"
    ).points()[0]
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UserError, match="NaN at step"):
        run_job(to_dict(fails.experiment), ENTRY)
    said = json.loads((fails.run_dir / "rank_failure.json").read_text())
    assert said["rank"] == 1 and "NaN at step" in said["message"] and not attempts(fails.run_dir)


# ---- budget --------------------------------------------------------------------------------------


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
        budget.close(folder, PointState(FINISHED, {}, {}))
    assert budget.spent == pytest.approx(0.8) and budget.each == pytest.approx(0.4)
    assert not budget.allows(running=0) and not budget.used_up
    assert Budget(2.0).allows(100)
    budget.limit = 1.25
    assert budget.allows(running=0) and not budget.allows(running=1)


# ---- searches ------------------------------------------------------------------------------------


def searched(base: Experiment, trials: int, **more: object) -> Search:
    scored = override(base, ["finetune.evaluations=5"])
    return build_search(scored, trials=trials, space=["masks.video_ratio=0.1:0.9"], **more)  # type: ignore[arg-type]


def replace_space(search: Search) -> Search:
    """Only the ratio, so that few points show what is better."""
    return replace(
        search,
        space=tuple(
            parameter for parameter in search.space if parameter.key == "masks.video_ratio"
        ),
    )


SCORED = Options(entry="tests.sweeps.jobs:scored", parallel=2)


def test_a_search_proposes_runs_prunes_and_can_be_asked_for_more(base: Experiment) -> None:
    search = replace_space(searched(base, 8, pruner="halving", sampler="random"))
    done = run_sweep(search, SCORED, poll_s=0.1)
    states = [outcome.state.state for outcome in done.outcomes]
    assert len(states) == 8 and set(states) <= {FINISHED, PRUNED} and not done.unfinished
    assert PRUNED in states and FINISHED in states
    values = {
        o.point.cell["masks.video_ratio"]: o.value for o in done.outcomes if o.value is not None
    }
    assert all(value == pytest.approx(100 * ratio) for ratio, value in values.items())
    pruned = next(outcome for outcome in done.outcomes if outcome.state.state == PRUNED)
    assert (
        "pruned at step" in pruned.reason and not (pruned.point.run_dir / "results.json").exists()
    )
    plan = json.loads((done.sweep_dir / "plan.json").read_text())
    assert plan["kind"] == "search" and len(plan["points"]) == 8
    more = run_sweep(replace(search, trials=10), SCORED, poll_s=0.1)
    assert more.sweep_dir == done.sweep_dir and len(more.outcomes) == 10
    assert [len(attempts(outcome.point.run_dir)) for outcome in more.outcomes] == [1] * 10, (
        "a point was started again"
    )


def test_a_search_with_two_objectives_tells_both(base: Experiment) -> None:
    search = replace_space(searched(base, 3, objectives=("quality", "cost")))
    done = run_sweep(search, SCORED, poll_s=0.1)
    assert not done.unfinished
    study = open_study(
        done.sweep_dir / "study.journal",
        search,
        json.loads((done.sweep_dir / "plan.json").read_text())["points"],
    )
    assert study.counts() == {"COMPLETE": 3}


# ---- controllers in the background ---------------------------------------------------------------

DETACHED = """
import sys
from sweeps.cli.command import main
from sweeps.mask_ratio import SWEEP
sys.exit(main(SWEEP, entry="tests.sweeps.jobs:run"))
"""


def test_detach_leaves_a_controller_that_finishes_the_sweep(tmp_path: Path) -> None:
    script = tmp_path / "sweep.py"
    script.write_text(DETACHED)
    root = tmp_path / "runs"
    command = [
        sys.executable,
        str(script),
        "--detach",
        "--root",
        str(root),
        "--tracking-uri",
        "off",
        "--video-ratios",
        "0.5",
        "pretrain.max_steps=300",
    ]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (
        done.returncode == 0 and "The controller runs in the background as process" in done.stdout
    ), done.stdout + done.stderr
    assert not list(root.glob("*/results.json")) and time.monotonic() - began < 60
    deadline = time.monotonic() + 120
    while len(list(root.glob("*/results.json"))) < 2:
        assert time.monotonic() < deadline, (next(root.glob("sweeps/*/controller.log"))).read_text()
        time.sleep(0.2)


def test_detach_tells_at_once_what_is_wrong(tmp_path: Path) -> None:
    script = tmp_path / "sweep.py"
    script.write_text(DETACHED)
    done = subprocess.run(
        [sys.executable, str(script), "--detach", "--video-ratios", "2"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "must be in [0, 1)" in done.stderr
