"""The folder of an exported model: weights, settings, tokenizer files and preprocessing.

    config.json         kind and sizes of the network (`simvtp.from_pretrained`)
    model.safetensors   weights
    preprocessing.json  the run's settings, names of the outputs, digest of the weights
    tokenizer files     as transformers reads them
    README.md           model card

Paths of the machine that trained the model are left out.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from simvtp.config.experiment_config import Experiment, RuntimeConfig, from_dict
from simvtp.config.fingerprint import SCHEMA_VERSION
from simvtp.config.tree import to_dict
from simvtp.data.text.tokenizer import Tokenizer, load_saved_tokenizer
from simvtp.errors import CheckpointError, ConfigError, DamagedFile
from simvtp.library.prediction.task_outputs import TaskOutputs
from simvtp.methods.exported_model import save_pretrained
from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.training.checkpointing.checkpoint import sha256_of

SETTINGS = "preprocessing.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"
FORMAT = 1
ADVICE = "export the model again."


@dataclass(frozen=True)
class ExportedSettings:
    """Record of an exported model, apart from its weights.

    Attributes:
        training: the training whose weights these are.
        experiment: settings of the run, without paths.
        outputs: what the outputs stand for; None of a model that gives features.
    """

    training: str
    experiment: Experiment
    outputs: TaskOutputs | None = None


def without_paths(experiment: Experiment) -> Experiment:
    """Returns the settings without paths of this machine; files are known by their digests."""
    data, tuning, model = experiment.data, experiment.finetune, experiment.model
    return replace(
        experiment,
        data=replace(
            data,
            manifest=Path(data.manifest).name,
            root="",
            tokenizer=short_name(data.tokenizer),
        ),
        finetune=replace(tuning, init=short_name(tuning.init)),
        model=replace(
            model, init_video=short_name(model.init_video), init_text=short_name(model.init_text)
        ),
        runtime=RuntimeConfig(),
    )


def short_name(source: str) -> str:
    """Returns a name of the hub as it is, and the last part of a path of this machine."""
    outside = source.startswith((".", "~", "/")) or Path(source).exists()
    return Path(source).name if outside else source


def write_folder(
    folder: Path, module: nn.Module, settings: ExportedSettings, tokenizer: Tokenizer, card: str
) -> None:
    """Writes all files of an exported model; each appears whole or not at all.

    Raises:
        UserError: a file cannot be written.
        CheckpointError: the network is of no kind that can be exported.
    """
    save_pretrained(module, folder)
    tokenizer.save(folder)
    outputs = settings.outputs
    record = {
        "format": FORMAT,
        "schema": SCHEMA_VERSION,
        "training": settings.training,
        "weights_sha256": sha256_of(folder / WEIGHTS),
        "tokenizer": tokenizer.name if tokenizer.name == "builtin" else short_name(tokenizer.name),
        "outputs": None if outputs is None else dataclasses.asdict(outputs),
        "experiment": to_dict(without_paths(settings.experiment)),
    }
    write_atomically(folder / SETTINGS, json.dumps(record, indent=1) + "\n")
    write_atomically(folder / CARD, card)


def has_settings(folder: Path) -> bool:
    """Returns True if `write_folder` wrote the folder."""
    return (folder / SETTINGS).is_file()


def read_folder(folder: Path) -> tuple[ExportedSettings, Tokenizer]:
    """Returns the settings and the tokenizer of an exported model.

    Raises:
        CheckpointError: its weights are not those that were exported, or another version wrote it.
        DamagedFile: its settings cannot be read.
    """
    path = folder / SETTINGS
    record: dict[str, Any] = read_json(path, dict, ADVICE)
    if (record.get("format"), record.get("schema")) != (FORMAT, SCHEMA_VERSION):
        raise CheckpointError(
            f"{path} was written by another version of the project (settings schema "
            f"{record.get('schema')}, this version has {SCHEMA_VERSION}): {ADVICE}"
        )
    try:
        experiment = from_dict(record["experiment"])
        given, training, name = record["outputs"], record["training"], record["tokenizer"]
        outputs = None if given is None else _outputs(given)
        digest = record["weights_sha256"]
    except (KeyError, TypeError, ConfigError) as error:
        raise DamagedFile(path, f"no settings of a model: {error}", ADVICE) from error
    if not (folder / WEIGHTS).is_file() or sha256_of(folder / WEIGHTS) != digest:
        raise CheckpointError(
            f"damaged: {folder / WEIGHTS} does not have the sha256 that it was exported with; "
            f"{ADVICE}"
        )
    return ExportedSettings(training, experiment, outputs), load_saved_tokenizer(folder, name)


def _outputs(values: dict[str, Any]) -> TaskOutputs:
    limits = values["limits"]
    return TaskOutputs(
        values["kind"], tuple(values["labels"]), None if limits is None else tuple(limits)
    )
