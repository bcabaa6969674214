"""The tracker as a mirror of the journals: nothing twice, nothing lost, nobody waits.

Real sqlite stores and, in the slow test, a real server; rows are counted in the database itself.
"""

import contextlib
import dataclasses
import http.server
import json
import logging
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp import tracking
from simvtp.config.experiment_config import Experiment, RuntimeConfig
from simvtp.config.recipes import get_recipe
from simvtp.config.tree import flatten, to_dict
from simvtp.errors import UserError
from simvtp.runs import lease, provenance
from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.journal import Journal
from simvtp.runs.results import Protocol, Result
from simvtp.tracking import (
    BackgroundMirror,
    Mirror,
    PointSummary,
    TrackerError,
    address,
    background,
)

UNREACHABLE = "http://127.0.0.1:9"
ROOT = Path(__file__).resolve().parents[1]
METRICS = ("loss/total", "loss/mvm", "lr", "speed/clips_per_s", "acc/R@1")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all tests of this module."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


def runtime(root: Path, uri: str, **changes: Any) -> RuntimeConfig:
    return RuntimeConfig(root=str(root), tracking_uri=uri, tracking_experiment="tests", **changes)


def make_result(direction: str = "t2v", seed: int = 0, r1: float = 12.5) -> Result:
    protocol = Protocol(
        "retrieval",
        "shapes",
        "test",
        "finetuned",
        direction,
        8,
        3,
        3,
        "pessimistic",
        seed,
        "ab" * 32,
    )
    names = ("R1", "R5", "R10", "R50", "MdR", "MnR")
    metrics = dict(zip(names, (r1, 30.0, 50.0, 99.0, 7.0, 9.25), strict=True))
    return Result(
        protocol,
        metrics,
        {name: value / 10 for name, value in metrics.items()},
        256,
        256,
        (1, 7, 2),
    )


def make_answers() -> Result:
    """Open-ended questions, with both baselines and a category."""
    protocol = Protocol(
        "qa", "shapes", "test", "finetuned", "", 8, 3, 3, "pessimistic", 0, "ab" * 32, "open-ended"
    )
    values = (
        {"accuracy": value, "accuracy-colour": value + 1} for value in (40.0, 6.25, 31.0, 33.0)
    )
    metrics, guessed, prior, blind = values
    return Result(
        protocol,
        metrics,
        guessed,
        400,
        16,
        (1, 7, 2),
        baselines={"prior": prior, "video hidden": blind},
    )


class Run:
    """Writes a run directory as an experiment would."""

    def __init__(self, root: Path, uri: str, seed: int, **settings_changed: Any) -> None:
        tiny = get_recipe("tiny")
        self.experiment: Experiment = dataclasses.replace(
            tiny, seed=seed, runtime=runtime(root, uri), **settings_changed
        )
        self.dir = self.experiment.run_dir
        self.dir.mkdir(parents=True)
        record = {
            "schema": 1,
            "fingerprint": self.experiment.fingerprint,
            "cell_fingerprint": self.experiment.cell_fingerprint,
            "experiment": to_dict(self.experiment),
        }
        write_atomically(self.dir / "experiment.json", json.dumps(record))
        self.journal = Journal(self.dir / "journal.jsonl")

    def train(self, first: int, last: int, stage: str = "pretrain") -> None:
        for step in range(first, last):
            values = {name: math.sin(step) + number for number, name in enumerate(METRICS)}
            self.journal.write("metrics", stage=stage, step=step, metrics=values)

    def status(self, state: str, **fields: Any) -> None:
        whole = {
            "state": state,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "updated": time.time(),
            "cpu_hours": 0.5,
            "gpu_hours": 0.0,
        }
        write_atomically(self.dir / "status.json", json.dumps(whole | fields))

    def finish(self, *results: Result) -> None:
        write_atomically(
            self.dir / "results.json", json.dumps([result.to_dict() for result in results])
        )
        (self.dir / "figures").mkdir(exist_ok=True)
        (self.dir / "figures" / "masked.png").write_bytes(b"not really a picture")
        (self.dir / "figures" / "examples_evaluate_qa.html").write_text("not really a page")
        (self.dir / "stages").mkdir(exist_ok=True)
        (self.dir / "stages" / "items_evaluate.jsonl.gz").write_bytes(b"not really items")
        (self.dir / "log.txt").write_text("the log\n")
        self.status("finished")

    def sync(self, final: bool = False) -> tracking.SyncReport:
        return Mirror(self.dir, self.experiment.runtime).sync(final)


