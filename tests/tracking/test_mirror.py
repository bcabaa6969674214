"""Mirror of one run directory: nothing twice, nothing lost.

Real sqlite stores; rows are counted in the database itself.
"""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simvtp import tracking
from simvtp.config.tree import flatten
from simvtp.runs import lease, provenance
from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.metric_names import MetricName
from simvtp.tracking import (
    Mirror,
)
from tests.tracking.run_dirs import (
    METRICS,
    ROOT,
    Run,
    artifacts,
    counts,
    ended,
    make_answers,
    make_result,
    rows,
)


def test_a_finished_run_is_mirrored_with_every_line_of_its_journal(
    tmp_path: Path, uri: str
) -> None:
    run = Run(tmp_path, uri, seed=1)
    provenance.write(run.dir, provenance.capture(ROOT))
    run.train(0, 30)
    run.journal.write("event", message="halfway")
    run.train(0, 10, stage="finetune")
    t2v, v2t = make_result(), make_result("v2t")
    run.journal.write("result", result=t2v.to_dict())
    run.finish(t2v, v2t)

    report = run.sync(final=True)
    assert (
        report.lines == 42
        and report.points == 40 * len(METRICS) + 2 * 12 + 2
        and report.warnings == ()
    )
    stored = rows(uri, run.experiment.fingerprint)
    assert len(stored) == report.points
    lines = map(json.loads, (run.dir / "journal.jsonl").read_text().splitlines())
    times = {round(line["time"] * 1000) + shift for line in lines for shift in (-1, 0, 1)}
    series = [row for row in stored if row[0] == "pretrain/loss/mvm"]
    assert [row[1] for row in series] == list(range(30))
    assert [row[2] for row in series] == [math.sin(step) + 1 for step in range(30)]
    assert {row[4] for row in series} <= times


def test_a_second_replay_adds_nothing_whatever_became_of_the_cursor(
    tmp_path: Path, uri: str
) -> None:
    run = Run(tmp_path, uri, seed=30)
    provenance.write(run.dir, provenance.capture(ROOT))
    run.train(0, 30)
    t2v, v2t = make_result(), make_result("v2t")
    run.finish(t2v, v2t)
    run.sync(final=True)
    stored = rows(uri, run.experiment.fingerprint)
    before = counts(uri)
    assert run.sync(final=True).points == 0
    (run.dir / "mirror.json").unlink()
    assert run.sync(final=True).points == 0
    (run.dir / "mirror.json").write_text("torn {")
    assert run.sync(final=True).points == 0
    assert counts(uri) == before and rows(uri, run.experiment.fingerprint) == stored

    [found] = tracking.read_runs(uri, [run.experiment.fingerprint, run.experiment.fingerprint])
    assert found.results == [t2v, v2t]
    assert (found.status, found.state, found.seed, found.cpu_hours) == (
        "FINISHED",
        "finished",
        30,
        0.5,
    )
    assert found.cell_fingerprint == run.experiment.cell_fingerprint
    assert found.params == {key: str(value) for key, value in flatten(run.experiment).items()}
    assert (
        found.metrics["test/finetuned/t2v/R1"] == 12.5
        and found.metrics["test/finetuned/t2v/chance_R1"] == 1.25
    )
    assert (
        len(found.tags["git_commit"]) == 40
        and found.tags["git_dirty"] in ("true", "false")
        and found.tags["hardware"]
    )
    assert artifacts(uri, found.run_id) >= {
        "experiment.json",
        "provenance.json",
        "results.json",
        "log.txt",
        "figures/masked.png",
    }
    assert artifacts(uri, found.run_id) >= {
        "figures/examples_evaluate_qa.html",
        "stages/items_evaluate.jsonl.gz",
    }


def test_a_journal_that_was_cut_back_and_written_again_makes_no_duplicates(
    tmp_path: Path, uri: str
) -> None:
    """Also if the process was killed between writing to the tracker and writing its cursor."""
    run = Run(tmp_path, uri, seed=2)
    run.train(0, 10)
    checkpoint = run.journal.length()
    run.sync()
    run.train(10, 20)
    early_cursor = (run.dir / "mirror.json").read_bytes()
    run.sync()
    (run.dir / "mirror.json").write_bytes(early_cursor)

    time.sleep(0.01)  # rewritten lines carry another time
    run.journal.truncate(checkpoint)
    run.train(10, 25)
    run.sync()
    run.train(25, 30)
    run.finish(make_result())
    run.sync(final=True)
    for name in ("loss/total", "acc/R1"):
        series = [
            row for row in rows(uri, run.experiment.fingerprint) if row[0] == f"pretrain/{name}"
        ]
        assert [row[1] for row in series] == list(range(30))
        assert [row[2] for row in series] == [
            math.sin(step) + (0 if name == "loss/total" else 4) for step in range(30)
        ]


