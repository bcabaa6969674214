"""Weights in and out: foreign checkpoints from a file, a folder or the hub, and this project's own
exports.

No pickle is ever run: `.pth`, `.pt` and `.bin` files are read with `weights_only=True`.
"""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from simvtp.config.model_config import ModelConfig
from simvtp.errors import CheckpointError
from simvtp.models.downstream.retrieval_encoders import DualEncoder
from simvtp.models.mac.mac_model import MAC
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.models.weights.mac_weights import import_mac_state
from simvtp.models.weights.state_dict_maps import (
    BERT,
    NATIVE,
    NATIVE_PARTIAL,
    RELEASED_DUAL,
    ConversionReport,
    convert,
    detect,
    load,
    to_released,
)
from simvtp.runs.atomic_files import write_atomically

FORMAT = 1  # of config.json beside an export
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
WRAPPERS = (
    "model",
    "module",
    "state_dict",
)  # keys under which released checkpoint files hold the state dict


# ---- reading -------------------------------------------------------------------------------------


def read_state(source: str | Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """State dict, settings (config.json, empty if there is none) and the place, of a file, a folder
    or a hub name.

    Raises CheckpointError if there is no such thing, if it cannot be reached, or if it holds
    anything but tensors.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return read_weight_file(path), {}, str(path)
    if path.is_dir():
        return (*_read_folder(path), str(path))
    text = str(source)
    if (
        text.startswith((".", "/", "~"))
        or text.count("/") > 1
        or path.suffix in (".safetensors", *PICKLE_SUFFIXES)
    ):
        raise CheckpointError(f"{text}: there is no such file or folder.")
    return (*_read_folder(_download(text)), text)


def read_weight_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if path.suffix not in PICKLE_SUFFIXES:
            raise CheckpointError(
                f"{path}: checkpoints end in .safetensors, {', '.join(PICKLE_SUFFIXES)}."
            )
        with torch.serialization.safe_globals(
            [argparse.Namespace]
        ):  # VideoMAE files carry their arguments: plain values
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and is not loaded, because that could run foreign code; convert it to .safetensors."
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {_first_line(error)}") from error
    return _unwrap(content, path)


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for key in WRAPPERS:
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(value, Tensor) for value in content.values())
    ):
        raise CheckpointError(
            f"{path}: this is not a state dict (names and tensors), nor one under {', '.join(WRAPPERS)}."
        )
    return dict(content)


def _read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    settings_file = folder / "config.json"
    settings = read_config(settings_file) if settings_file.is_file() else {}
    found = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if found is None:
        raise CheckpointError(
            f"{folder}: no weights there; expected {' or '.join(WEIGHT_FILES[::2])}."
        )
    if found.suffix != ".json":
        return read_weight_file(found), settings
    state: dict[str, Tensor] = {}
    for name in sorted(set(read_config(found).get("weight_map", {}).values())):
        state |= read_weight_file(folder / Path(name).name)
    return state, settings


def read_config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object.")
    return content


def _download(name: str) -> Path:
    """Folder with the files of hub repository `name`, in the hub's own cache."""
    help_text = f"'{name}' is not a local folder and cannot be fetched from the hub; download it elsewhere and give the path of the folder"
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise CheckpointError(f"{help_text} (huggingface_hub is not installed).") from error
    try:
        for weights in (
            "*.safetensors*",
            "pytorch_model*",
        ):  # the second only where the first does not exist
            folder = Path(snapshot_download(name, allow_patterns=["config.json", weights]))
            if any((folder / file).is_file() for file in WEIGHT_FILES):
                break
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise CheckpointError(f"{help_text} ({_first_line(error)}).") from error
    return folder


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


# ---- importing -----------------------------------------------------------------------------------


def import_weights(
    model: nn.Module, source: str | Path, beginning: bool = False
) -> ConversionReport:
    """Load a checkpoint of any known kind into `model`; the kind is seen from its keys. Returns
    what was done with each key.

    Kinds: released SimVTP, released dual encoder, VideoMAE in its original and in transformers'
    naming, an image ViT, BERT (embeddings only), exports of this project. `beginning`: an export
    may lack decoders and heads, as one of a pre-training with fewer objectives does. Raises
    CheckpointError, and then changes nothing.
    """
    state, settings, where = read_state(source)
    return import_state(model, state, where, settings, beginning)


def import_state(
    model: nn.Module,
    state: Mapping[str, Tensor],
    where: str,
    settings: Mapping[str, Any] | None = None,
    beginning: bool = False,
) -> ConversionReport:
    """As `import_weights`, from a state dict in memory; `settings` is the config.json beside it."""
    if isinstance(model, MAC):
        return import_mac_state(model, state, where, settings or {})
    naming = detect(state, where)
    if naming is NATIVE and beginning:
        naming = NATIVE_PARTIAL
    dual = isinstance(model, DualEncoder)
    if naming not in (NATIVE, NATIVE_PARTIAL) and dual != (naming is RELEASED_DUAL):
        raise CheckpointError(
            f"{where}: a checkpoint of kind '{naming.kind}' does not fit a {'dual encoder' if dual else 'pre-training model'}."
        )
    if naming not in (NATIVE, NATIVE_PARTIAL, BERT):
        _check_settings(config_of(model), settings or {}, where)
    conversion = convert(state, model, naming, where)
    load(model, conversion)
    return conversion


def config_of(model: nn.Module) -> ModelConfig:
    """The sizes that a model of this project was built with."""
    config = model.config
    assert isinstance(config, ModelConfig)
    return config


def _check_settings(config: ModelConfig, settings: Mapping[str, Any], where: str) -> None:
    """What the shapes of the weights do not show. transformers' names on the left."""
    for foreign, ours in {
        "num_attention_heads": "heads", "decoder_num_attention_heads": "decoder_heads",
        "patch_size": "patch_size", "tubelet_size": "tubelet_size",
    }.items():  # fmt: skip
        if foreign in settings and settings[foreign] != getattr(config, ours):
            raise CheckpointError(
                f"{where}: {foreign}={settings[foreign]} in its config.json, but model.{ours}={getattr(config, ours)}."
            )


def initialise_from(model: nn.Module, config: ModelConfig) -> list[ConversionReport]:
    """Load `config.init_video`, then `config.init_text` (either may be empty); returns what was
    loaded, in order.
    """
    return [
        import_weights(model, source, beginning=True)
        for source in (config.init_video, config.init_text)
        if source
    ]


# ---- exporting -----------------------------------------------------------------------------------


def export_released(model: SimVTP | DualEncoder, path: str | Path) -> None:
    """Write the weights in the released naming as one `.safetensors` file (an objective that is off
    has no weights there).
    """
    released = to_released(model.state_dict(), model.config.tubelet_size, model.config.patch_size)
    content = safetensors.torch.save(
        {name: value.detach().cpu().clone().contiguous() for name, value in released.items()}
    )
    write_atomically(Path(path), content)
