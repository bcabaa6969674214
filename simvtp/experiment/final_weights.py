"""Reads the final weights of a run's trainings, checked against their recorded digest."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from torch import nn

from simvtp.errors import CheckpointError, DamagedFile
from simvtp.runs.atomic_files import read_json
from simvtp.training.checkpointing.checkpoint import sha256_of
from simvtp.training.stage import StageOutcome


def load_final_weights(model: nn.Module, run_dir: Path, name: str) -> StageOutcome:
    """Loads the final weights of a training into `model` and returns how the training ended.

    Args:
        model: of the training's architecture.
        run_dir: the run directory.
        name: name of the training, `pretrain` or `finetune`.

    Raises:
        CheckpointError: the weights are gone, damaged or replaced.
        DamagedFile: the record of the training cannot be read.
    """
    weights, ended = (
        run_dir / "checkpoints" / f"{name}.{ending}" for ending in ("safetensors", "json")
    )
    if not weights.exists() or not ended.exists():
        raise CheckpointError(
            f"{weights}: the final weights of the run no longer exist, "
            "so it cannot be scored again."
        )
    values = read_json(ended, dict)
    try:
        outcome = StageOutcome(
            **{key: value for key, value in values.items() if key != "fingerprint"}
        )
    except TypeError as error:
        advice = "delete it and run the experiment again: it ends this training again."
        raise DamagedFile(ended, f"no outcome of a training: {error}", advice) from error
    if sha256_of(weights) != outcome.sha256:
        raise CheckpointError(
            f"damaged: {weights} does not have the sha256 that it was written with; "
            "run the experiment again, which ends this training again."
        )
    model.load_state_dict(safetensors.torch.load_file(weights))
    return outcome
