"""Writes the model of a run as a folder of its own, and uploads it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import nn

from simvtp.data.text.tokenizer import Tokenizer
from simvtp.errors import UserError
from simvtp.library.export.exported_folder import (
    CARD,
    ExportedSettings,
    has_settings,
    write_folder,
)
from simvtp.library.export.model_card import RunFacts, model_card
from simvtp.methods.run_weights import run_of
from simvtp.models.weights.hub_repository import push_folder


class ExportableModel:
    """Base class of opened models: they leave their run as a folder, or go to the hub.

    Attributes:
        source: what was opened.
        module: the network.
        tokenizer: of its texts.
    """

    source: Path
    module: nn.Module
    tokenizer: Tokenizer

    def export_settings(self) -> ExportedSettings:
        """Returns what is known of the model apart from its weights."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the model as a folder that `simvtp.load` or `simvtp.load_predictor` opens.

        It holds weights, settings, preprocessing, tokenizer files and a model card, and needs
        nothing of the run. Files of an earlier export are replaced.

        Args:
            folder: where to write; it is made if there is none.

        Raises:
            UserError: it is a run directory, or cannot be written.
        """
        target = Path(folder).expanduser()
        if run_of(target) is not None:
            raise UserError(f"{target} is a run directory: choose another folder for the export.")
        if target.is_file():
            raise UserError(f"{target} is a file: choose a folder for the export.")
        write_folder(target, self.module, self.export_settings(), self.tokenizer, self._card())

    def push_to_hub(self, name: str, *, private: bool = False) -> str:
        """Uploads the model to the Hugging Face hub; see `simvtp.push_to_hub`."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_to_hub(folder, name, private=private)

    def _card(self) -> str:
        """Returns the model card: that of an export, or one of what the run directory knows."""
        if has_settings(self.source) and (self.source / CARD).is_file():
            return (self.source / CARD).read_text(encoding="utf-8")
        run = run_of(self.source)
        facts = RunFacts() if run is None else RunFacts.of(run[0])
        parameters = sum(parameter.numel() for parameter in self.module.parameters())
        return model_card(self.export_settings(), type(self.module).__name__, parameters, facts)


def push_to_hub(folder: str | Path, name: str, *, private: bool = False) -> str:
    """Uploads an exported model to the Hugging Face hub and returns the address of the commit.

    The repository is created if there is none. The access token is that of `hf auth login` or of
    HF_TOKEN.

    Args:
        folder: that `save_pretrained` of a model, or the command `export`, wrote.
        name: `user/name`.
        private: of a new repository.

    Raises:
        UserError: there is no model in the folder, nobody is logged in, or the hub cannot be
            reached or refuses it.
    """
    source = Path(folder).expanduser()
    if not (source / "config.json").is_file():
        raise UserError(f"{source} holds no exported model: write one with `simvtp export`.")
    return push_folder(source, name, private=private, message="Upload a model of simvtp")