def rows(uri: str, fingerprint: str | None = None) -> list[tuple[Any, ...]]:
    """(metric, step, value, NaN?, time) of one run or of all, from the database."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        where = (
            "where run_uuid in (select run_uuid from tags where key = 'run_key' and value = ?)"
            if fingerprint
            else ""
        )
        found = database.execute(
            f"select key, step, value, is_nan, timestamp from metrics {where}",
            (fingerprint,) if fingerprint else (),
        )
        return sorted(found.fetchall())


def counts(uri: str) -> dict[str, int]:
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        return {
            table: database.execute(f"select count(*) from {table}").fetchone()[0]
            for table in ("runs", "metrics", "params", "tags")
        }


# ---- addresses and names -------------------------------------------------------------------------


def test_importing_the_package_does_not_import_mlflow() -> None:
    program = "import sys, simvtp.tracking; print([m for m in ('mlflow', 'torch', 'pandas') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_only_the_store_imports_mlflow() -> None:
    users = {
        path.name
        for path in Path(tracking.__file__).parent.glob("*.py")
        if "import mlflow" in path.read_text() or "from mlflow" in path.read_text()
    }
    assert users == {"store.py"}


def test_addresses_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert (
        tracking.resolve_uri(RuntimeConfig(root="runs")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    )
    assert (
        tracking.resolve_uri(RuntimeConfig(tracking_uri="sqlite:///x/y.db"))
        == f"sqlite:///{tmp_path}/x/y.db"
    )
    assert tracking.resolve_uri(RuntimeConfig(tracking_uri="off")) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert tracking.resolve_uri(RuntimeConfig()) == "http://tracker:5000"
    assert tracking.resolve_uri(RuntimeConfig(tracking_uri="http://other:1")) == "http://other:1"
    for folder in ("mlruns", "file:///tmp/mlruns"):
        with pytest.raises(UserError, match="sqlite:///"):
            tracking.resolve_uri(RuntimeConfig(tracking_uri=folder))


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.text(max_size=300))
def test_every_name_becomes_one_that_mlflow_accepts(name: str) -> None:
    from mlflow.utils.validation import _validate_length_limit, _validate_metric_name

    made = tracking.metric_name(name)
    _validate_metric_name(made)
    _validate_length_limit("Metric name", 250, made)
    assert 0 < len(made) <= 250


def test_names_stay_readable() -> None:
    assert tracking.metric_name("acc/R@1") == "acc/R1"
    assert tracking.metric_name("test/finetuned/t2v/MdR") == "test/finetuned/t2v/MdR"
    assert tracking.metric_name("a" * 300) != tracking.metric_name("a" * 301)


def test_the_ui_command_takes_a_free_port(uri: str) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        command = tracking.ui_command(uri, port)
        chosen = int(command.rpartition("--port ")[2])
        assert chosen != port and uri in command and "--host 127.0.0.1" in command
    assert f"--port {port}" in tracking.ui_command(uri, port)
    assert "http://tracker:5000" in tracking.ui_command("http://me:pass@tracker:5000").replace(
        "***@", ""
    )
    assert "pass" not in tracking.ui_command("http://me:pass@tracker:5000")


# ---- one run -------------------------------------------------------------------------------------


def test_a_finished_run_is_mirrored_whole_and_a_second_replay_adds_nothing(
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
    times = {
        round(line["time"] * 1000)
        for line in map(json.loads, (run.dir / "journal.jsonl").read_text().splitlines())
    }
    series = [row for row in stored if row[0] == "pretrain/loss/mvm"]
    assert [row[1] for row in series] == list(range(30))
    assert [row[2] for row in series] == [math.sin(step) + 1 for step in range(30)]
    assert all(any(abs(row[4] - t) <= 1 for t in times) for row in series)

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
        1,
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


def artifacts(uri: str, run_id: str) -> set[str]:
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        [(address,)] = database.execute(
            "select artifact_uri from runs where run_uuid = ?", (run_id,)
        ).fetchall()
    folder = Path(address.removeprefix("file://"))
    assert folder.is_absolute() and folder.is_relative_to(
        Path(uri.removeprefix("sqlite:///")).parent
    )
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_journal_that_was_cut_back_and_written_again_makes_no_duplicates(
    tmp_path: Path, uri: str
) -> None:
    """Also when the process was killed after it had written to the tracker and before it had
    written its cursor.
    """
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


def ended(run: Run, cause: str, at: float, message: str = "") -> None:
    """job.json as the engine leaves it when a job was ended from outside."""
    job = {
        "executor": "local",
        "job_id": "7",
        "submitted": at - 100,
        "ended": {"cause": cause, "message": message, "at": at, "by": "user"},
    }
    write_atomically(run.dir / "job.json", json.dumps(job))


@pytest.mark.parametrize("said", ["running", "stopped", "failed"])
@pytest.mark.parametrize("cause", ["cancelled", "pruned"])
def test_what_was_ended_from_outside_is_killed_and_says_why(
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


# ---- an unreachable or hung tracker --------------------------------------------------------------


def test_offline_first_then_synced_is_the_same_as_mirrored_in_time(
    tmp_path: Path, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The run sees only an unreachable server: one warning, no waiting; `sync_all` replays it
    elsewhere.
    """
    with caplog.at_level(logging.WARNING):
        run = Run(tmp_path / "offline", UNREACHABLE, seed=11)
        start = time.monotonic()
        with BackgroundMirror(
            run.dir, dataclasses.replace(run.experiment.runtime, sync_every_s=0.05)
        ) as mirror:
            run.train(0, 20)
            time.sleep(0.5)
            run.finish(make_result())
        assert time.monotonic() - start < 15
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1 and "python -m simvtp sync" in warnings[0] and mirror.failures > 1

    with pytest.raises(TrackerError, match="does not answer"):
        tracking.sync_all(tmp_path / "offline")
    [report] = tracking.sync_all(tmp_path / "offline", uri)
    assert report.points == 20 * len(METRICS) + 12 + 2
    late = rows(uri, run.experiment.fingerprint)

    prompt_uri = f"sqlite:///{tmp_path / 'prompt.db'}"
    with BackgroundMirror(
        run.dir,
        dataclasses.replace(run.experiment.runtime, tracking_uri=prompt_uri, sync_every_s=0.05),
    ):
        time.sleep(0.2)
    assert rows(prompt_uri, run.experiment.fingerprint) == late
    both = [
        tracking.read_runs(address, [run.experiment.fingerprint])[0]
        for address in (uri, prompt_uri)
    ]
    assert (
        both[0].results == both[1].results
        and both[0].start_time == both[1].start_time
        and both[0].params == both[1].params
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
        name.rpartition("/")[2]: value
        for name, value in found.metrics.items()
        if name.startswith("test/finetuned/qa/open-ended/")
    }
    assert figures == {
        "accuracy": 40.0, "chance_accuracy": 6.25, "accuracy_prior": 31.0, "accuracy_video-hidden": 33.0,
        "accuracy-colour": 41.0, "chance_accuracy-colour": 7.25, "accuracy-colour_prior": 32.0, "accuracy-colour_video-hidden": 34.0,
    }  # fmt: skip
    assert (
        found.metrics["val/accuracy"] == 41.0
    )  # of the selected step, under the name that a search gives it


