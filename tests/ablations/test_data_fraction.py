from __future__ import annotations

import json
from pathlib import Path

import pytest

from ablations import data_fraction
from simvtp.config.overrides import override
from simvtp.config.recipes import base as base_recipe
from simvtp.config.recipes import tiny
from simvtp.errors import ConfigError
from simvtp.experiment import run
from tests.small import small_experiment


def test_the_grids() -> None:
    assert [point.cell["data.fraction"] for point in data_fraction.build(tiny()).points()] == [
        0.1,
        0.5,
        1.0,
        "no pre-training",
    ]
    everything = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0]
    assert [
        point.cell["data.fraction"] for point in data_fraction.build(tiny(), full=True).points()
    ] == [*everything, "no pre-training"]
    large = data_fraction.build(override(base_recipe(), ["data.dataset=shapes"]))
    assert [point.experiment.data.fraction for point in large.points()] == [*everything, 1.0]
    with pytest.raises(ConfigError, match=r"data\.fraction=10(\.0)?: must be in \(0, 1\]"):
        data_fraction.build(tiny(), [10.0]).points()


def test_a_small_share_takes_as_many_steps_and_fine_tunes_on_everything(tmp_path: Path) -> None:
    """24 training videos in batches of 8: 2 epochs are 6 steps, with all videos and with 3."""
    epochs = (
        "pretrain.max_steps=0",
        "pretrain.epochs=2",
        "finetune.train.max_steps=0",
        "finetune.train.epochs=1",
    )
    base = small_experiment(tmp_path / "runs", tmp_path / "cache", *epochs, "runtime.log_every=1")
    steps, losses = {}, {}
    for point in data_fraction.build(base, [0.125, 1.0]).points()[:2]:
        run(point.experiment, say=lambda text: None)
        lines = [
            json.loads(line) for line in (point.run_dir / "journal.jsonl").read_text().splitlines()
        ]
        metrics = [
            line for line in lines if line["kind"] == "metrics" and "loss/total" in line["metrics"]
        ]
        steps[point.experiment.data.fraction] = {
            stage: max(line["step"] for line in metrics if line["stage"] == stage)
            for stage in ("pretrain", "finetune")
        }
        losses[point.experiment.data.fraction] = [
            line["metrics"]["loss/total"] for line in metrics if line["stage"] == "pretrain"
        ]
    assert steps[0.125] == steps[1.0] == {"pretrain": 6, "finetune": 3}
    assert losses[0.125] != losses[1.0], "other videos were seen"
