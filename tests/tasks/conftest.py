"""Pre-trained weights and a small experiment for the tests of tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from simvtp.config.experiment_config import Experiment
from simvtp.experiment import run
from tests.small import small_experiment
from tests.tasks.task_helpers import silent


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, shapes_cache: Path) -> Path:
    """The run directory of a finished pre-training."""
    experiment = small_experiment(tmp_path_factory.mktemp("pretrained"), shapes_cache)
    run(experiment, say=silent, until="pretrain")
    return experiment.run_dir


@pytest.fixture(scope="module")
def small(
    tmp_path_factory: pytest.TempPathFactory, shapes_cache: Path, pretrained: Path
) -> Experiment:
    return small_experiment(tmp_path_factory.mktemp("small"), shapes_cache, "finetune.task=qa")