def test_the_best_cell_of_an_error_is_the_one_with_the_smallest() -> None:
    from simvtp.tracking.aggregates import best_cell

    plan = {
        "axes": [{"key": "a.x", "label": "x", "values": [1, 2]}],
        "metric": "test/finetuned/qa/count/MSE",
        "points": [{"cell": {"a.x": n}, "seed": 0, "fingerprint": str(n)} for n in (1, 2)],
    }
    assert best_cell(
        plan, [PointSummary("1", "finished", 3.0, 10.0), PointSummary("2", "finished", 1.5, 11.0)]
    ) == {"a.x": 2}


def test_the_background_mirror_brings_everything_by_the_end(
    tmp_path: Path, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path, uri, seed=12)
    with BackgroundMirror(
        run.dir, dataclasses.replace(run.experiment.runtime, sync_every_s=0.1)
    ) as mirror:
        for step in range(0, 60, 20):
            run.train(step, step + 20)
            time.sleep(0.15)
        run.finish(make_result())
    assert mirror.failures == 0 and not caplog.records
    [found] = tracking.read_runs(uri, [run.experiment.fingerprint])
    assert found.status == "FINISHED" and found.results == [make_result()]
    assert [
        row[1] for row in rows(uri, run.experiment.fingerprint) if row[0] == "pretrain/lr"
    ] == list(range(60))


