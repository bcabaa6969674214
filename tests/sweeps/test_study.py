from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from ablations.design import Ablation, Point
from simvtp.config.experiment_config import Experiment
from sweeps.study import GridStudy, repair_journal
from tests.sweeps import ratio_grid


def always(point: Point, last: object) -> bool:
    return True


def missing(point: Point, last: object) -> bool:
    return last is None


def open_study(folder: Path, grid: Ablation) -> GridStudy:
    return GridStudy(folder / "study.journal", grid.sweep_id, grid.points(), grid.metric_label)


def drain(study: GridStudy) -> list[str]:
    asked = []
    while (point := study.ask()) is not None:
        asked.append(point.fingerprint)
        study.tell(point.fingerprint, [1.0])
    return asked


def test_planning_twice_gives_the_exact_grid(tmp_path: Path, grid: Ablation) -> None:
    for _ in range(2):
        study = open_study(tmp_path, grid)
        study.plan(missing)
        study.plan(always)
    assert study.counts() == {"WAITING": 4}
    assert drain(study) == [point.fingerprint for point in grid.points()]
    assert study.ask() is None
    assert open_study(tmp_path, grid).counts() == {"COMPLETE": 4}


def test_a_trial_holds_the_cell_its_fingerprint_and_what_is_noted(
    tmp_path: Path, grid: Ablation
) -> None:
    study = open_study(tmp_path, grid)
    study.plan(missing)
    point = study.ask()
    assert point is not None
    study.note(point.fingerprint, job_id="17")
    frozen = open_study(tmp_path, grid)._study.trials[0]
    assert frozen.params == {**point.cell, "seed": 0}
    assert (
        frozen.user_attrs["fingerprint"] == point.fingerprint
        and frozen.user_attrs["job_id"] == "17"
    )
    assert frozen.user_attrs["run_dir"] == str(point.run_dir)


def test_the_same_grid_in_another_order_continues_the_study(tmp_path: Path, grid: Ablation) -> None:
    study = open_study(tmp_path, grid)
    study.plan(missing)
    study.ask()
    turned = ratio_grid.build(grid.base, (0.95, 0.9), (0.75, 0.15))
    again = GridStudy(tmp_path / "study.journal", turned.sweep_id, turned.points())
    again.plan(missing)
    assert again.counts() == {"RUNNING": 1, "WAITING": 3}
    assert len(drain(again)) == 3


def test_a_trial_of_a_killed_controller_is_requeued_once(tmp_path: Path, grid: Ablation) -> None:
    study = open_study(tmp_path, grid)
    study.plan(missing)
    lost = study.ask()
    assert lost is not None
    study = open_study(tmp_path, grid)  # the first controller is gone
    assert study.running() == {lost.fingerprint}
    study.plan(lambda point, last: last is None or last.name == "RUNNING")
    assert study.counts() == {"FAIL": 1, "WAITING": 4}
    assert sorted(drain(study)) == sorted(point.fingerprint for point in grid.points())
    assert study._study.trials[4].user_attrs["retry_of"] == 0


def test_an_adopted_trial_is_closed_after_a_restart(tmp_path: Path, grid: Ablation) -> None:
    study = open_study(tmp_path, grid)
    study.plan(missing)
    point = study.ask()
    assert point is not None
    study = open_study(tmp_path, grid)
    study.tell(point.fingerprint, [12.5])
    study.tell(point.fingerprint, [99.0])  # a second time changes nothing
    assert study.counts() == {"COMPLETE": 1, "WAITING": 3}
    assert study._study.best_value == 12.5


@pytest.mark.parametrize("value", [None, float("nan")])
def test_without_a_figure_a_trial_fails_with_its_reason(
    tmp_path: Path, grid: Ablation, value: float | None
) -> None:
    study = open_study(tmp_path, grid)
    study.plan(missing)
    point = study.ask()
    assert point is not None
    study.tell(point.fingerprint, None if value is None else [value], "the loss became NaN")
    trial = study._study.trials[0]
    assert trial.state.name == "FAIL" and trial.user_attrs["reason"] == "the loss became NaN"