def test_a_long_lived_mirror_notices_that_the_journal_was_cut_back(
    tmp_path: Path, uri: str
) -> None:
    run = Run(tmp_path, uri, seed=3)
    run.train(0, 4)
    kept = run.journal.length()
    run.train(4, 9)
    mirror = Mirror(run.dir, run.experiment.runtime)
    mirror.sync()
    time.sleep(0.01)
    run.journal.truncate(kept)
    run.train(4, 12)  # longer than before: the old cursor lies inside the new text
    mirror.sync()
    assert [
        row[1] for row in rows(uri, run.experiment.fingerprint) if row[0] == "pretrain/lr"
    ] == list(range(12))


def test_two_lines_of_one_step_and_stages_that_count_from_zero_are_all_kept(
    tmp_path: Path, uri: str
) -> None:
    run = Run(tmp_path, uri, seed=4)
    run.journal.write("metrics", stage="pretrain", step=5, metrics={"loss/total": 1.0})
    run.sync()
    run.journal.write("metrics", stage="pretrain", step=5, metrics={"val/R1": 2.0})
    run.journal.write("metrics", stage="finetune", step=5, metrics={"loss/total": 3.0})
    run.sync()
    assert [(row[0], row[2]) for row in rows(uri, run.experiment.fingerprint)] == [
        ("finetune/loss/total", 3.0),
        ("pretrain/loss/total", 1.0),
        ("pretrain/val/R1", 2.0),
    ]


def test_numbers_that_are_none_and_lines_that_make_no_sense(tmp_path: Path, uri: str) -> None:
    run = Run(tmp_path, uri, seed=5)
    run.journal.write(
        "metrics",
        stage="pretrain",
        step=0,
        metrics={"nan": math.nan, "inf": -math.inf, "none": None, "one": 1},
    )
    run.journal.write("metrics", stage="pretrain", metrics={"lost": 1.0})  # no step
    run.journal.write("metrics", stage="pretrain", step=1, metrics={"one": 2.0})
    with open(run.dir / "journal.jsonl", "a") as file:
        file.write('{"kind":"metrics","ti')  # torn by a crash
    report = run.sync()
    assert len(report.warnings) == 1 and "not understood" in report.warnings[0]
    stored = {(row[0], row[1]): row for row in rows(uri, run.experiment.fingerprint)}
    assert set(stored) == {
        ("pretrain/nan", 0),
        ("pretrain/inf", 0),
        ("pretrain/one", 0),
        ("pretrain/one", 1),
    }
    assert stored["pretrain/nan", 0][3] == stored["pretrain/inf", 0][3] == 1
    [found] = tracking.read_runs(uri, [run.experiment.fingerprint])
    assert math.isnan(found.metrics["pretrain/inf"]) and found.metrics["pretrain/one"] == 2.0
    (run.dir / "mirror.json").unlink()
    assert run.sync().points == 0


def test_the_state_follows_status_json(tmp_path: Path, uri: str) -> None:
    run = Run(tmp_path, uri, seed=6)
    seen = []
    for state, fields in (
        ("running", {}),
        ("failed", {"message": "out of memory"}),
        ("running", {}),
        ("stopped", {}),
        ("finished", {}),
    ):
        run.status(state, **fields)
        run.sync()
        [found] = tracking.read_runs(uri, [run.experiment.fingerprint])
        seen.append((found.status, found.state, found.tags.get("message", "")))
    assert seen == [
        ("RUNNING", "running", ""),
        ("FAILED", "failed", "out of memory"),
        ("RUNNING", "running", ""),
        ("KILLED", "stopped", ""),
        ("FINISHED", "finished", ""),
    ]


def test_a_run_whose_process_was_killed_is_shown_as_killed(tmp_path: Path, uri: str) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, living = Run(tmp_path, uri, seed=7), Run(tmp_path, uri, seed=8)
    dead.status("running", pid=gone.pid)
    living.status("running")
    tracking.sync_all(tmp_path)
    found = tracking.read_runs(uri, [dead.experiment.fingerprint, living.experiment.fingerprint])
    assert [(run.status, run.state) for run in found] == [
        ("KILLED", "stopped"),
        ("RUNNING", "running"),
    ]


@pytest.mark.parametrize("said", ["running", "stopped", "failed"])
@pytest.mark.parametrize("cause", ["cancelled", "pruned"])
def test_a_run_that_was_ended_from_outside_is_killed_and_says_why(
    tmp_path: Path, uri: str, cause: str, said: str
) -> None:
    run = Run(tmp_path, uri, seed=20)
    run.status(said, updated=1000.0)
    ended(run, cause, 1001.0, "by the user")
    run.sync()
    [found] = tracking.read_runs(uri, [run.experiment.fingerprint])
    assert (found.status, found.state, found.tags["message"]) == (
        "KILLED",
        cause,
        f"{cause}: by the user",
    )
    with lease.hold(run.dir, owns=True):  # somebody goes on with it
        run.status("running")
        run.sync()
        [found] = tracking.read_runs(uri, [run.experiment.fingerprint])
        assert (found.status, found.state, found.tags["message"]) == ("RUNNING", "running", "")
    run.finish(make_result())
    ended(run, cause, time.time() + 10)  # too late: it had finished
    run.sync()
    [found] = tracking.read_runs(uri, [run.experiment.fingerprint])
    assert (found.status, found.state) == ("FINISHED", "finished")


