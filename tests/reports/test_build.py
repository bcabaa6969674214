"""The command on real stores, and what it writes."""

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reports.build import main
from simvtp import tracking
from simvtp.config.experiment_config import Experiment, RuntimeConfig
from simvtp.config.overrides import override
from simvtp.config.recipes import get_recipe
from simvtp.config.tree import to_dict
from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.journal import Journal
from simvtp.tracking import Mirror
from tests.reports.made_up import all_results
from tests.reports.test_report_files import report_of
from tests.sweeps import ratio_grid

ROOT = Path(__file__).resolve().parents[2]
VALUES = {(0.95, 0.15): 10.0, (0.95, 0.75): 12.0, (0.9, 0.75): 15.0}  # (0.9, 0.15) failed
FILES = [
    "all.csv",
    "all.md",
    "all.tex",
    "index.html",
    "provenance.json",
    "table.csv",
    "table.md",
    "table.tex",
    "values.csv",
]


def write_run(experiment: Experiment, state: str, value: float | None, sweep_id: str) -> None:
    """A run directory as an experiment leaves it, mirrored into the tracker."""
    folder = experiment.run_dir
    folder.mkdir(parents=True)
    record = {
        "schema": 1,
        "fingerprint": experiment.fingerprint,
        "cell_fingerprint": experiment.cell_fingerprint,
    }
    write_atomically(
        folder / "experiment.json", json.dumps(record | {"experiment": to_dict(experiment)})
    )
    write_atomically(
        folder / "sweep.json", json.dumps({"sweep_id": sweep_id, "ablation": "mask_ratio"})
    )
    journal = Journal(folder / "journal.jsonl")
    journal.write("metrics", stage="pretrain", step=0, metrics={"loss/total": 3.0})
    if value is not None:
        write_atomically(
            folder / "results.json", json.dumps([result.to_dict() for result in all_results(value)])
        )
    status = {
        "state": state,
        "message": "" if value else "NaN at step 7",
        "updated": 1.0,
        "cpu_hours": 0.5,
        "gpu_hours": 0.0,
        "pid": 1,
        "host": "x",
    }
    write_atomically(folder / "status.json", json.dumps(status))
    Mirror(folder, experiment.runtime).sync(final=True)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Store with a small sweep, one point of which failed, and an older one: (root, sweep id)."""
    root = tmp_path_factory.mktemp("runs")
    base = override(
        get_recipe("tiny"),
        [f"runtime.root={root}", f"runtime.tracking_uri=sqlite:///{root}/mlflow.db"],
    )
    older = ratio_grid.build(base, seeds=(7,))
    tracking.start_sweep(older.plan(), older.base.runtime)
    ablation = ratio_grid.build(base)
    tracking.start_sweep(ablation.plan(), ablation.base.runtime)
    for point in ablation.points():
        value = VALUES.get(tuple(point.cell.values()))
        write_run(point.experiment, "finished" if value else "failed", value, ablation.sweep_id)
    tracking.finish_sweep(ablation.plan(), ablation.base.runtime)
    yield root, ablation.sweep_id


@pytest.fixture(autouse=True)
def _no_tracker_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_newest_sweep_is_reported(
    tracked: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, sweep_id = tracked
    out = tmp_path / "out"
    assert main(["--root", str(root), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"\| 0.90 .*\| +— \| +\*\*15.0\*\*<sup>†</sup> \|", shown)
    assert "failed (NaN at step 7, run " in shown
    assert f"Report: {out / 'mask_ratio' / 'index.html'}" in shown
    assert set(FILES) <= set(contents(out / "mask_ratio"))
    record = json.loads((out / "mask_ratio" / "provenance.json").read_text())
    assert record["sweep_id"] == sweep_id
    assert [cell["n"] for cell in record["cells"]] == [0, 1, 1, 1]
    assert [cell["mean"] for cell in record["cells"]] == [None, 15.0, 10.0, 12.0]
    runs = [run for cell in record["cells"] for run in cell["runs"]]
    assert {run["fingerprint"][:12] for run in runs} < {
        path.parent.name for path in root.glob("*/experiment.json")
    }
    assert all(
        run["results"]["test/finetuned/t2v"]["checkpoint"] and run["cpu_hours"] == 0.5
        for run in runs
    )
    assert record["protocols"]["test/finetuned/t2v"]["queries"] == 256
    assert [
        excluded_run["state"] for excluded_run in record["not_in_the_table_or_with_reservation"]
    ] == ["failed"]


def test_the_same_runs_give_the_same_bytes(tracked: tuple[Path, str], tmp_path: Path) -> None:
    root, _ = tracked
    for name in ("a", "b"):
        assert main(["mask_ratio", "--root", str(root), "--out", str(tmp_path / name)]) == 0
    assert main(["--root", str(root), "--out", str(tmp_path / "a")]) == 0  # over an existing report
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_the_page_is_put_to_the_sweep_in_the_tracker_once_and_not_at_all_where_it_is_not_wanted(
    tmp_path: Path,
) -> None:
    """Of a sweep that has not begun: what is in the page does not matter here."""
    ablation = ratio_grid.build(override(get_recipe("tiny"), [f"runtime.root={tmp_path}"]))
    run_id = tracking.start_sweep(ablation.plan(), ablation.base.runtime)
    words = ["--root", str(tmp_path), "--out", str(tmp_path / "out")]

    def pages() -> list[Path]:
        return list(tmp_path.glob(f"mlflow-artifacts/*/{run_id}/artifacts/report/index.html"))

    def note() -> str:
        with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
            [(text,)] = database.execute(
                "select value from tags where key = 'mlflow.note.content' and run_uuid = ?",
                (run_id,),
            ).fetchall()
        return str(text)

    assert main([*words, "--no-upload"]) == 0
    assert pages() == [] and "](" not in note(), "no report, no link"
    assert main(words) == 0
    [page] = pages()
    text, written = page.read_text(), page.stat().st_mtime_ns
    assert "<table" in text and "table.tex" in text and "<a " not in text
    address = f"#/experiments/1/runs/{run_id}/artifacts/report/index.html"
    link = f"**[Report]({address})** · **Video and text mask ratio**"
    assert note().startswith(link), (
        "in front of all, since no more than the first lines can be clicked"
    )
    assert main(words) == 0 and page.stat().st_mtime_ns == written, "it is there already"
    assert tracking.start_sweep(
        ablation.plan(), ablation.base.runtime
    ) == run_id and note().startswith(link), "the link is kept"


def test_a_sweep_without_a_finished_run_is_a_table_of_dashes(
    tracked: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, newest = tracked
    (older,) = {sweep.sweep_id for sweep in tracking.list_sweeps(f"sqlite:///{root}/mlflow.db")} - {
        newest
    }
    report_of(tmp_path)
    assert list((tmp_path / "mask_ratio").glob("*.png"))
    assert main(["--root", str(root), "--sweep", older, "--out", str(tmp_path)]) == 0
    assert not [
        *(tmp_path / "mask_ratio").glob("*.png"),
        *(tmp_path / "mask_ratio").glob("*.pdf"),
    ]  # those of the other sweep
    shown = capsys.readouterr()
    assert shown.out.count("—") >= 4 and shown.out.count("not tracked") == 4
    assert f"no run of sweep {older} has finished" in shown.err
    assert (tmp_path / "mask_ratio" / "index.html").read_text().count(
        "<td>7</td>"
    ) == 4  # the seed of each planned run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["masc_ratio"], r"no sweep of masc_ratio; there are sweeps of mask_ratio\."),
        (
            ["--sweep", "mask_ratio-ffffffff"],
            r"no sweep mask_ratio-ffffffff; there are: mask_ratio-",
        ),
        (["--source", "http://127.0.0.1:9"], r"tracker at http://127\.0\.0\.1:9 does not answer"),
        (["--source", "off"], r"tracking is off"),
        (["--source", "mlruns"], r"names a folder"),
        (["--root", "{tmp}/nothing"], r"there is no tracker store"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    arguments: list[str],
    message: str,
    tracked: tuple[Path, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [text.format(tmp=tmp_path) for text in arguments]
    where = [] if "--root" in given else ["--root", str(tracked[0])]
    assert main([*given, *where, "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr()
    assert (
        re.search(message, shown.err)
        and shown.out == ""
        and len(shown.err.strip().splitlines()) == 1
    )
    assert not (tmp_path / "out").exists()


def test_a_store_without_sweeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracking.prepare_store(f"sqlite:///{tmp_path}/mlflow.db")
    assert main(["--root", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "holds no sweep yet: run one" in capsys.readouterr().err


def test_a_report_that_cannot_be_written(
    tracked: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("a file")
    assert main(["--root", str(tracked[0]), "--out", str(tmp_path / "out")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_as_a_sweep_calls_it(tracked: tuple[Path, str], tmp_path: Path) -> None:
    root, sweep_id = tracked
    command = [sys.executable, "-m", "reports.build", "mask_ratio", "--sweep", sweep_id]
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "reports" / "out" / "mask_ratio" / "index.html").exists()
    assert done.stderr == ""


def test_a_sweep_whose_tracker_was_down_gives_the_same_report_after_sync(
    tracked: tuple[Path, str], tmp_path: Path
) -> None:
    """The runs of `tracked` without a tracker, then `python -m simvtp sync` into a new store."""
    root, sweep_id = tracked
    offline = tmp_path / "offline"
    plan = next(
        sweep.plan
        for sweep in tracking.list_sweeps(f"sqlite:///{root}/mlflow.db")
        if sweep.sweep_id == sweep_id
    )
    refusing = RuntimeConfig(root=str(offline), tracking_uri="http://127.0.0.1:9")
    assert tracking.start_sweep(plan, refusing) is None
    for folder in sorted(path.parent for path in root.glob("*/experiment.json")):
        shutil.copytree(
            folder,
            offline / folder.name,
            ignore=shutil.ignore_patterns("mirror.json", ".mirror.lock"),
        )
        record = json.loads((offline / folder.name / "experiment.json").read_text())
        record["experiment"]["runtime"] |= {
            "root": str(offline),
            "tracking_uri": "http://127.0.0.1:9",
        }
        write_atomically(offline / folder.name / "experiment.json", json.dumps(record))
        with pytest.raises(tracking.TrackerError):
            Mirror(offline / folder.name, refusing).sync(final=True)
    tracking.finish_sweep(plan, refusing)
    write_atomically(offline / "sweeps" / sweep_id / "plan.json", json.dumps(plan))

    store = f"sqlite:///{tmp_path}/late.db"
    command = [sys.executable, "-m", "simvtp", "sync", str(offline), "--tracking-uri", store]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    for source, out in ((f"sqlite:///{root}/mlflow.db", "prompt"), (store, "late")):
        assert main(["--source", source, "--sweep", sweep_id, "--out", str(tmp_path / out)]) == 0
    prompt, late = (
        {name: without_run_ids(b) for name, b in contents(tmp_path / out).items()}
        for out in ("prompt", "late")
    )
    assert (
        prompt.keys() == late.keys()
        and [name for name in prompt if prompt[name] != late[name]] == []
    )


def without_run_ids(content: bytes) -> bytes:
    """The tracker gives each run another id; all else must be equal."""
    return re.sub(
        rb"<code>[0-9a-f]{8}</code>",
        b"<code>RUN</code>",
        re.sub(rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", b"RUN", content),
    )


# ---- what is written -----------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["build.py", "compare.py"])
def test_the_commands_start_as_scripts(script: str, tmp_path: Path) -> None:
    """Their folder is then first on the import path, so no package in it may hide a module."""
    command = [sys.executable, str(ROOT / "reports" / script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
