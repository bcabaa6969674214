"""The released recipe scores every epoch and chooses by R@1."""

from __future__ import annotations

import json
from pathlib import Path

from simvtp.config.overrides import override
from simvtp.config.recipes import get_recipe
from simvtp.experiment import run
from simvtp.resolve import finalise
from simvtp.runs.journal import read_journal
from tests.small import small_settings
from tests.tasks.task_helpers import silent


def test_released_scores_every_epoch_and_chooses_by_r1(tmp_path: Path, shapes_cache: Path) -> None:
    """3 epochs of 3 steps; the first epoch with the highest t2v R@1 of the journal is chosen."""
    settings = small_settings(
        tmp_path,
        shapes_cache,
        "finetune.evaluations=0",
        "finetune.task.select_by=R1",
        "finetune.train.max_steps=9",
        "evaluate.zero_shot=false",
        "pretrain.max_steps=1",
    )
    experiment = override(get_recipe("tiny"), settings)
    run(finalise(experiment), say=silent)
    values = {
        line["step"]: line["metrics"]["val/t2v/R1"]
        for _, line in read_journal(experiment.run_dir / "journal.jsonl")
        if line["kind"] == "metrics" and "val/t2v/R1" in line["metrics"]
    }
    assert list(values) == [3, 6, 9]
    best = next(step for step, value in values.items() if value == max(values.values()))
    ended = json.loads((experiment.run_dir / "checkpoints" / "finetune.json").read_text())
    assert (ended["selected_step"], ended["best"]) == (best, values[best])