def test_leaving_does_not_wait_for_a_hung_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with socket.socket() as hung:  # takes connections and never answers
        hung.bind(("127.0.0.1", 0))
        hung.listen(64)
        run = Run(tmp_path, f"http://127.0.0.1:{hung.getsockname()[1]}", seed=13)
        with BackgroundMirror(run.dir, run.experiment.runtime, patience_s=1.0) as mirror:
            run.train(0, 3)
            start = time.monotonic()
        assert time.monotonic() - start < 15
        assert mirror.failures == 1 and "did not answer" in caplog.text
        mirror._thread.join(30)
        assert not mirror._thread.is_alive()


@contextlib.contextmanager
def silent_server(greets: bool) -> Iterator[str]:
    """Takes connections and never answers; with `greets` it answers /health, as a server does whose
    database hangs.
    """
    done = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not (greets and self.path == "/health"):
                done.wait(60)
                return
            self.send_response(200)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        done.set()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("greets", [False, True], ids=["says nothing", "answers /health only"])
def test_a_sweep_waits_seconds_for_a_hung_server_and_warns_once_a_call(
    tmp_path: Path, greets: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.tracking  # noqa: F401  (its import is not what is measured)

    monkeypatch.setattr(address, "_ANSWER_S", 1.0)
    monkeypatch.setattr(background, "_PATIENCE_REMOTE_S", 1.0)
    with silent_server(greets) as hung:
        runs = make_sweep(tmp_path, hung, 300)
        plan, where = make_plan(runs), runs[0].experiment.runtime
        start = time.monotonic()
        assert tracking.start_sweep(plan, where) is None
        tracking.finish_sweep(plan, where, final=False)
        tracking.finish_sweep(plan, where)
        assert time.monotonic() - start < 10
    messages = [
        record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING
    ]
    assert len(messages) == 3 and all("python -m simvtp sync" in text for text in messages)


def test_the_patience_of_jobs_and_sweeps_is_seconds() -> None:
    """What the tests above shorten: the longest that a job waits at its end, and a sweep for each
    of its calls.
    """
    assert background._PATIENCE_REMOTE_S <= 15 and address._CONNECT_S + address._ANSWER_S <= 15


def test_any_answer_shows_that_a_server_is_there(tmp_path: Path) -> None:
    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(401)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address.require_answer(f"http://127.0.0.1:{server.server_port}/some/path/")
    finally:
        server.shutdown()
        server.server_close()


def test_tracking_that_is_off_costs_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path, "off", seed=14)
    run.train(0, 3)
    with BackgroundMirror(run.dir, run.experiment.runtime) as mirror:
        assert not mirror._thread.is_alive()
    assert run.sync(final=True).points == 0
    assert tracking.start_sweep(make_plan([run]), run.experiment.runtime) is None
    assert not (tmp_path / "mlflow.db").exists()


def test_reading_needs_a_tracker(tmp_path: Path) -> None:
    for named, words in (
        (UNREACHABLE, "does not answer"),
        (f"sqlite:///{tmp_path}/none.db", "there is no tracker store"),
        ("mlruns", "folder"),
    ):
        with pytest.raises(UserError, match=words):
            tracking.list_sweeps(named)
        with pytest.raises(UserError, match=words):
            tracking.read_runs(named, ["ab" * 32])
    assert not (tmp_path / "none.db").exists()


def test_a_file_that_is_no_store_gives_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is a letter, not a database\n" * 100)
    with pytest.raises(TrackerError, match="tracker at sqlite"):
        tracking.read_runs(f"sqlite:///{tmp_path}/mlflow.db", ["ab" * 32])


def test_a_damaged_run_directory_does_not_keep_others_from_being_replayed(
    tmp_path: Path, uri: str
) -> None:
    broken, whole = Run(tmp_path, uri, seed=15), Run(tmp_path, uri, seed=16)
    (broken.dir / "experiment.json").write_text("{")
    whole.train(0, 2)
    reports = {report.run_dir: report for report in tracking.sync_all(tmp_path, uri)}
    assert "cannot be read" in str(reports[broken.dir]) and reports[whole.dir].points == 2 * len(
        METRICS
    )


# ---- many processes ------------------------------------------------------------------------------

