"""Results carry their protocol, old records load, and metric names are legal in MLflow."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from reports.study.collect import gather
from reports.study.report_plan import ReportError
from simvtp.runs.metric_names import slug
from simvtp.runs.results import Protocol, Result
from simvtp.tracking.address import mlflow_name
from tests.reports import made_up

RETRIEVAL = Protocol(
    "retrieval", "msrvtt", "test", "finetuned", "t2v", 16, 3, 3, "pessimistic", 0, "ab" * 32
)
QA = replace(RETRIEVAL, task="qa", direction="", variant="open-ended")


def result(protocol: Protocol, **changes: Any) -> Result:
    return replace(Result(protocol, {"accuracy": 41.5}, {"accuracy": 0.1}, 100, 1500), **changes)


@pytest.mark.parametrize(
    ("protocol", "key"),
    [
        (RETRIEVAL, "test/finetuned/t2v"),
        (
            replace(RETRIEVAL, setting="finetuned, selected on test", direction="v2t"),
            "test/finetuned-selected-on-test/v2t",
        ),
        (replace(RETRIEVAL, variant="1k-A"), "test/finetuned/t2v"),
        (
            replace(RETRIEVAL, setting="zero-shot, re-ranked top 16"),
            "test/zero-shot-re-ranked-top-16/t2v",
        ),
        (replace(RETRIEVAL, task="image_text", direction="t2i"), "test/finetuned/t2i"),
        (QA, "test/finetuned/qa/open-ended"),
        (replace(QA, variant=""), "test/finetuned/qa"),
        (
            replace(QA, task="grounding", variant="NMS 0.5, @seg"),
            "test/finetuned/grounding/NMS-0.5-seg",
        ),
        (
            replace(QA, task="action", variant="split 1", setting="linear probe"),
            "test/linear-probe/action/split-1",
        ),
    ],
)
def test_keys(protocol: Protocol, key: str) -> None:
    assert result(protocol).key == key == mlflow_name(key), (
        "the name in the tracker is the name in the plan"
    )


def test_what_a_record_of_today_holds_comes_back() -> None:
    full = result(QA, ranks=(1, 3), scores=(0.5, 0.25), baselines={"prior": {"accuracy": 9.0}})
    assert Result.from_dict(json.loads(json.dumps(full.to_dict()))) == full


def test_records_without_the_newer_fields_load() -> None:
    protocol = {
        "task": "retrieval",
        "dataset": "shapes",
        "split": "test",
        "setting": "zero-shot",
        "direction": "v2t",
        "frames": 8,
        "segments": 1,
        "crops": 1,
        "ties": "pessimistic",
        "seed": 1,
        "checkpoint": "0",
    }
    old = {
        "protocol": protocol,
        "metrics": {"R1": 2.0},
        "chance": {"R1": 0.4},
        "queries": 2,
        "gallery": 256,
        "ranks": [7, 1],
    }
    loaded = Result.from_dict(old)
    assert loaded.key == "test/zero-shot/v2t" and loaded.ranks == (7, 1)
    assert (loaded.protocol.variant, loaded.scores, loaded.baselines) == ("", (), {})


def test_a_slug_holds_no_separator() -> None:
    assert slug("what / is?") == "what-is" and slug("..") == "" and slug("Ü?") == ""
    assert mlflow_name(f"test/finetuned/qa/accuracy-{slug('how many? @2,3')}").endswith(
        "accuracy-how-many-2-3"
    )


@pytest.mark.parametrize("other", [{"variant": "full"}, {"dataset": "msvd"}, {"task": "paragraph"}])
def test_a_report_keeps_variants_of_a_benchmark_apart(other: dict[str, str]) -> None:
    """Their retrieval figures have one key, so the column is refused, not mixed."""
    made = made_up.plan()
    first = made_up.result(10.0, variant="1k-A", dataset="msrvtt")
    second = made_up.result(11.0, **{"variant": "1k-A", "dataset": "msrvtt", **other})
    runs = [
        made_up.run(made["points"][0], first, run_id="aaa"),
        made_up.run(made["points"][1], second, run_id="bbb"),
    ]
    with pytest.raises(
        ReportError,
        match=rf"two protocols.*{next(iter(other))} .*aaa.*{other[next(iter(other))]} .*bbb",
    ):
        gather(made, runs)


def test_a_report_finds_the_figure_of_any_task() -> None:
    made = made_up.plan(metric="test/finetuned/qa/open-ended/accuracy", metric_label="accuracy (%)")
    sweep = gather(
        made,
        [
            made_up.run(point, result(QA), run_id=f"run{i}")
            for i, point in enumerate(made["points"])
        ],
    )
    assert sweep.values(sweep.plan.cells[0], *sweep.plan.column) == {0: 41.5}