def test_a_torn_last_line_is_dropped_and_the_file_kept(tmp_path: Path, grid: Ablation) -> None:
    study = open_study(tmp_path, grid)
    study.plan(missing)
    path = tmp_path / "study.journal"
    torn = path.read_bytes() + b'{"op_code": 5, "worker_id": "x", "tri'
    path.write_bytes(torn)
    study = open_study(tmp_path, grid)
    assert len(study.repairs) == 1 and "torn last line" in study.repairs[0]
    assert (tmp_path / "study.journal.bak").read_bytes() == torn
    assert len(drain(study)) == 4
    assert open_study(tmp_path, grid).counts() == {"COMPLETE": 4}


def test_a_line_whose_end_was_lost_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    path.write_bytes(b'{"a": 1}\n{"b": 2}')
    assert repair_journal(path) == "repaired"
    assert path.read_bytes() == b'{"a": 1}\n{"b": 2}\n'
    assert repair_journal(path) == "intact"


def test_a_hole_in_the_middle_sets_the_study_aside_and_starts_a_new_one(
    tmp_path: Path, grid: Ablation
) -> None:
    study = open_study(tmp_path, grid)
    study.plan(missing)
    path = tmp_path / "study.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    enqueued = [number for number, line in enumerate(lines) if json.loads(line)["op_code"] == 4]
    path.write_bytes(b"".join([*lines[: enqueued[1]], b"\x00garbage\n", *lines[enqueued[1] + 1 :]]))
    study = open_study(tmp_path, grid)
    assert any("rebuilt from the run directories" in repair for repair in study.repairs)
    assert (tmp_path / "study.journal.unreadable").exists()
    study.plan(missing)
    assert study.counts() == {"WAITING": 4}


def test_a_lock_of_a_dead_writer_does_not_hold_up_the_next(tmp_path: Path, grid: Ablation) -> None:
    open_study(tmp_path, grid).plan(missing)
    (tmp_path / "study.journal.lock").symlink_to(tmp_path / "study.journal")
    study = open_study(tmp_path, grid)  # would wait 30 s for optuna's grace period
    assert len(drain(study)) == 4


# ---- against a model -----------------------------------------------------------------------------


def complete_points(study: GridStudy) -> list[str]:
    trials = [trial for trial in study._study.trials if trial.state.name == "COMPLETE"]
    return [trial.user_attrs["fingerprint"] for trial in trials]


@settings(
    derandomize=True,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    moves=st.lists(
        st.sampled_from(["ask", "tell", "fail", "kill", "reopen", "retry"]), max_size=30
    ),
    choice=st.randoms(use_true_random=False),
)
def test_whatever_dies_every_point_is_completed_exactly_once(
    tmp_path_factory: pytest.TempPathFactory,
    grid: Ablation,
    moves: list[str],
    choice: random.Random,
) -> None:
    """The study agrees with a dictionary {fingerprint: state} after any moves.

    The dictionary stands for the run directories.
    """
    folder = tmp_path_factory.mktemp("model")
    truth = {point.fingerprint: "missing" for point in grid.points()}
    study = open_study(folder, grid)

    def plan(retry: bool = False) -> None:
        target = {"done": "COMPLETE", "failed": "" if retry else "FAIL", "running": "RUNNING"}
        study.plan(
            lambda point, last: (
                last is None or last.name != target.get(truth[point.fingerprint], "")
            )
        )

    plan()
    for move in moves:
        running = [fingerprint for fingerprint, state in truth.items() if state == "running"]
        if move == "ask":
            point = study.ask()
            assert (point is None) == ("missing" not in truth.values()), (
                "it offers a point exactly as long as one is missing"
            )
            if point is not None:
                assert truth[point.fingerprint] == "missing"
                truth[point.fingerprint] = "running"
        elif move in ("tell", "fail") and running:
            closed = choice.choice(running)
            study.tell(
                closed, [1.0] if move == "tell" else None, "" if move == "tell" else "broken"
            )
            truth[closed] = "done" if move == "tell" else "failed"
        elif move == "kill":  # the controller and its jobs
            truth |= dict.fromkeys(running, "missing")
            study = open_study(folder, grid)
            plan()
        elif move == "reopen":  # the controller alone: its jobs go on
            study = open_study(folder, grid)
            plan()
        elif move == "retry":
            plan(retry=True)
            truth = {
                fingerprint: "missing" if state == "failed" else state
                for fingerprint, state in truth.items()
            }
        assert study.running() == {
            fingerprint for fingerprint, state in truth.items() if state == "running"
        }
    for fingerprint in study.running():
        study.tell(fingerprint, [1.0])
    drain(study)
    failed = [fingerprint for fingerprint, state in truth.items() if state == "failed"]
    assert sorted([*complete_points(open_study(folder, grid)), *failed]) == sorted(truth)


