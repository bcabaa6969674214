"""Scaling curves, and the gate on speed-ups."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from simvtp.bench import measure, regression_gate, scaling
from simvtp.bench.scaling import measure_scaling, write_scaling
from simvtp.bench.step import sizes
from simvtp.errors import ConfigError, UserError
from simvtp.models.flops.simvtp_flops import forward_flops
from tests.bench.test_step_speed import SMALL

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sizes.SIZES, "tiny", SMALL)
    monkeypatch.setitem(measure.CEILING_SIZES, "cpu", (64,))
    axes = {
        "batch": (2, 4),
        "frames": (4, 8),
        "video_ratio": (0.5, 0.9),
        "depth": (1, 2),
        "token_merge_ratio": (0.0, 0.5),
    }
    monkeypatch.setitem(scaling.AXES, "tiny", axes)


def test_curves_of_time_memory_and_operations(tmp_path: Path) -> None:
    points = measure_scaling(
        "tiny",
        ("batch", "frames", "video_ratio", "depth", "token_merge_ratio"),
        3,
        "fp32",
        1,
        CPU,
        say=lambda line: None,
    )
    by = {(point.axis, point.value): point for point in points}
    assert len(by) == len(points) == 10 and all(point.seconds > 0 for point in points)
    assert by["batch", 2].flops == 3 * 2 * sum(forward_flops(SMALL).values())
    assert by["batch", 4].bytes > 1.5 * by["batch", 2].bytes
    assert (
        by["frames", 8].flops > 1.2 * by["frames", 4].flops
        and by["frames", 8].bytes > 1.2 * by["frames", 4].bytes
    )
    assert (
        by["video_ratio", 0.9].flops < by["video_ratio", 0.5].flops
        and by["video_ratio", 0.9].bytes < by["video_ratio", 0.5].bytes
    )
    assert by["depth", 2].bytes > by["depth", 1].bytes
    assert (
        by["token_merge_ratio", 0.5].flops < by["token_merge_ratio", 0].flops
        and by["token_merge_ratio", 0.5].bytes < by["token_merge_ratio", 0].bytes
    )
    table, plot = write_scaling(points, tmp_path, "test")
    with table.open() as file:
        read = list(csv.DictReader(file))
    assert [(row["axis"], float(row["value"]), int(row["flops"])) for row in read] == [
        (p.axis, p.value, p.flops) for p in points
    ]
    assert plot.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="there is no axis 'heads'"):
        measure_scaling("tiny", ("heads",), 2, "fp32", 1, CPU)


def test_the_gate_shows_a_drop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert regression_gate.compare({"a": 1.0, "b": 0.84, "c": 2.0}, {"a": 1.1, "b": 1.0}) is False
    first, second, third = capsys.readouterr().out.splitlines()
    assert (
        "\033" not in first
        and second.startswith(regression_gate.RED)
        and "a drop of 16%" in second
        and third.endswith("committed —")
    )
    assert regression_gate.compare({"b": 0.86}, {"b": 1.0})
    path = tmp_path / "bench.json"
    assert regression_gate.read_committed(path) == {}
    regression_gate.write_committed(path, {"a": 1.23456}, {"commit": "x"})
    assert (
        regression_gate.read_committed(path) == {"a": 1.235}
        and json.loads(path.read_text())["commit"] == "x"
    )
    path.write_text("[]")
    with pytest.raises(UserError, match="--write"):
        regression_gate.read_committed(path)


def test_the_gate_measures_the_whole_step() -> None:
    ratios = regression_gate.measure_ratios(
        CPU, {"all": regression_gate.StepSpeedOptions(batch=2, rounds=2, seconds=0.0)}
    )
    assert ratios.keys() == {"all"} and ratios["all"] > 0
