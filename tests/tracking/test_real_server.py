"""Tracker that is a real MLflow server."""

import json
import math
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from simvtp import tracking
from simvtp.tracking import (
    BackgroundMirror,
)
from tests.tracking.run_dirs import (
    METRICS,
    ROOT,
    Run,
    make_plan,
    make_result,
    rows,
)


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
    """Starts `mlflow ui` as announced to the user; yields (address, sqlite uri)."""
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
