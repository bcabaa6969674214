"""One figure of a run by its name."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from simvtp import experiment
from simvtp.errors import UserError
from simvtp.runs.journal import Journal
from simvtp.runs.rundir import load_experiment, load_results
from simvtp.runs.scores import SELECTION_METRIC, read_curve, read_metric
from simvtp.tasks.retrieval import Retrieval
from tests.small import small_experiment


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scores")
    tiny_run = small_experiment(folder / "runs", folder / "cache", "finetune.evaluations=2")
    experiment.run(tiny_run, say=lambda text: None)
    return tiny_run.run_dir


def test_the_figures_of_a_finished_run(finished: Path) -> None:
    results = {
        f"{r['protocol']['split']}/{r['protocol']['setting']}/{r['protocol']['direction']}": r
        for r in json.loads((finished / "results.json").read_text())
    }
    expected = results["test/finetuned/t2v"]
    assert read_metric(finished, "test/finetuned/t2v/R1") == (
        expected["metrics"]["R1"],
        expected["chance"]["R1"],
    )
    assert read_metric(finished, "test/zero-shot/v2t/MnR") is not None
    status = json.loads((finished / "status.json").read_text())
    cost = read_metric(finished, "cost/cpu_hours")
    assert cost is not None and cost[0] == status["cpu_hours"] > 0 and math.isnan(cost[1])
    assert read_metric(finished, "cost/gpu_hours") is not None
    for unknown in ("test/finetuned/t2v/R2", "test/other/t2v/R1", "val/x/R1", "R1", ""):
        assert read_metric(finished, unknown) is None


def test_the_val_figure_is_that_of_the_selected_step(finished: Path) -> None:
    curve, chosen_by = read_curve(finished, "val/t2v/R1"), read_curve(finished, SELECTION_METRIC)
    assert [step for step, _ in curve] == [step for step, _ in chosen_by] == [2, 4]
    selected = json.loads((finished / "checkpoints" / "finetune.json").read_text())["selected_step"]
    found = read_metric(finished, "val/t2v/R1")
    assert found is not None and found[0] == dict(curve)[selected]
    assert Retrieval.selection == SELECTION_METRIC


def test_of_equal_steps_the_first_is_the_selected_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for step, mean, figure in ((10, 20.0, 1.0), (20, 30.0, 2.0), (30, 30.0, 3.0)):
        journal.write("metrics", stage="finetune", step=step, metrics={"loss/total": 1.0})
        journal.write(
            "metrics",
            stage="finetune",
            step=step,
            metrics={SELECTION_METRIC: mean, "val/t2v/R1": figure},
        )
    journal.close()
    value = read_metric(tmp_path, "val/t2v/R1")
    assert value is not None and value[0] == 2.0
    with open(journal.path, "ab") as file:
        file.write(
            b'{"kind":"metrics","step":40,"metrics":{"val/t2v/R1":9'
        )  # torn by a crash, or being written
    assert read_curve(tmp_path, "val/t2v/R1") == [(10, 1.0), (20, 2.0), (30, 3.0)]


def test_a_run_that_has_measured_nothing(tmp_path: Path) -> None:
    for metric in ("test/finetuned/t2v/R1", "val/t2v/R1", "cost/gpu_hours"):
        assert read_metric(tmp_path / "nowhere", metric) is None
    (tmp_path / "results.json").write_text("[{]")
    (tmp_path / "status.json").write_text("")
    assert (
        read_metric(tmp_path, "test/finetuned/t2v/R1") is None
        and read_metric(tmp_path, "cost/gpu_hours") is None
    )
    assert read_curve(tmp_path, "val/t2v/R1") == []


def test_reading_needs_no_heavy_library() -> None:
    program = (
        "import sys; import simvtp.runs.scores; "
        "print([name for name in ('torch', 'optuna', 'numpy') if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_a_run_directory_of_schema_1_is_reported_and_not_resumed(
    finished: Path, tmp_path: Path
) -> None:
    """Settings as schema 1 had them: the task by its name, accumulation in the stage."""
    old = tmp_path / "runs" / finished.name
    shutil.copytree(finished, old)
    record = json.loads((old / "experiment.json").read_text())
    settings = record["experiment"]
    settings["finetune"] |= {**settings["finetune"]["task"], "task": "retrieval"}
    settings["pretrain"] |= {"accumulate": 1, "compile": False}
    (old / "experiment.json").write_text(json.dumps({**record, "schema": 1}))
    assert read_metric(old, "test/finetuned/t2v/R1") == read_metric(
        finished, "test/finetuned/t2v/R1"
    )
    assert load_results(old) == load_results(finished)
    sentence = r"settings schema 1, this version has 2\): reports read its results, but only that"
    with pytest.raises(UserError, match=sentence):
        load_experiment(old)
    for command in (["evaluate", str(old)], ["visualize", str(old)]):
        done = subprocess.run(
            [sys.executable, "-m", "simvtp", *command], capture_output=True, text=True
        )
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
        assert "written by another version of simvtp" in done.stderr


def test_a_damaged_line_of_the_journal_is_left_out(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("metrics", stage="finetune", step=1, metrics={"val/t2v/R1": 1.0})
    with open(journal.path, "ab") as file:
        file.write(b'\0\0{"metrics": {"val/t2v/R1"\n\xff\n')
    journal.write("metrics", stage="finetune", step=2, metrics={"val/t2v/R1": 2.0})
    journal.close()
    assert read_curve(tmp_path, "val/t2v/R1") == [(1, 1.0), (2, 2.0)]