# ---- size and other programs ---------------------------------------------------------------------


def test_a_point_costs_a_handful_of_lines_and_one_append_a_call(
    tmp_path: Path, base: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = ratio_grid.build(base, [0.5, 0.9], [0.15, 0.75], seeds=range(25))
    study, appends = open_study(tmp_path, many), []
    path = tmp_path / "study.journal"
    before = len(path.read_bytes().splitlines())
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (appends.append(number), real(number))[1])
    study.plan(missing)
    assert len(appends) == 1, "all points in one append"
    while (point := study.ask()) is not None:
        study.note(point.fingerprint, job_id="1", executor="slurm", log="x")
        study.tell(point.fingerprint, [1.0])
    assert len(appends) == 1 + 3 * 100
    assert len(path.read_bytes().splitlines()) - before == 6 * 100
    assert path.stat().st_size < 3000 * 100, "the axes are not written out again with each point"


def test_a_line_that_another_program_writes_in_between_is_taken_in(
    tmp_path: Path, grid: Ablation
) -> None:
    """optuna-dashboard writes notes into the file while a sweep runs."""
    study = open_study(tmp_path, grid)
    study.plan(missing)
    other = optuna.load_study(
        study_name=grid.sweep_id,
        storage=JournalStorage(JournalFileBackend(str(tmp_path / "study.journal"))),
    )
    for number in range(4):
        other.set_user_attr("note", f"looked at {number}")
        point = study.ask()
        assert point is not None
        other._storage.set_trial_user_attr(number, "star", True)
        study.tell(point.fingerprint, [float(number)])
    again = open_study(tmp_path, grid)
    assert again.repairs == [] and again.counts() == study.counts() == {"COMPLETE": 4}
    assert again._study.user_attrs["note"] == study._study.user_attrs["note"] == "looked at 3"
    assert [trial.value for trial in again._study.trials] == [0.0, 1.0, 2.0, 3.0]


def test_a_trial_that_another_program_closed_stops_nobody(tmp_path: Path, grid: Ablation) -> None:
    study = open_study(tmp_path, grid)
    study.plan(missing)
    running = study.ask()
    assert running is not None
    other = optuna.load_study(
        study_name=grid.sweep_id,
        storage=JournalStorage(JournalFileBackend(str(tmp_path / "study.journal"))),
    )
    other.tell(0, 99.0)
    other._storage.set_trial_state_values(1, optuna.trial.TrialState.FAIL)
    study.note(running.fingerprint, job_id="1")
    study.tell(running.fingerprint, [1.0])
    study.plan(lambda point, last: last is None or last.name == "FAIL")
    assert len(drain(study)) == 2, (
        "trial 1 was not ours to close: its point is planned again when it is missing"
    )
    study = open_study(tmp_path, grid)
    study.plan(lambda point, last: last is None or last.name == "FAIL")
    assert drain(study) == [grid.points()[1].fingerprint]


def test_the_dashboard_shows_the_study(tmp_path: Path, grid: Ablation) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    study = open_study(tmp_path, grid)
    study.plan(missing)
    point = study.ask()
    assert point is not None
    study.note(point.fingerprint, job_id="17_3", log="/log/17_3.out")
    study.tell(point.fingerprint, [12.5])
    app = dashboard.wsgi(JournalStorage(JournalFileBackend(str(tmp_path / "study.journal"))))
    shown = json.dumps(get(app, "/api/studies")) + json.dumps(get(app, "/api/studies/0"))
    for expected in (
        grid.sweep_id,
        "masks.video_ratio",
        point.fingerprint,
        "17_3",
        "/log/17_3.out",
        str(point.run_dir),
        "12.5",
        "R@1",
    ):
        assert expected in shown


def get(app: Callable[..., Any], path: str) -> Any:
    """The JSON that a WSGI program answers."""
    environ: dict[str, Any] = {"PATH_INFO": path}
    setup_testing_defaults(environ)
    return json.loads(b"".join(app(environ, lambda status, headers, error=None: None)))
