"""Parent run of a sweep, with its children and its aggregates."""

import dataclasses
import json
import math
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp import tracking
from simvtp.config.recipes import get_recipe
from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.sweep_plan import SweepPlan
from simvtp.tracking import (
    PointSummary,
)
from simvtp.tracking.aggregates import aggregates, best_cell
from simvtp.tracking.sweep_parent import _sweep_state
from tests.tracking.run_dirs import (
    UNREACHABLE,
    Run,
    counts,
    ended,
    make_plan,
    make_result,
    make_sweep,
)

Swept = tuple[list[Run], dict[str, Any], str]  # runs, plan, parent run


def stored_metrics(uri: str, run_id: str) -> list[tuple[str, int, float]]:
    """Returns (key, step, value) of a run, in the order of writing."""
    query = "select key, step, value from metrics where run_uuid = ? order by key, timestamp, step"
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        return database.execute(query, (run_id,)).fetchall()


def stored_pairs(uri: str, table: str, run_id: str) -> dict[str, str]:
    """Returns the tags or parameters of a run."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        query = f"select key, value from {table} where run_uuid = ?"
        return dict(database.execute(query, (run_id,)).fetchall())


def stored_status(uri: str, run_id: str) -> str:
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        query = "select status from runs where run_uuid = ?"
        [(status,)] = database.execute(query, (run_id,)).fetchall()
    return status


def course(stored: list[tuple[str, int, float]], key: str) -> list[tuple[int, float]]:
    return [(step, value) for name, step, value in stored if name == key]


@pytest.fixture
def swept(tmp_path: Path, uri: str) -> Swept:
    """Four finished points of a sweep, its plan and its parent run."""
    runs = make_sweep(tmp_path, uri, 100)
    plan, where = make_plan(runs), runs[0].experiment.runtime
    parent = tracking.start_sweep(plan, where)
    assert parent and tracking.start_sweep(plan, where) == parent
    for number, (run, value) in enumerate(zip(runs, (10.0, 20.0, 40.0, 30.0), strict=True)):
        link = {
            "sweep_id": plan["sweep_id"],
            "ablation": "mask_ratio",
            "parent_run_id": parent,
            "cell": {"masks.video_ratio": run.experiment.masks.video_ratio},
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
    return runs, plan, parent


def test_a_sweep_is_one_parent_with_its_children(swept: Swept, uri: str) -> None:
    runs, plan, parent = swept
    records = tracking.list_sweeps(uri, "mask_ratio")
    [record] = [record for record in records if record.sweep_id == plan["sweep_id"]]
    assert (record.plan, record.run_id, record.ablation) == (plan, parent, "mask_ratio")
    assert tracking.list_sweeps(uri, "another ablation") == []
    children = tracking.read_runs(uri, [run.experiment.fingerprint for run in runs])
    assert [child.tags["mlflow.parentRunId"] for child in children] == [parent] * 4
    name = f"0.5 s100 (video_ratio seed, tiny {runs[0].experiment.fingerprint[:8]})"
    assert children[0].tags["mlflow.runName"] == name
    assert [child.tags["cell.video_ratio"] for child in children] == ["0.5", "0.5", "0.9", "0.9"]


def test_the_parent_of_a_sweep_has_its_figures(swept: Swept, uri: str) -> None:
    _, plan, parent = swept
    note = stored_pairs(uri, "tags", parent)["mlflow.note.content"]
    assert "](" not in note, "there is no report yet, so no link"
    assert plan["question"] in note
    assert f"python reports/build.py mask_ratio --sweep {plan['sweep_id']}" in note
    assert stored_status(uri, parent) == "FINISHED"
    stored = stored_metrics(uri, parent)
    assert course(stored, "progress/best") == [(1, 10), (2, 20), (3, 40), (4, 40)]
    assert course(stored, "progress/finished") == [(1, 1), (2, 2), (3, 3), (4, 4)]
    latest = {key: value for key, _, value in stored}
    assert latest["cell/video_ratio 0.5 text_ratio 0.75"] == 15
    assert latest["cell/video_ratio 0.9 text_ratio 0.75"] == 35
    assert latest["mean by video_ratio/0.9"] == 35 and latest["mean by text_ratio/0.75"] == 25
    assert latest["best/test/finetuned/t2v/R1"] == 35 and latest["best/video_ratio"] == 0.9
    assert latest["points/planned"] == latest["points/finished"] == 4
    assert latest["points/failed"] == 0 and latest["cost/cpu_hours"] == 2.0


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
    runs[3].status("failed", message="no reason")
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
    assert stored_status(uri, record.run_id) == "FAILED"


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


@pytest.fixture
def searched(tmp_path: Path, uri: str) -> Swept:
    """A search of three finished trials, a pruned one and a cancelled one."""
    masks = get_recipe("tiny").masks
    runs = [
        Run(tmp_path, uri, seed=0, masks=dataclasses.replace(masks, video_ratio=0.5 + n / 100))
        for n in range(5)
    ]
    plan, where = make_search(runs), runs[0].experiment.runtime
    parent = tracking.start_sweep(make_search(runs[:2]), where)  # it has proposed two so far
    assert parent
    outcomes = zip(runs, (10.0, 30.0, 20.0, None, None), (1.0, 3.0, 4.0, 0.1, 0.0), strict=True)
    for number, (run, value, hours) in enumerate(outcomes):
        link = {"sweep_id": plan["sweep_id"], "ablation": "search", "cell": {}}
        write_atomically(run.dir / "sweep.json", json.dumps(link))
        run.status("running", host="another-machine")
        if value is not None:
            metrics = {"val/mean_recall": value, "val/t2v/R1": value}
            run.journal.write("metrics", stage="finetune", step=4, metrics=metrics)
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
    return runs, plan, parent


def test_a_search_knows_its_pruned_and_cancelled_trials(searched: Swept, uri: str) -> None:
    runs, plan, parent = searched
    records = tracking.list_sweeps(uri, "search")
    [record] = [record for record in records if record.sweep_id == plan["sweep_id"]]
    assert (record.run_id, record.plan) == (parent, plan)
    assert record.states == {
        runs[3].experiment.fingerprint: "pruned",
        runs[4].experiment.fingerprint: "cancelled",
    }
    children = tracking.read_runs(uri, [run.experiment.fingerprint for run in runs])
    expected = [("FINISHED", "finished")] * 3 + [("KILLED", "pruned")]
    assert [(child.status, child.state) for child in children] == expected
    assert stored_status(uri, parent) == "KILLED"


def test_a_search_has_its_best_and_its_front_and_no_means(searched: Swept, uri: str) -> None:
    _, _, parent = searched
    stored, params = stored_metrics(uri, parent), stored_pairs(uri, "params", parent)
    assert course(stored, "progress/best") == [(1, 10.0), (2, 30.0), (3, 30.0)]
    latest = {key: value for key, _, value in stored}
    assert latest["best/val/t2v/R1"] == 30.0 and latest["best/video_ratio"] == 0.51
    assert latest["pareto/size"] == 2
    names = ("planned", "finished", "pruned", "cancelled")
    assert [latest[f"points/{name}"] for name in names] == [9, 3, 1, 1]
    assert not [key for key in latest if key.startswith(("cell/", "mean by"))]
    assert params["space.masks.video_ratio"] == "0.5:0.9"
    assert params["space.masks.text_ratio"] == "[0.5, 0.75]"
    assert "axis.masks.video_ratio" not in params


def test_a_search_whose_other_trials_were_pruned_is_finished() -> None:
    assert _sweep_state([PointSummary("a", "finished"), PointSummary("b", "pruned")]) == "finished"
    assert (
        _sweep_state([PointSummary("a", "finished"), PointSummary("b", "cancelled")]) == "stopped"
    )
    assert _sweep_state([PointSummary("a", "failed"), PointSummary("b", "cancelled")]) == "failed"


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2)), max_size=25))
def test_the_front_holds_what_nothing_dominates(scores: list[tuple[int, int, int]]) -> None:
    def dominates(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        return a != b and all(x >= y for x, y in zip(a, b, strict=True))

    assert tracking.pareto(scores) == [
        n for n, score in enumerate(scores) if not any(dominates(other, score) for other in scores)
    ]


def plan_of_two(metric: str) -> SweepPlan:
    return SweepPlan.from_dict(
        {
            "sweep_id": "s",
            "ablation": "a",
            "axes": [{"key": "a.x", "label": "x", "values": [1, 2]}],
            "points": [{"cell": {"a.x": n}, "seed": 0, "fingerprint": str(n)} for n in (1, 2)],
            "metric": metric,
        }
    )


def test_a_rank_is_better_when_lower() -> None:
    plan = plan_of_two("test/zero-shot/t2v/MdR")
    summaries = [PointSummary("1", "finished", 9.0, 10.0), PointSummary("2", "finished", 4.0, 20.0)]
    assert best_cell(plan, summaries) == {"a.x": 2}
    assert [p.value for p in aggregates(plan, summaries) if p.key == "progress/best"] == [9.0, 4.0]
    assert best_cell(plan, []) == {}
    assert best_cell(plan, [PointSummary("1", "finished", math.nan, 10.0), summaries[1]]) == {
        "a.x": 2
    }


def test_the_best_cell_of_an_error_is_the_one_with_the_smallest() -> None:
    plan = plan_of_two("test/finetuned/qa/count/MSE")
    assert best_cell(
        plan, [PointSummary("1", "finished", 3.0, 10.0), PointSummary("2", "finished", 1.5, 11.0)]
    ) == {"a.x": 2}


def test_a_run_of_two_sweeps_is_a_child_of_both(swept: Swept, uri: str) -> None:
    """The second parent has it with all its figures; reports still count it once."""
    runs, plan, parent = swept
    where = runs[0].experiment.runtime
    more = Run(Path(where.root), uri, seed=300)
    more.finish(make_result(seed=300))
    second = make_plan([runs[0], runs[2], more], sweep_id="other-0123abcd", ablation="other")
    other = tracking.start_sweep(second, where)
    assert other is not None
    link = {"sweep_id": second["sweep_id"], "ablation": "other", "cell": {"seed": 300}}
    write_atomically(more.dir / "sweep.json", json.dumps(link))
    more.sync(final=True)
    tracking.finish_sweep(second, where)

    def children(of: str) -> list[str]:
        with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
            query = "select run_uuid from tags where key = 'mlflow.parentRunId' and value = ?"
            return [run_id for (run_id,) in database.execute(query, (of,)).fetchall()]

    assert len(children(parent)) == 4 and len(children(other)) == 3
    tracked = tracking.read_runs(uri, [run.experiment.fingerprint for run in (*runs, more)])
    assert len(tracked) == 5, "no run is counted twice"
    firsts = {run.fingerprint: run.run_id for run in tracked}
    copies = [run for run in children(other) if run not in firsts.values()]
    assert len(copies) == 2
    for copy in copies:
        tags = stored_pairs(uri, "tags", copy)
        first = firsts[tags["shared_key"]]
        assert tags["shared_run_id"] == first and first in tags["mlflow.note.content"]
        assert sorted(stored_metrics(uri, copy)) == sorted(stored_metrics(uri, first))
        params = [stored_pairs(uri, "params", run) for run in (copy, first)]
        folders = [values.pop("runtime.root") for values in params]  # tests share one store
        assert params[0] == params[1] and folders[0] == where.root
        assert stored_status(uri, copy) == "FINISHED"
        assert tags["sweep_id"] == second["sweep_id"] and "run_key" not in tags
        assert (
            tags["ablation"] == "other" and stored_pairs(uri, "tags", first)["ablation"] != "other"
        )
        (point,) = [one for one in second["points"] if one["fingerprint"] == tags["shared_key"]]
        cell = {key.rpartition(".")[2]: str(value) for key, value in point["cell"].items()}
        assert {key: tags[f"cell.{key}"] for key in cell} == cell
        assert {key for key in tags if key.startswith("cell.")} == {f"cell.{key}" for key in cell}
        assert tags["dataset_digest"] == stored_pairs(uri, "tags", first)["dataset_digest"]
    before = counts(uri)
    tracking.finish_sweep(second, where)
    tracking.sync_all(Path(where.root), uri)
    tracking.finish_sweep(plan, where)
    after = counts(uri)
    assert (after["runs"], after["params"]) == (before["runs"], before["params"])
    assert len(children(other)) == 3 and len(children(parent)) == 4


def test_a_run_names_its_data(swept: Swept, uri: str) -> None:
    runs, _, _ = swept
    runs[0].sync()
    [run] = tracking.read_runs(uri, [runs[0].experiment.fingerprint])
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        query = "select source_id from inputs where destination_id = ?"
        [(source,)] = database.execute(query, (run.run_id,)).fetchall()
        data = database.execute("select dataset_uuid, name, digest from datasets").fetchall()
    assert [(uuid, name) for uuid, name, _ in data] == [(source, "shapes")], "one for all runs"
    assert len(data[0][2]) == 36
