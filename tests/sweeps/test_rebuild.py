"""Rebuilding studies and the MLflow store from the run directories."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ablations.design import Ablation
from ablations.search import build as build_search
from simvtp import tracking
from simvtp.config.experiment_config import Experiment
from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.runs.journal import Journal
from simvtp.tracking.store import Store
from sweeps.monitor.overview import find_sweeps, survey
from sweeps.monitor.repair.rebuild import open_recorded, rebuild_study
from sweeps.runner.slurm_queue import SlurmQueue
from sweeps.study import open_study
from tests.sweeps.conftest import ROOT
from tests.sweeps.recorded_runs import (
    digest,
    kill_quietly,
    locked,
    make_run,
    run_doctor,
    write_plan,
)


@pytest.fixture
def tracked(grid: Ablation, monkeypatch: pytest.MonkeyPatch) -> Ablation:
    """Returns the grid with its tracker in the root."""
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
    code, out = run_doctor(capsys, tracked, "--yes")
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


def run_program(*words: str) -> None:
    """Runs a module as a program of its own, as mlflow keeps a removed store open."""
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def report_files(root: Path, out: Path) -> dict[str, bytes]:
    """Builds the report and returns its files, with run ids of MLflow replaced by fingerprints.

    MLflow draws new ids.
    """
    run_program("reports.build", "mask_ratio", "--out", str(out), "--root", str(root))
    paths = [path for path in sorted(out.rglob("*")) if path.is_file()]
    files = {str(path.relative_to(out)): path.read_bytes() for path in paths}
    ids = run_ids(read_json(out / "mask_ratio" / "provenance.json"))
    for run_id, fingerprint in ids.items():
        for new, old in ((fingerprint, run_id), (fingerprint[:8], run_id[:8])):
            for name, content in files.items():
                files[name] = content.replace(old.encode(), new.encode())
    return files


def fill_study(root: Path) -> dict[str, int]:
    """Fills the study from the run directories, and returns its counts."""
    sweep = find_sweeps(root)[0]
    rows = {row.point.fingerprint: row for row in survey(sweep, SlurmQueue()).rows}
    study = open_recorded(sweep)
    study.plan(lambda point, last: True)
    while (planned := study.ask()) is not None:
        row = rows[planned.fingerprint]
        study.tell(planned.fingerprint, None if row.value is None else [row.value], row.view.note)
    counts: dict[str, int] = study.counts()
    return counts


def test_studies_and_store_are_rebuilt_and_the_report_is_the_same(
    tracked: Ablation, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    root, folder = Path(tracked.base.runtime.root), write_plan(tracked)
    tracking.start_sweep(tracked.plan(), tracked.base.runtime)
    for point in tracked.points()[:3]:
        tracking.Mirror(make_run(tracked, point), tracked.base.runtime).sync()
    make_run(tracked, tracked.points()[3], "failed", "the loss became NaN")
    tracking.sync_all(root)
    counts = fill_study(root)
    assert counts == {"COMPLETE": 3, "FAIL": 1}

    before = report_files(root, tmp_path / "before")
    (folder / "study.journal").unlink()  # both are lost
    (root / "mlflow.db").unlink()
    code, out = run_doctor(capsys, tracked, "--rebuild", "--dry-run")
    assert code == 0 and "Nothing was changed" in out and not (folder / "study.journal").exists()
    run_program("sweeps.doctor", "--rebuild", "--yes", "--root", str(root))
    after = report_files(root, tmp_path / "after")
    assert list(after) == list(before) and len(before) > 8 and b"71.2" in b"".join(before.values())
    assert [name for name in before if before[name] != after[name]] == []
    assert open_recorded(find_sweeps(root)[0]).counts() == counts

    rebuild_study(find_sweeps(root)[0], SlurmQueue())
    assert len(list(folder.glob("study.journal.old-*"))) == 1, "nothing is thrown away"


def test_the_study_of_a_search_is_rebuilt_from_its_plan(base: Experiment) -> None:
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
    assert "3" in rebuild_study(sweep, SlurmQueue())
    study = open_study(folder / "study.journal", search, sweep.plan.values["points"])
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
    with locked(folder / "controller.lock"):
        before = digest(Path(tracked.base.runtime.root))
        code, out = run_doctor(capsys, tracked, "--rebuild", "--yes")
        assert code == 1 and "left alone: it is being run by process 1 on n1" in out
        assert digest(Path(tracked.base.runtime.root)) == before
