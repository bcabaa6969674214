"""A provenance file read back is the study that it was written of."""

import json
from pathlib import Path
from typing import Any

import pytest

from reports.analysis.effects import effects
from reports.analysis.verdict import sentences
from reports.build import main
from reports.kinds.registry import report_type_of
from reports.study.collect import gather
from reports.study.report_plan import ReportError
from reports.study.stored_study import PLAN_KEYS, read_record, stored_study
from reports.study.study_provenance import provenance_record, to_json
from reports.study.sweep_results import SweepResults, varied_fields
from tests.reports import made_up
from tests.reports.made_up import TEXT, VIDEO

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted((ROOT / "results" / "studies").glob("*/*provenance.json"))


def read(path: Path) -> SweepResults:
    record = read_record(path)
    return stored_study(record, report_type_of(record).make_axis)


def grid(missing: bool = False, **plan: Any) -> SweepResults:
    made = made_up.plan(seeds=(0, 1, 2), **plan)
    return made_up.sweep_results(
        made,
        lambda cell, seed: (
            None if missing and seed == 2 and cell[VIDEO] == 0.9 else 10 + seed + cell[TEXT]
        ),
    )


@pytest.mark.parametrize(
    "sweep",
    [grid(), grid(missing=True), grid(published_optimum=None)],
    ids=["grid", "with missing runs", "no optimum"],
)
def test_what_was_written_is_read_back(sweep: SweepResults, tmp_path: Path) -> None:
    written = provenance_record(sweep, sentences(sweep))
    (tmp_path / "provenance.json").write_text(to_json(written))
    again = read(tmp_path)
    assert provenance_record(again, sentences(again)) == written
    assert again.plan.axes == sweep.plan.axes and effects(again) == effects(sweep)


def test_rows_that_were_tested_with_other_frames_stay_so(tmp_path: Path) -> None:
    """An ablation of the frames: each row has its own number."""
    axes = [{"key": "data.frames", "label": "frames", "values": [4, 8]}]
    cells = [{"data.frames": frames} for frames in (4, 8)]
    made = made_up.plan(axes=axes, cells=cells, ablation="frames", published_optimum=None)
    runs = [
        made_up.run(point, made_up.result(9.0, frames=point["cell"]["data.frames"]))
        for point in made["points"]
    ]
    (tmp_path / "provenance.json").write_text(to_json(provenance_record(gather(made, runs), ())))
    again = read(tmp_path)
    assert varied_fields(again, "test/finetuned/t2v") == {"frames": (4, 8)}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_committed_studies_are_read_back(path: Path) -> None:
    record, sweep = read_record(path), read(path)
    again = json.loads(to_json(provenance_record(sweep, record["verdict"])))
    for name in ("planned_points", "states", "baseline"):
        assert again[name] == record[name], name
    for key, old in record["protocols"].items():
        assert old.items() <= again["protocols"][key].items()
    for new, old in zip(again["cells"], record["cells"], strict=True):
        for name in ("text", "mean", "std", "interval", "n", "planned", "values"):
            assert new[name] == old[name], name
        # files of today say more of each run
        known = [{key: run[key] for key in old["runs"][0]} for run in new["runs"]]
        assert known == old["runs"]
    assert all(axis.label and not axis.label[-1].isdigit() for axis in sweep.plan.axes)


def test_a_report_is_built_from_a_committed_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = next(path for path in COMMITTED if path.name == "data_fraction_provenance.json")
    assert main(["--study", str(file), "--out", str(tmp_path)]) == 0
    table = (tmp_path / "data_fraction" / "comparisons.md").read_text()
    assert "kept no value of each test item" in table and "17.6 ± 2.4" in table
    assert "data_fraction/index.html" in capsys.readouterr().out


def plan_keys() -> dict[str, str]:
    return dict.fromkeys(PLAN_KEYS, "")


def test_files_that_are_no_study_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ReportError, match="cannot be read"):
        read_record(tmp_path / "absent.json")
    (tmp_path / "provenance.json").write_text('{"commit": "abc"}')
    with pytest.raises(ReportError, match="is no provenance file of a report"):
        read_record(tmp_path)
    search = {**plan_keys(), "kind": "search", "cells": [], "protocols": {}}
    (tmp_path / "provenance.json").write_text(json.dumps(search))
    with pytest.raises(ReportError, match="is of a search"):
        read_record(tmp_path)
    twice = [str(path) for path in COMMITTED if path.name == "data_fraction_provenance.json"] * 2
    assert main(["--study", *twice, "--out", str(tmp_path)]) == 2
    assert "which was given before" in capsys.readouterr().err
