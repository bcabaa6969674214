"""Models of run directories, without their data: sizes come from settings and weights."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from simvtp.config.experiment_config import Experiment
from simvtp.config.finetune_config import (
    ActionTask,
    GroundingTask,
    ImageTextTask,
    PairTask,
    RankingTask,
)
from simvtp.config.model_config import MACConfig, ModelConfig, SimVTPConfig
from simvtp.config.tree import narrow
from simvtp.errors import CheckpointError
from simvtp.methods.model_kinds import (
    CLASSIFIER,
    DUAL,
    GROUNDING,
    PAIR,
    PRETRAINED,
    SHARED,
    ModelKind,
    pretrained_kind,
    word_count,
)
from simvtp.models.weights.conversion import convert, load
from simvtp.models.weights.state_dict_maps import NATIVE
from simvtp.models.weights.weight_files import read_weight_file
from simvtp.runs.atomic_files import read_json_or_none
from simvtp.runs.rundir import IDENTITY_FILE, load_experiment

TRAININGS = ("finetune", "pretrain")  # the last one that has ended is the model of a run
FOLDER = "checkpoints"


def run_of(path: Path) -> tuple[Path, str] | None:
    """Returns the run directory that a path names, and the training if it names one.

    A path is a run directory or the final weights of a training in it; None: neither.
    """
    if (path / IDENTITY_FILE).is_file():
        return path, ""
    inside = path.parent.name == FOLDER and path.suffix == ".safetensors"
    if inside and (path.parent.parent / IDENTITY_FILE).is_file():
        return path.parent.parent, path.stem
    return None


def model_of_run(run_dir: Path, training: str = "") -> nn.Module:
    """Returns the model that a training of a run ended with, bit by bit, for evaluation.

    Args:
        run_dir: the run directory.
        training: `pretrain`, `finetune` or `finetune_blind` (the text-only baseline); empty for
            the last that has ended.

    Raises:
        CheckpointError: the training has not ended, or its weights are damaged.
        UserError: this is no run directory, or another version's.
    """
    experiment = load_experiment(run_dir)
    folder = run_dir / FOLDER
    names = (training,) if training else TRAININGS
    name = next((name for name in names if (folder / f"{name}.safetensors").is_file()), "")
    if not name:
        ended = sorted(path.stem for path in folder.glob("*.safetensors"))
        has = f"it has {', '.join(ended)}" if ended else "none of its trainings has ended"
        raise CheckpointError(f"{run_dir}: no weights of {' or '.join(names)}; {has}.")
    weights = folder / f"{name}.safetensors"
    _check_digest(weights)
    state = read_weight_file(weights)
    config = experiment.model
    config = replace(config, vocab_size=word_count(state) or config.vocab_size)
    if name == "pretrain":
        kind, options = pretrained_kind(config), _objectives(experiment)
    else:
        kind, config, options = _of_task(experiment, config)
    model = kind.build(config, state, options)
    model.to(next(iter(state.values())).dtype)
    load(model, convert(state, model, NATIVE, str(weights)))
    return model.eval()


def _objectives(experiment: Experiment) -> dict[str, Any]:
    return {"objectives": experiment.losses.wanted}


def _of_task(
    experiment: Experiment, config: ModelConfig
) -> tuple[ModelKind, ModelConfig, dict[str, Any]]:
    """Returns kind, settings and options of the model that fine-tuning trains."""
    tuning, task = experiment.finetune, experiment.finetune.task
    config = replace(config, drop_path=tuning.drop_path)
    if isinstance(task, RankingTask):
        if isinstance(task, ImageTextTask):
            config = replace(config, frames=config.tubelet_size)
        if isinstance(config, MACConfig):
            return PRETRAINED["mac"], config, _objectives(experiment)
        kind = SHARED if task.encoder == "shared" else DUAL
        return kind, replace(narrow(config, SimVTPConfig), pooling=task.pooling), {}
    if isinstance(task, ActionTask):
        rate = 0.0 if task.probe != "none" else tuning.drop_path
        return CLASSIFIER, replace(config, drop_path=rate), {"probe": task.probe}
    if isinstance(task, GroundingTask):
        config = replace(config, frames=task.segment_frames)
        return GROUNDING, config, {"drop_tubes": task.drop_tubes, "segments": task.segments}
    if isinstance(task, PairTask):
        return PAIR, config, {"drop_tubes": task.drop_tubes}
    raise CheckpointError(f"finetune.task={task.name}: this task's model cannot be opened.")


def _check_digest(weights: Path) -> None:
    """Raises CheckpointError if the run has recorded another digest of its weights."""
    record = read_json_or_none(weights.with_suffix(".json"), dict) or {}
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if record.get("sha256", digest) != digest:
        raise CheckpointError(
            f"damaged: {weights} does not have the sha256 that it was written with; "
            "run the experiment again, which ends this training again."
        )
