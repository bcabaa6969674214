"""Scores during pre-training, measured by whole runs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from simvtp.config.recipes import get_recipe
from simvtp.config.validation import check
from simvtp.errors import ConfigError, Stopped
from simvtp.experiment import run
from simvtp.experiment.training import spread_steps
from simvtp.runs.scores import read_curve
from simvtp.training.checkpointing.checkpoint import sha256_of
from tests.small import small_experiment

CURVE = "val/zero-shot/t2v/R1"
SCORED = ("evaluate.during_pretraining=3", "finetune.enabled=false")


def silent(line: str) -> None:
    pass


def test_scores_on_the_way_change_no_training_and_continue_after_a_stop(
    tmp_path: Path, shapes_cache: Path
) -> None:
    plain = small_experiment(tmp_path, shapes_cache, SCORED[1])
    run(plain, say=silent)
    experiment = small_experiment(tmp_path, shapes_cache, *SCORED)

    def ask(line: str) -> None:
        if line.startswith("pretrain 4/6"):
            os.kill(os.getpid(), signal.SIGUSR2)

    stopped = small_experiment(tmp_path / "stopped", shapes_cache, *SCORED)
    with pytest.raises(Stopped):
        run(stopped, say=ask)
    results = {one.key: one.metrics for one in run(experiment, say=silent)}
    run(stopped, say=silent)
    files = [
        one.run_dir / "checkpoints" / "pretrain.safetensors" for one in (plain, experiment, stopped)
    ]
    assert sha256_of(files[1]) == sha256_of(files[2])
    weights = [load_file(file) for file in files[:2]]  # the files name other fingerprints
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    curve = read_curve(experiment.run_dir, CURVE)
    assert [step for step, _ in curve] == [2, 4, 6] == list(spread_steps(6, 3))
    assert curve == read_curve(stopped.run_dir, CURVE)
    assert "test/zero-shot/t2v" in results


def test_both_measurements_have_points_of_their_own(tmp_path: Path, shapes_cache: Path) -> None:
    use = ("evaluate.modality_use=true", "evaluate.use_points=2", *SCORED)
    experiment = small_experiment(tmp_path, shapes_cache, *use, "pretrain.schedule=wsd")
    run(experiment, say=silent)
    gains = read_curve(experiment.run_dir, "use/text0.75_video0.5/mlm_gain_other")
    assert [step for step, _ in gains] == [3, 6]
    assert [step for step, _ in read_curve(experiment.run_dir, CURVE)] == [2, 4, 6]


def test_the_settings_are_off_and_change_no_older_fingerprint(
    tmp_path: Path, shapes_cache: Path
) -> None:
    recipe = get_recipe("tiny_pair")
    assert recipe.evaluate.during_pretraining == 0 and recipe.pretrain.schedule == "cosine"
    plain = small_experiment(tmp_path, shapes_cache)
    default = small_experiment(
        tmp_path, shapes_cache, "evaluate.during_pretraining=0", "pretrain.schedule=cosine"
    )
    assert plain.fingerprint == default.fingerprint
    for other in ("evaluate.during_pretraining=3", "pretrain.schedule=wsd"):
        assert small_experiment(tmp_path, shapes_cache, other).fingerprint != plain.fingerprint


def test_settings_that_cannot_be_met_are_refused(tmp_path: Path, shapes_cache: Path) -> None:
    for settings, why in (
        (("evaluate.during_pretraining=3", "evaluate.zero_shot=false"), "must be 0 without"),
        (
            ("pretrain.schedule=wsd", "pretrain.warmup_ratio=0.5", "pretrain.decay_ratio=0.6"),
            "more than 1 together",
        ),
    ):
        with pytest.raises(ConfigError, match=why):
            check(small_experiment(tmp_path, shapes_cache, *settings))