WORKERS = """
import multiprocessing, os, sys
from pathlib import Path
import mlflow.tracking  # once for all, so that they start at the same moment; nothing is open yet when they part
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.tracking import Mirror, prepare_store

def work(run_dir, gate, uri):
    gate.wait()
    prepare_store(uri)
    report = Mirror(run_dir, RuntimeConfig(tracking_uri=uri, tracking_experiment="tests")).sync(final=True)
    os.write(1, f"{report.points} {len(report.warnings)}\\n".encode())

uri, *folders = sys.argv[1:]
context = multiprocessing.get_context("fork")
gate = context.Barrier(len(folders))
processes = [context.Process(target=work, args=(Path(folder), gate, uri)) for folder in folders]
for process in processes: process.start()
for process in processes: process.join()
sys.exit(sum(process.exitcode != 0 for process in processes))
"""


def test_parallel_processes_on_a_missing_store(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'fresh' / 'mlflow.db'}"
    runs = [Run(tmp_path / "runs", uri, seed=seed) for seed in range(4)]
    for run in runs:
        run.train(0, 50)
        run.finish(make_result())
    command = [sys.executable, "-c", WORKERS, uri, *(str(run.dir) for run in runs)]
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # mlflow is imported before our package can say so
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{50 * len(METRICS) + 14} 0"] * len(runs)
    assert done.stderr == "", "mlflow's noise reaches the terminal"
    assert counts(uri)["runs"] == len(runs) and len(rows(uri)) == len(runs) * (
        50 * len(METRICS) + 14
    )
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        kinds = database.execute(
            "select e.name, t.value from experiments e join experiment_tags t using (experiment_id) where key = 'mlflow.experimentKind'"
        )
        assert kinds.fetchall() == [("tests", "custom_model_development")]


def test_a_store_is_made_anew_where_a_process_was_killed_while_making_it(tmp_path: Path) -> None:
    for name in (".mlflow.db.4711.tmp", ".mlflow.db.4711.tmp-journal", "mlflow.db"):
        (tmp_path / name).write_bytes(b"" if name == "mlflow.db" else b"half a schema")
    run = Run(tmp_path, f"sqlite:///{tmp_path}/mlflow.db", seed=0)
    run.train(0, 3)
    assert run.sync().points == 3 * len(METRICS)
    assert {path.name for path in tmp_path.glob(".mlflow.db*")} == set()


# ---- sweeps --------------------------------------------------------------------------------------


def make_plan(runs: list[Run], **changes: Any) -> dict[str, Any]:
    points = [
        {
            "cell": {
                "masks.video_ratio": run.experiment.masks.video_ratio,
                "masks.text_ratio": run.experiment.masks.text_ratio,
            },
            "seed": run.experiment.seed,
            "fingerprint": run.experiment.fingerprint,
            "cell_fingerprint": run.experiment.cell_fingerprint,
        }
        for run in runs
    ]
    plan = {
        "sweep_id": f"mask_ratio-{runs[0].experiment.fingerprint[:8]}", "ablation": "mask_ratio", "title": "Mask ratios", "question": "?",
        "paper_says": "0.9", "dataset": "shapes", "recipe": "tiny", "seeds": [0, 1], "metric": "test/finetuned/t2v/R1", "metric_label": "R@1",
        "axes": [{"key": "masks.video_ratio", "label": "video", "values": [0.5, 0.9]}, {"key": "masks.text_ratio", "label": "text", "values": [0.75]}],
        "published_optimum": None, "points": points,
    }  # fmt: skip
    return plan | changes


def make_sweep(root: Path, uri: str, first_seed: int) -> list[Run]:
    masks = get_recipe("tiny").masks
    return [
        Run(root, uri, seed=seed, masks=dataclasses.replace(masks, video_ratio=ratio))
        for ratio in (0.5, 0.9)
        for seed in (first_seed, first_seed + 1)
    ]


