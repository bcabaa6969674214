"""Saves a model as a folder (`config.json`, `model.safetensors`) and opens it or a run again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import safetensors.torch
from torch import nn

from simvtp.config.experiment_config import model_from_dict
from simvtp.config.model_config import ModelConfig, SimVTPConfig
from simvtp.config.tree import narrow, to_dict
from simvtp.errors import CheckpointError, UserError
from simvtp.methods import method_of
from simvtp.methods.model_kinds import KINDS, kind_of, settings_of, word_count
from simvtp.methods.run_weights import model_of_run, run_of
from simvtp.models.downstream.retrieval_encoders import DualEncoder
from simvtp.models.weights.conversion import ConversionReport, convert, load
from simvtp.models.weights.hub_repository import hub_folder, is_hub_name
from simvtp.models.weights.pretrained import import_state
from simvtp.models.weights.state_dict_maps import NATIVE, is_released_dual
from simvtp.models.weights.weight_files import read_config, read_source, read_weight_file
from simvtp.runs.atomic_files import write_atomically

# of a repository of the hub
HUB_FILES = ("*.json", "model.safetensors", "vocab.txt", "README.md")
FORMAT = 1  # of the config.json of an export


def save_pretrained(model: nn.Module, folder: str | Path) -> None:
    """Writes `model.safetensors` and `config.json` (kind, options, sizes) into `folder`.

    Each file appears completely or not at all.

    Raises:
        CheckpointError: the model is of no kind that can be exported.
    """
    kind = kind_of(model)
    description = {
        "format": FORMAT,
        "kind": kind.name,
        **kind.options(model),
        # the paths that it was initialised from are those of one machine
        "model": to_dict(replace(settings_of(model), init_video="", init_text="")),
    }
    weights = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    write_atomically(Path(folder) / "model.safetensors", safetensors.torch.save(weights))
    write_atomically(Path(folder) / "config.json", json.dumps(description, indent=2) + "\n")


def from_pretrained(folder: str | Path, training: str = "", revision: str = "") -> nn.Module:
    """Returns the model of an export or of a run, bit by bit, in its dtype, for evaluation.

    Args:
        folder: what `save_pretrained` wrote, a run directory, the final weights of a training in
            one, or `user/name` on the hub.
        training: of a run directory: `pretrain`, `finetune` or `finetune_blind`; empty for the
            last that has ended.
        revision: of a name on the hub: branch, tag or commit.

    Raises:
        CheckpointError: `folder` is neither, or its weights are damaged.
        UserError: the run directory is of another version.
    """
    path = local_folder(folder, revision)
    run = run_of(path)
    if run is not None:
        return model_of_run(run[0], training or run[1])
    description = read_config(path / "config.json")
    kind = KINDS.get(description.get("kind", ""))
    if description.get("format") != FORMAT or kind is None:
        raise CheckpointError(
            f"{path}/config.json was not written by this version of the project: "
            "export the model again."
        )
    state = read_weight_file(path / "model.safetensors")
    model = kind.build(model_from_dict(description["model"]), state, description)
    model.to(next(iter(state.values())).dtype)
    load(model, convert(state, model, NATIVE, str(path)))
    return model.eval()


def local_folder(source: str | Path, revision: str = "") -> Path:
    """Returns the path of a source, or the local copy of a repository of the hub.

    Args:
        source: a path, or `user/name` on the hub.
        revision: of the repository: branch, tag or commit; empty: the newest.

    Raises:
        CheckpointError: it is a name of the hub, and the repository cannot be had.
        UserError: there is a revision, and the source is no name of the hub.
    """
    path = Path(source).expanduser()
    if not path.exists() and is_hub_name(str(source)):
        return hub_folder(str(source), revision, HUB_FILES)
    if revision:
        raise UserError(f"revision={revision} is for names of the hub, and {source} is none.")
    return path


def is_own(source: str | Path) -> bool:
    """Returns whether `from_pretrained` opens a source: a run directory or an export."""
    path = Path(source).expanduser()
    config = path / "config.json"
    return run_of(path) is not None or (config.is_file() and "format" in read_config(config))


def convert_foreign(source: str, config: ModelConfig) -> tuple[nn.Module, ConversionReport]:
    """Returns a model with foreign weights, and the report of every key.

    Args:
        source: a file, a folder or a name on the hub.
        config: settings of the model; `vocab_size` 0 is that of the weights.

    Raises:
        CheckpointError: the weights do not fit.
    """
    read = read_source(source)
    config = replace(config, vocab_size=config.vocab_size or word_count(read.state))
    model: nn.Module
    if is_released_dual(read.state):
        model = DualEncoder(narrow(config, SimVTPConfig))
        model.initialise(seed=0)
    else:
        method = method_of(config)
        model = method.build(config, method.objectives, seed=0)
    report = import_state(model, read.state, read.where, read.settings)
    return model, replace(report, notes=(*read.notes, *report.notes))
