"""Imports and exports weights: foreign checkpoints (file, folder, hub) and our own exports.

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
from simvtp.models.weights.conversion import ConversionReport, convert, load
from simvtp.models.weights.mac_weights import import_mac_state
from simvtp.models.weights.pixel_normalization import PREPROCESSOR, with_our_normalization
from simvtp.models.weights.released_naming import to_released
from simvtp.models.weights.state_dict_maps import (
    BERT,
    NATIVE,
    NATIVE_PARTIAL,
    RELEASED,
    RELEASED_DUAL,
    detect,
)
from simvtp.runs.atomic_files import write_atomically

FORMAT = 1  # of the config.json of an export
PREPROCESSOR_FILE = f"{PREPROCESSOR}.json"  # of transformers: the normalisation of pixels
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TUBES = "video_embedding.proj"
PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
WRAPPERS = (
    "model",
    "module",
    "state_dict",
)  # keys under which released checkpoint files hold the state dict


# ---- reading -------------------------------------------------------------------------------------


def read_state(source: str | Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Reads a file, a folder or a repository of the hub.

    Returns:
        The state dict, the settings (config.json, empty without one) and the source, for messages.

    Raises:
        CheckpointError: it does not exist, cannot be reached, or holds anything but tensors.
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
    """Reads a state dict from a weight file.

    Raises:
        CheckpointError: it cannot be read, or holds anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if path.suffix not in PICKLE_SUFFIXES:
            raise CheckpointError(
                f"{path}: checkpoints end in .safetensors, {', '.join(PICKLE_SUFFIXES)}."
            )
        # VideoMAE files hold their arguments: plain values
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and is not loaded, because that could run foreign "
            "code; convert it to .safetensors."
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
            f"{path}: this is not a state dict (names and tensors), nor one under "
            f"{', '.join(WRAPPERS)}."
        )
    return dict(content)


def _read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    settings_file = folder / "config.json"
    settings = read_config(settings_file) if settings_file.is_file() else {}
    preprocessor = folder / PREPROCESSOR_FILE
    if preprocessor.is_file():
        settings[PREPROCESSOR] = read_config(preprocessor)
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
    """Reads a config.json.

    Raises:
        CheckpointError: it cannot be read or holds no object.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object.")
    return content


def _download(name: str) -> Path:
    """Downloads hub repository `name` into the hub's cache and returns the folder."""
    help_text = (
        f"'{name}' is not a local folder and cannot be downloaded from the hub; "
        "download it elsewhere and give the path of the folder"
    )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise CheckpointError(f"{help_text} (huggingface_hub is not installed).") from error
    try:
        # the second only where the first does not exist
        for weights in ("*.safetensors*", "pytorch_model*"):
            patterns = ["config.json", PREPROCESSOR_FILE, weights]
            folder = Path(snapshot_download(name, allow_patterns=patterns))
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
    """Loads a checkpoint of any known kind into `model`; the kind is found by its keys.

    Kinds: released SimVTP, released dual encoder, VideoMAE in its original and in transformers'
    naming, an image ViT, BERT (embeddings only), exports of this project.

    Args:
        beginning: an export may lack decoders and heads, as one of a pre-training with fewer
            objectives does.

    Returns:
        A report of every key.

    Raises:
        CheckpointError: it does not fit; nothing is changed then.
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
    """Loads a state dict as `import_weights` does; `settings` is its config.json."""
    if isinstance(model, MAC):
        return import_mac_state(model, state, where, settings or {})
    naming = detect(state, where)
    if naming is NATIVE and beginning:
        naming = NATIVE_PARTIAL
    dual = isinstance(model, DualEncoder)
    if naming not in (NATIVE, NATIVE_PARTIAL) and dual != (naming is RELEASED_DUAL):
        raise CheckpointError(
            f"{where}: a checkpoint of kind '{naming.kind}' does not fit a "
            f"{'dual encoder' if dual else 'pre-training model'}."
        )
    if naming not in (NATIVE, NATIVE_PARTIAL, BERT):
        _check_settings(config_of(model), settings or {}, where)
    conversion = convert(state, model, naming, where)
    if naming not in (NATIVE, NATIVE_PARTIAL, RELEASED, RELEASED_DUAL, BERT):
        conversion = with_our_normalization(conversion, TUBES, settings or {}, where)
    load(model, conversion)
    return conversion


def config_of(model: nn.Module) -> ModelConfig:
    """Returns the settings that a model of this project was built with."""
    config = model.config
    assert isinstance(config, ModelConfig)
    return config


def _check_settings(config: ModelConfig, settings: Mapping[str, Any], where: str) -> None:
    """Checks settings that the shapes of the weights do not show."""
    for foreign, ours in {
        "num_attention_heads": "heads", "decoder_num_attention_heads": "decoder_heads",
        "patch_size": "patch_size", "tubelet_size": "tubelet_size",
    }.items():  # fmt: skip
        if foreign in settings and settings[foreign] != getattr(config, ours):
            raise CheckpointError(
                f"{where}: {foreign}={settings[foreign]} in its config.json, "
                f"but model.{ours}={getattr(config, ours)}."
            )


def initialise_from(model: nn.Module, config: ModelConfig) -> list[ConversionReport]:
    """Loads `config.init_video`, then `config.init_text` (either may be empty).

    Returns:
        One report for each, in order.
    """
    return [
        import_weights(model, source, beginning=True)
        for source in (config.init_video, config.init_text)
        if source
    ]


# ---- exporting -----------------------------------------------------------------------------------


def export_released(model: SimVTP | DualEncoder, path: str | Path) -> None:
    """Writes the weights in the released naming as one `.safetensors` file.

    An objective that is off has no weights there.
    """
    released = to_released(model.state_dict(), model.config.tubelet_size, model.config.patch_size)
    content = safetensors.torch.save(
        {name: value.detach().cpu().clone().contiguous() for name, value in released.items()}
    )
    write_atomically(Path(path), content)