def test_a_sweep_is_one_parent_with_its_children_and_figures(tmp_path: Path, uri: str) -> None:
    runs = make_sweep(tmp_path, uri, 100)
    plan, where = make_plan(runs), runs[0].experiment.runtime
    parent = tracking.start_sweep(plan, where)
    assert parent and tracking.start_sweep(plan, where) == parent
    [record] = [
        record
        for record in tracking.list_sweeps(uri, "mask_ratio")
        if record.sweep_id == plan["sweep_id"]
    ]
    assert (record.plan, record.run_id, record.ablation) == (plan, parent, "mask_ratio")
    assert tracking.list_sweeps(uri, "another ablation") == []

    for number, (run, value) in enumerate(zip(runs, (10.0, 20.0, 40.0, 30.0), strict=True)):
        cell = {"masks.video_ratio": run.experiment.masks.video_ratio}
        link = {
            "sweep_id": plan["sweep_id"],
            "ablation": "mask_ratio",
            "parent_run_id": parent,
            "cell": cell,
        }
        write_atomically(run.dir / "sweep.json", json.dumps(link))
        run.finish(make_result(seed=run.experiment.seed, r1=value))
        run.status("finished", updated=1000.0 + number)
        run.sync(final=True)
        tracking.finish_sweep(plan, where, final=False)
    before = counts(uri)
    tracking.finish_sweep(plan, where)
    tracking.finish_sweep(plan, where)
    assert counts(uri)["metrics"] == before["metrics"]

    children = tracking.read_runs(uri, [run.experiment.fingerprint for run in runs])
    assert [child.tags["mlflow.parentRunId"] for child in children] == [parent] * 4
    assert (
        children[0].tags["mlflow.runName"]
        == f"0.5 s100 (video_ratio seed, tiny {runs[0].experiment.fingerprint[:8]})"
    )
    assert [child.tags["cell.video_ratio"] for child in children] == ["0.5", "0.5", "0.9", "0.9"]
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        stored = database.execute(
            "select key, step, value from metrics where run_uuid = ? order by key, timestamp, step",
            (parent,),
        ).fetchall()
        [(status,)] = database.execute(
            "select status from runs where run_uuid = ?", (parent,)
        ).fetchall()
        [(note,)] = database.execute(
            "select value from tags where run_uuid = ? and key = 'mlflow.note.content'", (parent,)
        ).fetchall()
    assert "](" not in note, "there is no report yet, so no link"
    assert (
        plan["question"] in note
        and f"python reports/build.py mask_ratio --sweep {plan['sweep_id']}" in note
    )
    assert status == "FINISHED"
    assert [(step, value) for key, step, value in stored if key == "progress/best"] == [
        (1, 10),
        (2, 20),
        (3, 40),
        (4, 40),
    ]
    assert [(step, value) for key, step, value in stored if key == "progress/finished"] == [
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 4),
    ]
    latest = {key: value for key, _, value in stored}
    assert (
        latest["cell/video_ratio 0.5 text_ratio 0.75"] == 15
        and latest["cell/video_ratio 0.9 text_ratio 0.75"] == 35
    )
    assert latest["mean by video_ratio/0.9"] == 35 and latest["mean by text_ratio/0.75"] == 25
    assert latest["best/test/finetuned/t2v/R1"] == 35 and latest["best/video_ratio"] == 0.9
    assert (
        latest["points/planned"],
        latest["points/finished"],
        latest["points/failed"],
        latest["cost/cpu_hours"],
    ) == (4, 4, 0, 2.0)