def test_a_job_that_the_machine_killed_is_no_running_run_and_what_a_run_said_itself_stays(
    tmp_path: Path, uri: str
) -> None:
    silent, spoke = Run(tmp_path, uri, seed=21), Run(tmp_path, uri, seed=22)
    silent.status("running", host="another-machine")
    spoke.status("failed", message="NaN at step 7")
    for run in (silent, spoke):
        ended(run, "out_of_memory", time.time() + 10, "it used 17 of 16 GB")
        run.sync()
    found = tracking.read_runs(uri, [silent.experiment.fingerprint, spoke.experiment.fingerprint])
    assert [(run.status, run.state, run.tags["message"]) for run in found] == [
        ("KILLED", "killed", "out_of_memory: it used 17 of 16 GB"),
        ("FAILED", "failed", "NaN at step 7"),
    ]


def test_a_finished_run_has_the_figures_of_its_selected_step(tmp_path: Path, uri: str) -> None:
    run = Run(tmp_path, uri, seed=23)
    for step, mean in ((10, 5.0), (20, 9.0), (30, 7.0)):
        run.journal.write(
            "metrics",
            stage="finetune",
            step=step,
            metrics={"val/mean_recall": mean, "val/t2v/R1": mean / 2},
        )
    run.status("running")
    run.sync()
    assert "val/t2v/R1" not in tracking.read_runs(uri, [run.experiment.fingerprint])[0].metrics
    run.finish(make_result())
    run.sync()
    metrics = tracking.read_runs(uri, [run.experiment.fingerprint])[0].metrics
    assert metrics["val/t2v/R1"] == 4.5 and metrics["finetune/val/t2v/R1"] == 3.5
    before = counts(uri)
    run.sync()
    assert counts(uri) == before


def test_system_metrics_are_a_series_over_the_runs_seconds(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, uri, seed=9)
    for stage, moment in (("pretrain", 1000.0), ("pretrain", 1030.0), ("finetune", 1060.0)):
        monkeypatch.setattr(time, "time", lambda moment=moment: moment)
        run.journal.write("metrics", stage=stage, step=0, metrics={"system/memory_gb": moment})
    monkeypatch.undo()
    run.sync()
    assert [row[:3] for row in rows(uri, run.experiment.fingerprint)] == [
        ("system/memory_gb", s, 1000.0 + s) for s in (0, 30, 60)
    ]


def test_credentials_in_the_address_are_not_mirrored(tmp_path: Path, uri: str) -> None:
    run = Run(tmp_path, uri, seed=10)
    record = json.loads((run.dir / "experiment.json").read_text())
    record["experiment"]["runtime"]["tracking_uri"] = "https://me:hunter2@tracker.example.org"
    (run.dir / "experiment.json").write_text(json.dumps(record))
    run.sync()
    [found] = tracking.read_runs(uri, [run.experiment.fingerprint])
    assert found.params["runtime.tracking_uri"] == "https://***@tracker.example.org"
    store = Path(uri.removeprefix("sqlite:///")).parent
    copies = [
        path.read_text() for path in store.rglob(f"*{found.run_id}/artifacts/experiment.json")
    ]
    assert (
        len(copies) == 1
        and "hunter2" not in copies[0]
        and json.loads(copies[0])["fingerprint"] == record["fingerprint"]
    )


def test_results_of_other_tasks_are_mirrored_with_chance_and_baselines(
    tmp_path: Path, uri: str
) -> None:
    run = Run(tmp_path, uri, seed=31)
    run.journal.write("metrics", stage="finetune", step=4, metrics={"val/accuracy": 41.0})
    write_atomically(run.dir / "checkpoints" / "finetune.json", json.dumps({"selected_step": 4}))
    run.finish(make_answers())
    run.sync(final=True)
    [found] = tracking.read_runs(uri, [run.experiment.fingerprint])
    assert found.results == [make_answers()]
    figures = {
        MetricName.parse(name).metric: value
        for name, value in found.metrics.items()
        if name.startswith("test/finetuned/qa/open-ended/")
    }
    assert figures == {
        "accuracy": 40.0,
        "chance_accuracy": 6.25,
        "accuracy_prior": 31.0,
        "accuracy_video-hidden": 33.0,
        "accuracy-colour": 41.0,
        "chance_accuracy-colour": 7.25,
        "accuracy-colour_prior": 32.0,
        "accuracy-colour_video-hidden": 34.0,
    }
    # of the selected step, by the name that a search uses
    assert found.metrics["val/accuracy"] == 41.0
