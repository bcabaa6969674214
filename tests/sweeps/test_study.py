from __future__ import annotations

import json
from pathlib import Path

import pytest

from ablations import mask_ratio
from ablations.design import Ablation, Point
from sweeps.study import GridStudy, repair_journal


def always(point: Point, last: object) -> bool:
    return True


def missing(point: Point, last: object) -> bool:
    return last is None


def open_study(folder: Path, grid: Ablation) -> GridStudy:
    return GridStudy(folder / "study.journal", grid.sweep_id, grid.points())


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


def test_a_trial_holds_the_cell_its_fingerprint_and_what_is_noted(tmp_path: Path, grid: Ablation) -> None:
    study = open_study(tmp_path, grid)
    study.plan(missing)
    point = study.ask()
    assert point is not None
    study.note(point.fingerprint, job_id="17")
    frozen = open_study(tmp_path, grid)._study.trials[0]
    assert frozen.params == {**point.cell, "seed": 0}
    assert frozen.user_attrs["fingerprint"] == point.fingerprint and frozen.user_attrs["job_id"] == "17"
    assert frozen.user_attrs["run_dir"] == str(point.run_dir)


def test_the_same_grid_in_another_order_continues_the_study(tmp_path: Path, grid: Ablation) -> None:
    study = open_study(tmp_path, grid)
    study.plan(missing)
    study.ask()
    turned = mask_ratio.build(grid.base, (0.9, 0.5), (0.75, 0.15))
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


def test_an_adopted_trial_is_told_after_a_restart(tmp_path: Path, grid: Ablation) -> None:
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
def test_without_a_figure_a_trial_fails_with_its_reason(tmp_path: Path, grid: Ablation, value: float | None) -> None:
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
    assert repair_journal(path) == "mended"
    assert path.read_bytes() == b'{"a": 1}\n{"b": 2}\n'
    assert repair_journal(path) == "whole"


def test_a_hole_in_the_middle_sets_the_study_aside_and_starts_a_new_one(tmp_path: Path, grid: Ablation) -> None:
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
