"""Records of annotations."""

from __future__ import annotations

from pathlib import Path

import pytest

from simvtp.data.benchmarks import BENCHMARKS
from simvtp.data.benchmarks.records import Benchmark, Moment, Question, Span
from simvtp.errors import DataError
from tests.data.benchmarks.made import (
    MADE,
    MSRVTT_TEST,
)


def test_records_that_contradict_themselves_are_refused() -> None:
    for start, end in (
        (2.0, 2.0),
        (3.0, 1.0),
        (-1.0, 2.0),
        (0.0, float("nan")),
        (0.0, float("inf")),
    ):
        with pytest.raises(DataError, match="a span from"):
            Span(start, end)
    with pytest.raises(DataError, match="is none of its 2 candidates"):
        Question("q", "v", "what?", "c", ("a", "b"), "choice")
    with pytest.raises(DataError, match="must be a number"):
        Question("q", "v", "how many?", "some", kind="count")


def test_a_split_of_a_benchmark_has_its_records_and_videos_only() -> None:
    moments = tuple(
        Moment(str(n), f"v{n}", "x", Span(0, 1), None, split)
        for n, split in enumerate(("train", "test", "test"))
    )
    benchmark = Benchmark(
        "b",
        "grounding",
        "p",
        {f"v{n}": Path(f"{n}.mp4") for n in range(3)},
        moments=moments,
        read={"train": 1, "test": 2},
    )
    test = benchmark.split("test")
    assert [m.video for m in test.moments] == list(test.videos) == ["v1", "v2"] and test.read == {
        "test": 2
    }
    with pytest.raises(DataError, match="choose one of train, val, test"):
        benchmark.split("dev")


def test_made_files_exist_for_every_benchmark() -> None:
    assert set(MADE) == set(BENCHMARKS) and MSRVTT_TEST
