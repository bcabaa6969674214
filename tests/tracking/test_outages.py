"""Trackers that are away, hang or are no trackers: nobody waits and nothing is lost."""

import contextlib
import dataclasses
import http.server
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simvtp import tracking
from simvtp.__main__ import main
from simvtp.errors import UserError
from simvtp.tracking import (
    BackgroundMirror,
    TrackerError,
    address,
    background,
)
from tests.tracking.run_dirs import (
    METRICS,
    UNREACHABLE,
    Run,
    make_plan,
    make_result,
    make_sweep,
    rows,
)


def test_offline_first_then_synced_is_the_same_as_mirrored_in_time(
    tmp_path: Path, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The run sees an unreachable server: one warning, no waiting; it is replayed elsewhere."""
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
        with BackgroundMirror(run.dir, run.experiment.runtime, timeout_s=1.0) as mirror:
            run.train(0, 3)
            start = time.monotonic()
        assert time.monotonic() - start < 15
        assert mirror.failures == 1 and "did not answer" in caplog.text
        mirror._thread.join(30)
        assert not mirror._thread.is_alive()


@contextlib.contextmanager
def silent_server(greets: bool) -> Iterator[str]:
    """Serves without an answer; with `greets` it answers /health, like one whose database hangs."""
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
    monkeypatch.setattr(background, "_TIMEOUT_REMOTE_S", 1.0)
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


def test_jobs_and_sweeps_wait_seconds_for_a_server() -> None:
    """The tests above shorten these: the wait of a job at its end, and of a sweep for each call."""
    assert background._TIMEOUT_REMOTE_S <= 15 and address._CONNECT_S + address._ANSWER_S <= 15


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
    assert "damaged: " in str(reports[broken.dir]) and reports[whole.dir].points == 2 * len(METRICS)


def test_sync_exits_with_an_error_if_a_run_was_not_stored(
    tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, complete = Run(tmp_path, uri, seed=40), Run(tmp_path, uri, seed=41)
    complete.train(0, 2)
    assert main(["sync", str(tmp_path), "--tracking-uri", uri]) == 0
    (broken.dir / "status.json").write_text("")
    (tmp_path / "sweeps" / "a-1").mkdir(parents=True)
    (tmp_path / "sweeps" / "a-1" / "plan.json").write_text("{}")
    complete.train(2, 4)
    assert main(["sync", str(tmp_path), "--tracking-uri", uri]) == 1
    printed = capsys.readouterr().out
    assert "damaged: " in printed and "status.json" in printed and "plan.json" in printed
    assert printed.count("could not be stored") == 1
    steps = [row[1] for row in rows(uri, complete.experiment.fingerprint)]
    assert sorted(set(steps)) == [0, 1, 2, 3]
