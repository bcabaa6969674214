"""The pages of other programs in a real browser: MLflow on a sweep, optuna-dashboard on its study.

The tests assert what a page holds, not how it looks. They need a chromium of the system and
Playwright and are skipped, with the reason, if one is missing.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reports.build import main as build_report
from simvtp import tracking
from simvtp.config.overrides import override
from simvtp.config.recipes import get_recipe
from simvtp.runs.atomic_files import write_atomically
from sweeps.study import open_study
from tests.sweeps import ratio_grid
from tests.tracking.run_dirs import ROOT, Run, ended, make_plan, make_result, make_sweep

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed (requirements-dev.txt)"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium on this machine (Debian's package: chromium)"
    ),
]

PATIENCE_S = 90.0  # of one step in a browser; a busy machine takes 10


@contextlib.contextmanager
def served(command: list[str] | str, log: Path, ready: str) -> Iterator[None]:
    """Starts a server as a user does and waits until `ready` answers; ends it with its children."""
    line = command if isinstance(command, list) else ["bash", "-c", f"exec {command}"]
    with open(log, "w") as file:
        process = subprocess.Popen(line, stdout=file, stderr=file, start_new_session=True, cwd=ROOT)
    try:
        until = time.monotonic() + 180
        while True:
            assert process.poll() is None, log.read_text()[-2000:]
            with contextlib.suppress(OSError), urllib.request.urlopen(ready, timeout=5):
                break
            assert time.monotonic() < until, f"no answer from {ready}: {log.read_text()[-2000:]}"
            time.sleep(0.3)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with contextlib.suppress(ProcessLookupError):  # also children that outlived it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(15)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Page that records every address it requests; a screenshot is left in tmp_path."""
    opened = browser.new_page(viewport={"width": 1500, "height": 900})
    opened.set_default_timeout(PATIENCE_S * 1000)
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    yield opened
    opened.screenshot(path=tmp_path / "page.png")
    opened.close()
    outside = [url for url in asked if not re.match(r"(http://127\.0\.0\.1:|data:|blob:)", url)]
    assert not outside, "the page asks other machines"


@pytest.fixture(scope="module")
def mlflow_ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[Run], str]]:
    """The UI on a sweep of four runs, one of them cancelled: (address, runs, parent)."""
    root = tmp_path_factory.mktemp("runs")
    uri = f"sqlite:///{root}/mlflow.db"
    runs = make_sweep(root, uri, 0)
    plan, where = make_plan(runs), runs[0].experiment.runtime
    parent = tracking.start_sweep(plan, where)
    assert parent is not None
    for number, run in enumerate(runs):
        cell = {"masks.video_ratio": run.experiment.masks.video_ratio, "masks.text_ratio": 0.75}
        write_atomically(
            run.dir / "sweep.json",
            json.dumps({"sweep_id": plan["sweep_id"], "ablation": "mask_ratio", "cell": cell}),
        )
        run.train(0, 20)
        if number < 3:
            run.finish(make_result(r1=10.0 + 3 * number))
        else:
            run.status("stopped")
            ended(run, "cancelled", time.time())
        run.sync(final=True)
    tracking.finish_sweep(plan, where)
    assert build_report(["--source", uri, "--out", str(root / "out")]) == 0
    command = tracking.ui_command(uri, 5600)
    address = tracking.ui_page(uri, where.tracking_experiment, command)
    with served(command, root / "server.log", f"{address.partition('/#')[0]}/health"):
        yield address, runs, parent


def names(page: Any) -> list[str]:
    """Names of the runs in the table, from above."""
    return [link.inner_text() for link in page.query_selector_all(".ag-row a[href*='/runs/']")]


def open_runs(page: Any, address: str) -> None:
    page.goto(address)
    page.wait_for_selector(".ag-row a[href*='/runs/']")
    panel = page.query_selector("[data-component-id='mlflow.assistant.chat_panel.close']")
    if panel:
        panel.click()


def test_the_runs_page_lists_the_sweep_and_its_points_below_it(
    page: Any, mlflow_ui: tuple[str, list[Run], str]
) -> None:
    address, runs, _ = mlflow_ui
    open_runs(page, address)
    assert names(page) == [f"sweep mask_ratio-{runs[0].experiment.fingerprint[:8]}"]
    assert (
        page.locator("text=Model training").count() and not page.locator("text=Judges").count()
    ), "the view for language models"
    page.locator(".ag-row button").first.click()
    page.wait_for_function("document.querySelectorAll(\".ag-row a[href*='/runs/']\").length >= 5")
    children = names(page)[1:]
    assert len({name[:11] for name in children}) == 4, (
        "what is seen of the names tells the runs apart"
    )
    assert {name.partition(" (")[0] for name in children} == {
        "0.5 0.75 s0",
        "0.5 0.75 s1",
        "0.9 0.75 s0",
        "0.9 0.75 s1",
    }


