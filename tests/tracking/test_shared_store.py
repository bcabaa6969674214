"""Many processes at one store."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

from tests.tracking.run_dirs import (
    METRICS,
    ROOT,
    Run,
    counts,
    make_result,
    rows,
)

WORKERS = """
import multiprocessing, os, sys
from pathlib import Path
import mlflow.tracking  # once for all, so that they start at the same moment
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.tracking import Mirror, prepare_store

def work(run_dir, gate, uri):
    gate.wait()
    prepare_store(uri)
    runtime = RuntimeConfig(tracking_uri=uri, tracking_experiment="tests")
    report = Mirror(run_dir, runtime).sync(final=True)
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
            "select e.name, t.value from experiments e join experiment_tags t "
            "using (experiment_id) where key = 'mlflow.experimentKind'"
        )
        assert kinds.fetchall() == [("tests", "custom_model_development")]


def test_a_store_is_made_again_where_a_process_was_killed_while_making_it(tmp_path: Path) -> None:
    for name in (".mlflow.db.4711.tmp", ".mlflow.db.4711.tmp-journal", "mlflow.db"):
        (tmp_path / name).write_bytes(b"" if name == "mlflow.db" else b"half a schema")
    run = Run(tmp_path, f"sqlite:///{tmp_path}/mlflow.db", seed=0)
    run.train(0, 3)
    assert run.sync().points == 3 * len(METRICS)
    assert {path.name for path in tmp_path.glob(".mlflow.db*")} == set()
