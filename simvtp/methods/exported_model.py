"""Saves a model as a folder (`config.json`, `model.safetensors`) and opens it again."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
from torch import nn

from simvtp.config.experiment_config import model_from_dict
from simvtp.config.model_config import SimVTPConfig
from simvtp.config.tree import narrow, to_dict
from simvtp.errors import CheckpointError
from simvtp.methods import METHODS, method_of
from simvtp.models.downstream.retrieval_encoders import DualEncoder
from simvtp.models.weights.conversion import convert, load
from simvtp.models.weights.pretrained import FORMAT, config_of, read_config, read_weight_file
from simvtp.models.weights.state_dict_maps import NATIVE
from simvtp.runs.atomic_files import write_atomically


def save_pretrained(model: nn.Module, folder: str | Path) -> None:
    """Writes `model.safetensors` and `config.json` (kind, objectives, sizes) into `folder`.

    Each file appears completely or not at all.
    """
    config = config_of(model)
    kind = "dual" if isinstance(model, DualEncoder) else config.method
    description = {
        "format": FORMAT,
        "kind": kind,
        "objectives": list(getattr(model, "objectives", ())),
        "model": to_dict(config),
    }
    weights = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    write_atomically(Path(folder) / "model.safetensors", safetensors.torch.save(weights))
    write_atomically(Path(folder) / "config.json", json.dumps(description, indent=2) + "\n")


def from_pretrained(folder: str | Path) -> nn.Module:
    """Returns the model that `save_pretrained` wrote, bit by bit and in its dtype.

    Raises:
        CheckpointError: `folder` is not such a folder.
    """
    path = Path(folder).expanduser()
    description = read_config(path / "config.json")
    if description.get("format") != FORMAT or description.get("kind") not in (*METHODS, "dual"):
        raise CheckpointError(
            f"{path}/config.json was not written by this version of the project: "
            "export the model again."
        )
    config = model_from_dict(description["model"])
    state = read_weight_file(path / "model.safetensors")
    dual = description["kind"] == "dual"
    model = (
        DualEncoder(narrow(config, SimVTPConfig))
        if dual
        else method_of(config).build(config, tuple(description["objectives"]), seed=0)
    )
    model.to(next(iter(state.values())).dtype)
    load(model, convert(state, model, NATIVE, str(path)))
    return model
