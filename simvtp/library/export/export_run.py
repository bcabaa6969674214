"""Exports the model of a run by its name."""

from __future__ import annotations

from pathlib import Path

from simvtp.errors import UserError
from simvtp.library.export.export_model import ExportableModel
from simvtp.library.open_model import load
from simvtp.library.prediction.open_predictor import load_predictor


def export(source: str | Path, folder: str | Path, *, training: str = "") -> Path:
    """Writes the model of a run as a folder that needs nothing of the run, and returns the folder.

    `load` and `load_predictor` open it: weights (safetensors), settings, preprocessing, tokenizer
    files, and a model card with data, protocol, figures and their intervals, cost and provenance.

    Args:
        source: as of `load`.
        folder: where to write.
        training: `pretrain` or `finetune`; empty: the fine-tuned model if there is one.

    Raises:
        CheckpointError: there is no such run, or its weights are damaged.
        UserError: the run is not finished, or the folder cannot be written.

    Examples:
        >>> folder = simvtp.export("runs/demo", "exported")
        >>> sorted(path.name for path in folder.iterdir())[:3]
        ['README.md', 'config.json', 'model.safetensors']
    """
    model = load(source, training=training) if training == "pretrain" else load_predictor(source)
    if training and getattr(model, "training", training) != training:
        raise UserError(f"{source} has no model of the training '{training}'.")
    if not isinstance(model, ExportableModel):
        raise UserError(f"{source} cannot be exported.")
    model.save_pretrained(folder)
    return Path(folder)
