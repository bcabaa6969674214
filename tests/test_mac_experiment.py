"""MAC from its settings to its results, with no word about it in the experiment."""

from __future__ import annotations

from pathlib import Path

import pytest

from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override, replace_key
from simvtp.config.recipes import get_recipe
from simvtp.errors import ConfigError
from simvtp.experiment import run
from simvtp.runs.journal import read_journal
from tests.small import small_mac_settings


def small(root: Path, *more: str) -> Experiment:
    return override(
        get_recipe("tiny_mac"),
        small_mac_settings(root, root / "cache", "masks.frame_schedule=1:3", *more),
    )


def losses(experiment: Experiment, stage: str) -> list[float]:
    lines = [
        line
        for _, line in read_journal(experiment.run_dir / "journal.jsonl")
        if line["kind"] == "metrics" and line["stage"] == stage
    ]
    return [line["metrics"]["loss/vtc"] for line in lines if "loss/vtc" in line["metrics"]]


def test_an_experiment_of_mac_from_end_to_end(tmp_path: Path) -> None:
    """Masks that stay on change the fine-tuning and nothing before it."""
    experiment = small(tmp_path)
    results = run(experiment, say=lambda line: None)
    assert [result.key for result in results] == [
        f"test/{setting}/{way}" for setting in ("zero-shot", "finetuned") for way in ("t2v", "v2t")
    ]
    masked = replace_key(experiment, "finetune.task.masks", True)
    run(masked, say=lambda line: None)
    assert losses(masked, "pretrain") == losses(experiment, "pretrain") != []
    assert losses(masked, "finetune") != losses(experiment, "finetune") != []


def test_tasks_that_need_a_pair_encoder_refuse_it_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"finetune.task=qa needs a pair encoder, which model.method=mac does not have: "
        r".*finetune.task=retrieval\.",
    ):
        run(small(tmp_path, "finetune.task=qa"), say=lambda line: None)
    with pytest.raises(ConfigError, match="losses.vtm=0"):
        run(small(tmp_path, "evaluate.rerank=4"), say=lambda line: None)
