"""The table of all runs, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest

from simvtp.__main__ import main
from simvtp.runs.atomic_files import write_atomically
from tests.tracking.run_dirs import Run, make_plan, make_result

METRIC = "test/finetuned/t2v/R1"


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Three runs of two sweeps: two finished, one running; an address holds a password."""
    made = [Run(tmp_path, "http://me:secret@host", seed=seed) for seed in (1, 2, 3)]
    for number, run in enumerate(made[:2]):
        run.finish(make_result(r1=10.0 + number))
    made[2].status("running")
    for name, some in (("one", made), ("two", made[:1])):
        plan = make_plan(some, sweep_id=f"{name}-01234567", ablation=name)
        write_atomically(tmp_path / "sweeps" / name / "plan.json", json.dumps(plan))
    return made


def test_csv_parquet_and_json_hold_the_same(
    runs: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(tmp_path)
    assert main(["results", root, "--csv"]) == 0
    printed = capsys.readouterr().out
    rows = {row["run"]: row for row in csv.DictReader(io.StringIO(printed))}
    assert rows.keys() == {run.dir.name for run in runs} and "secret" not in printed
    first, _, last = (rows[run.dir.name] for run in runs)
    assert (first["seed"], first["state"], float(first[METRIC])) == ("1", "finished", 10.0)
    assert first["sweeps"] == "one-01234567 two-01234567" and last["sweeps"] == "one-01234567"
    assert (last["state"], last[METRIC]) == ("running", "")
    assert float(first["masks.video_ratio"]) == runs[0].experiment.masks.video_ratio
    assert float(first["test/finetuned/t2v/chance_R1"]) == 1.0
    assert main(["results", root, "--csv", str(tmp_path / "all.csv")]) == 0
    assert (tmp_path / "all.csv").read_text() == printed
    assert main(["results", root, "--parquet", str(tmp_path / "all.parquet")]) == 0
    frame = pd.read_parquet(tmp_path / "all.parquet").set_index("run")
    assert frame[METRIC].notna().sum() == 2 and frame["seed"].sum() == 6
    assert frame.loc[runs[1].dir.name, METRIC] == 11.0
    capsys.readouterr()
    assert main(["results", root, "--json"]) == 0
    assert {row["run"] for row in json.loads(capsys.readouterr().out)} == rows.keys()
    assert main(["results", root]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_what_cannot_be_read_is_named_and_counted(
    runs: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs[0].dir / "results.json").write_text("[{")
    (runs[1].dir / "experiment.json").write_text("{}")
    assert main(["results", str(tmp_path), "--csv"]) == 1
    out, err = capsys.readouterr()
    assert len(list(csv.DictReader(io.StringIO(out)))) == 2
    assert runs[0].dir.name in err and f"{runs[1].dir} is left out" in err
    assert main(["results", str(tmp_path / "nowhere")]) == 2
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["=1+1", "@cmd", "-x", "+y\x1b[2J"])
def test_no_cell_is_a_formula_or_has_a_control_character(
    runs: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = runs[0].dir / "experiment.json"
    identity = json.loads(path.read_text())
    identity["experiment"]["name"] = name
    path.write_text(json.dumps(identity))
    assert main(["results", str(tmp_path), "--csv"]) == 0
    printed = capsys.readouterr().out
    assert f"'{name[0]}" in printed and "\x1b" not in printed