def test_the_charts_show_the_sweep_without_a_click(
    page: Any, mlflow_ui: tuple[str, list[Run], str]
) -> None:
    """The children are folded away at first, so what is drawn are the figures of the parent."""
    address, _, _ = mlflow_ui
    open_runs(page, f"{address}&compareRunsMode=CHART")
    page.wait_for_selector(".js-plotly-plot")
    page.wait_for_function(
        "document.querySelectorAll("
        "'.js-plotly-plot .plot path, .js-plotly-plot .points path').length > 0"
    )
    text = page.inner_text("body")
    assert "best/video_ratio" in text
    search = page.get_by_placeholder("Search metric charts")
    search.fill("progress")
    page.wait_for_function("document.body.innerText.includes('progress/best')")


def test_the_compare_page_shows_coordinates_and_figures(
    page: Any, mlflow_ui: tuple[str, list[Run], str]
) -> None:
    address, runs, _ = mlflow_ui
    uri = runs[0].experiment.runtime.tracking_uri
    tracked = tracking.read_runs(uri, [run.experiment.fingerprint for run in runs])
    experiment = re.search(r"experiments/(\d+)/", address)
    assert experiment is not None
    chosen = json.dumps([run.run_id for run in tracked])
    page.goto(
        f'{address.partition("#")[0]}#/compare-runs?runs={chosen}&experiments=["{experiment[1]}"]'
    )
    page.wait_for_selector(".js-plotly-plot .parcoords", state="attached")
    page.wait_for_function("document.body.innerText.includes('test/finetuned/t2v/R1')")
    text = page.inner_text("body")
    assert "Comparing 4 Runs" in text and "masks.video_ratio" in text
    figures = text.rpartition("\nMetrics\n")[
        2
    ]  # the names of all metrics, then the values of each, a line for each run
    assert "test/finetuned/t2v/R1\n" in figures and "\n10\n13\n16\n" in figures, figures


def test_a_cancelled_run_says_so(page: Any, mlflow_ui: tuple[str, list[Run], str]) -> None:
    address, runs, _ = mlflow_ui
    [cancelled] = tracking.read_runs(
        runs[0].experiment.runtime.tracking_uri, [runs[3].experiment.fingerprint]
    )
    page.goto(f"{address.partition('/runs?')[0]}/runs/{cancelled.run_id}")
    page.wait_for_function("document.body.innerText.includes('cancelled')")
    assert re.search(r"state\s*:?\s*cancelled", page.inner_text("body"))


def test_the_description_of_a_sweep_leads_to_its_report(
    page: Any, mlflow_ui: tuple[str, list[Run], str]
) -> None:
    address, _, parent = mlflow_ui
    page.goto(f"{address.partition('/runs?')[0]}/runs/{parent}")
    link = page.get_by_role("link", name="Report", exact=True)
    link.wait_for()
    with page.context.expect_page(timeout=PATIENCE_S * 1000) as opened:
        link.click()
    report = opened.value
    report.set_default_timeout(PATIENCE_S * 1000)
    inside = report.frame_locator("iframe")
    inside.locator("h1", has_text="Mask ratios").wait_for()
    assert inside.locator("table").count() and inside.locator("a").count() == 0, (
        "links cannot leave the frame, so there are none"
    )
    report.close()


def test_optuna_dashboard_opens_the_study_of_a_sweep(page: Any, tmp_path: Path) -> None:
    pytest.importorskip(
        "optuna_dashboard", reason="optuna-dashboard is not installed (requirements-dev.txt)"
    )
    ablation = ratio_grid.build(override(get_recipe("tiny"), [f"runtime.root={tmp_path}"]))
    study = open_study(tmp_path / "study.journal", ablation)
    study.plan(lambda point, state: state is None)
    for value in (10.0, 12.5):
        point = study.ask()
        assert point is not None
        study.tell(point.fingerprint, [value])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = (
        [sys.executable, "-m", "optuna_dashboard"]
        if not shutil.which("optuna-dashboard", path=str(Path(sys.executable).parent))
        else []
    )
    command = program or [str(Path(sys.executable).with_name("optuna-dashboard"))]
    address = f"http://127.0.0.1:{port}"
    with served(
        [*command, "--host", "127.0.0.1", "--port", str(port), str(tmp_path / "study.journal")],
        tmp_path / "log",
        address,
    ):
        page.goto(f"{address}/dashboard")
        page.wait_for_function(f"document.body.innerText.includes('{ablation.sweep_id}')")
        page.goto(f"{address}/dashboard/studies/0/trials")
        page.wait_for_function("document.body.innerText.includes('Complete')")
        text = page.inner_text("body")
        assert "4 Trials" in text and text.count("Waiting") == 2 and "Best Trial" in text
        assert "masks.video_ratio 0.9" in text and "Value" in text