def test_a_sweep_that_ran_offline_gets_its_parent_by_sync(
    tmp_path: Path, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    runs = make_sweep(tmp_path, UNREACHABLE, 200)
    plan = make_plan(runs)
    write_atomically(tmp_path / "sweeps" / plan["sweep_id"] / "plan.json", json.dumps(plan))
    assert tracking.start_sweep(plan, runs[0].experiment.runtime) is None
    assert "does not answer" in caplog.text
    for run in runs:
        link = {
            "sweep_id": plan["sweep_id"],
            "ablation": "mask_ratio",
            "parent_run_id": None,
            "cell": {},
        }
        write_atomically(run.dir / "sweep.json", json.dumps(link))
    for run in runs[:3]:
        run.finish(make_result(seed=run.experiment.seed))
    runs[3].status("failed", message="no luck")
    tracking.finish_sweep(plan, runs[0].experiment.runtime)

    tracking.sync_all(tmp_path, uri)
    before = counts(uri)
    tracking.sync_all(tmp_path, uri)
    assert counts(uri) == before
    [record] = [
        record for record in tracking.list_sweeps(uri) if record.sweep_id == plan["sweep_id"]
    ]
    children = tracking.read_runs(uri, [run.experiment.fingerprint for run in runs])
    assert {child.tags["mlflow.parentRunId"] for child in children} == {record.run_id}
    assert [child.status for child in children] == ["FINISHED"] * 3 + ["FAILED"]
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        assert database.execute(
            "select status from runs where run_uuid = ?", (record.run_id,)
        ).fetchall() == [("FAILED",)]


def make_search(runs: list[Run], **changes: Any) -> dict[str, Any]:
    objectives = [
        {"metric": "val/t2v/R1", "label": "val R@1", "direction": "maximize"},
        {"metric": "cost/cpu_hours", "label": "CPU-hours", "direction": "minimize"},
    ]
    space = [
        {
            "key": "masks.video_ratio",
            "label": "video",
            "kind": "float",
            "low": 0.5,
            "high": 0.9,
            "log": False,
            "choices": [],
        },
        {
            "key": "masks.text_ratio",
            "label": "text",
            "kind": "choice",
            "low": 0.0,
            "high": 0.0,
            "log": False,
            "choices": [0.5, 0.75],
        },
    ]
    search = {
        "kind": "search",
        "ablation": "search",
        "metric": "val/t2v/R1",
        "objectives": objectives,
        "space": space,
        "trials": 9,
        "seeds": [0],
    }
    return make_plan(
        runs, sweep_id=f"search-{runs[0].experiment.fingerprint[:8]}", **(search | changes)
    )


def test_a_search_has_its_best_its_front_and_its_pruned_trials_and_no_means(
    tmp_path: Path, uri: str
) -> None:
    masks = get_recipe("tiny").masks
    runs = [
        Run(tmp_path, uri, seed=0, masks=dataclasses.replace(masks, video_ratio=0.5 + n / 100))
        for n in range(5)
    ]
    plan, where = make_search(runs), runs[0].experiment.runtime
    parent = tracking.start_sweep(make_search(runs[:2]), where)  # it has proposed two so far
    for number, (run, value, hours) in enumerate(
        zip(runs, (10.0, 30.0, 20.0, None, None), (1.0, 3.0, 4.0, 0.1, 0.0), strict=True)
    ):
        write_atomically(
            run.dir / "sweep.json",
            json.dumps({"sweep_id": plan["sweep_id"], "ablation": "search", "cell": {}}),
        )
        run.status("running", host="another-machine")
        if value is not None:
            run.journal.write(
                "metrics",
                stage="finetune",
                step=4,
                metrics={"val/mean_recall": value, "val/t2v/R1": value},
            )
            run.finish(make_result(r1=99.0))
            run.status("finished", updated=1000.0 + number, cpu_hours=hours)
        if number < 4:
            run.sync()
    ended(runs[3], "pruned", time.time())  # after it was mirrored as running
    (runs[4].dir / "experiment.json").unlink()
    (runs[4].dir / "status.json").unlink()
    ended(runs[4], "cancelled", time.time())  # before it began
    tracking.finish_sweep(plan, where)
    before = counts(uri)
    tracking.finish_sweep(plan, where)
    assert counts(uri) == before

    [record] = [
        record
        for record in tracking.list_sweeps(uri, "search")
        if record.sweep_id == plan["sweep_id"]
    ]
    assert (record.run_id, record.plan) == (parent, plan)
    assert record.states == {
        runs[3].experiment.fingerprint: "pruned",
        runs[4].experiment.fingerprint: "cancelled",
    }
    children = tracking.read_runs(uri, [run.experiment.fingerprint for run in runs])
    assert [(child.status, child.state) for child in children] == [("FINISHED", "finished")] * 3 + [
        ("KILLED", "pruned")
    ]
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        stored = database.execute(
            "select key, step, value from metrics where run_uuid = ? order by step", (parent,)
        ).fetchall()
        params = dict(
            database.execute(
                "select key, value from params where run_uuid = ?", (parent,)
            ).fetchall()
        )
        [(status,)] = database.execute(
            "select status from runs where run_uuid = ?", (parent,)
        ).fetchall()
    assert status == "KILLED"
    latest = {key: value for key, _, value in stored}
    assert [(step, value) for key, step, value in stored if key == "progress/best"] == [
        (1, 10.0),
        (2, 30.0),
        (3, 30.0),
    ]
    assert (
        latest["best/val/t2v/R1"] == 30.0
        and latest["best/video_ratio"] == 0.51
        and latest["pareto/size"] == 2
    )
    assert (
        latest["points/planned"],
        latest["points/finished"],
        latest["points/pruned"],
        latest["points/cancelled"],
    ) == (9, 3, 1, 1)
    assert not [key for key in latest if key.startswith(("cell/", "mean by"))]
    assert (
        params["space.masks.video_ratio"] == "0.5:0.9"
        and params["space.masks.text_ratio"] == "[0.5, 0.75]"
    )
    assert "axis.masks.video_ratio" not in params


def test_a_search_whose_other_trials_were_pruned_is_finished() -> None:
    from simvtp.tracking.sweep_parent import _state

    assert _state([PointSummary("a", "finished"), PointSummary("b", "pruned")]) == "finished"
    assert _state([PointSummary("a", "finished"), PointSummary("b", "cancelled")]) == "stopped"
    assert _state([PointSummary("a", "failed"), PointSummary("b", "cancelled")]) == "failed"


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2)), max_size=25))
def test_the_front_is_what_nothing_beats(scores: list[tuple[int, int, int]]) -> None:
    def beats(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        return a != b and all(x >= y for x, y in zip(a, b, strict=True))

    assert tracking.pareto(scores) == [
        n for n, score in enumerate(scores) if not any(beats(other, score) for other in scores)
    ]


def test_a_rank_is_better_when_lower() -> None:
    from simvtp.tracking.aggregates import aggregates, best_cell

    points = [
        {"cell": {"a.x": value}, "seed": 0, "fingerprint": f"{value}", "cell_fingerprint": ""}
        for value in (1, 2)
    ]
    plan = {
        "sweep_id": "s",
        "ablation": "a",
        "axes": [{"key": "a.x", "values": [1, 2]}],
        "points": points,
        "metric": "test/zero-shot/t2v/MdR",
    }
    summaries = [PointSummary("1", "finished", 9.0, 10.0), PointSummary("2", "finished", 4.0, 20.0)]
    assert best_cell(plan, summaries) == {"a.x": 2}
    assert [p.value for p in aggregates(plan, summaries) if p.key == "progress/best"] == [9.0, 4.0]
    assert best_cell(plan, []) == {}
    assert best_cell(plan, [PointSummary("1", "finished", math.nan, 10.0), summaries[1]]) == {
        "a.x": 2
    }


# ---- a real server -------------------------------------------------------------------------------


def wait_until_it_answers(address: str, seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
                assert answer.status == 200
                return
        except OSError:
            assert time.monotonic() < until, f"{address} did not start"
            time.sleep(0.5)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """`mlflow ui` as announced to the user, on a sqlite store that already holds one run: (address,
    sqlite uri).
    """
    uri = f"sqlite:///{tmp_path / 'server' / 'mlflow.db'}"
    tracking.prepare_store(uri)
    command = tracking.ui_command(uri, 5400)
    with open(tmp_path / "server.log", "w") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=ROOT,
        )
    try:
        address = f"http://127.0.0.1:{command.rpartition('--port ')[2]}"
        wait_until_it_answers(address)
        yield address, uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.mark.slow
def test_the_same_through_a_real_server(tmp_path: Path, server: tuple[str, str]) -> None:
    address, uri = server
    direct = Run(tmp_path / "direct", uri, seed=1)
    direct.train(0, 5)
    direct.finish(make_result())
    direct.sync(final=True)
    [found] = tracking.read_runs(
        address, [direct.experiment.fingerprint]
    )  # written directly, read through the server
    assert found.results == [make_result()]
    with urllib.request.urlopen(
        f"{address}/get-artifact?path=results.json&run_uuid={found.run_id}", timeout=20
    ) as answer:
        assert json.loads(answer.read())[0]["queries"] == 256

    run = Run(tmp_path / "served", address, seed=2)
    run.journal.write(
        "metrics", stage="pretrain", step=0, metrics={"nan": math.nan, "system/x": 1.0}
    )
    run.train(0, 700)
    run.finish(make_result())
    with BackgroundMirror(run.dir, run.experiment.runtime) as mirror:
        pass
    assert mirror.failures == 0
    stored = rows(uri, run.experiment.fingerprint)
    assert len(stored) == 700 * len(METRICS) + 2 + 14
    (run.dir / "mirror.json").unlink()
    assert run.sync(final=True).points == 0 and rows(uri, run.experiment.fingerprint) == stored
    [found] = tracking.read_runs(address, [run.experiment.fingerprint])
    assert (
        found.status == "FINISHED"
        and found.results == [make_result()]
        and math.isnan(found.metrics["pretrain/nan"])
    )
    plan = make_plan([run], axes=[])
    assert tracking.start_sweep(plan, run.experiment.runtime)
    assert tracking.list_sweeps(address)[0].plan == plan
