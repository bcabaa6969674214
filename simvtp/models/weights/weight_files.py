"""Reads weight files, folders of transformers, and repositories of the hub.

No pickle is ever run: `.pth`, `.pt`, `.bin` and their like are read with `weights_only=True`.
"""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from simvtp.errors import CheckpointError
from simvtp.models.weights.hub_repository import first_line, hub_folder
from simvtp.models.weights.pixel_normalization import PREPROCESSOR

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = f"{PREPROCESSOR}.json"  # of transformers: the normalisation of pixels
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pyth", ".pth.tar", ".pt.tar")
# keys under which published checkpoint files hold the state dict
WRAPPERS = ("model", "module", "state_dict", "model_state", "model_state_dict", "net")
# and its exponential moving average, which is read where a file has nothing else
AVERAGES = ("model_ema", "state_dict_ema", "ema_state_dict", "ema", "model_ema_state_dict")
WRAPPED_LEVELS = 3  # {"state_dict": {"model": ...}}
# put before every name by DataParallel, by wrappers of training code, and by torch.compile
PREFIXES = ("module.", "model.", "_orig_mod.", "backbone.")
AVERAGE_PREFIXES = ("ema.", "ema_model.", "model_ema.")


class _Record:
    """Stands in for a record of another project in a file, which is neither built nor run."""

    def __init__(self, *values: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# Records that published files hold next to their weights: the settings of Frozen-in-Time and the
# best value of its metric. Each name needs a class of its own.
_RECORDS: tuple[tuple[type, str], ...] = tuple(
    (type("Record", (_Record,), {}), name)
    for name in (
        "parse_config.ConfigParser",
        "parse_config_dist_multi.ConfigParser",
        "pathlib.PosixPath",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
    )
)


class Weights(NamedTuple):
    """Content of a source of weights.

    Attributes:
        state: the state dict, without prefixes that wrappers put before names.
        settings: config.json that lies with it, and preprocessor_config.json under PREPROCESSOR;
            empty without them.
        where: the source, for messages.
        notes: what was removed or not read, in words.
    """

    state: dict[str, Tensor]
    settings: dict[str, Any]
    where: str
    notes: tuple[str, ...] = ()


def read_source(source: str | Path) -> Weights:
    """Reads a file, a folder or a repository of the hub.

    Raises:
        CheckpointError: it does not exist, cannot be reached, or holds anything but tensors.
    """
    path, text = Path(source).expanduser(), str(source)
    if path.is_file():
        state, notes = _plain_names(*_unwrapped(_content(path), path), path)
        return Weights(state, _settings_in(path.parent), str(path), notes)
    if path.is_dir():
        return _read_folder(path, str(path))
    known = (".safetensors", *PICKLE_SUFFIXES)
    if text.startswith((".", "/", "~")) or text.count("/") > 1 or text.endswith(known):
        raise CheckpointError(f"{text}: there is no such file or folder.")
    return _read_folder(_download(text), text)


def read_weight_file(path: Path) -> dict[str, Tensor]:
    """Reads a state dict from a weight file, with its names as they are.

    Raises:
        CheckpointError: it cannot be read, or holds anything but tensors.
    """
    return _unwrapped(_content(path), path)[0]


def _content(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if not path.name.endswith(PICKLE_SUFFIXES):
            raise CheckpointError(
                f"{path}: checkpoints end in .safetensors, {', '.join(PICKLE_SUFFIXES)}."
            )
        # VideoMAE files hold their arguments: plain values
        with torch.serialization.safe_globals([argparse.Namespace, *_RECORDS]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and is not loaded, because that could run foreign "
            "code; convert it to .safetensors."
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {first_line(error)}") from error


def _unwrapped(content: Any, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the state dict inside what a file holds, and notes on the rest."""
    notes: list[str] = []
    for _ in range(WRAPPED_LEVELS):
        if not isinstance(content, Mapping):
            break
        keys = [key for key in (*WRAPPERS, *AVERAGES) if isinstance(content.get(key), Mapping)]
        if not keys:
            break
        rest = [str(key) for key in content if key != keys[0]]
        if keys[0] in AVERAGES:
            notes.append(f"exponential moving average of the weights ('{keys[0]}')")
        if rest:
            notes.append(f"{len(rest)} entries of the file are not read: {_some(rest)}")
        content = content[keys[0]]
    state = content if isinstance(content, Mapping) else {}
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) < len(state):
        wrappers = ", ".join((*WRAPPERS, *AVERAGES))
        raise CheckpointError(
            f"{path}: this is not a state dict (names and tensors), nor one under {wrappers}."
        )
    return tensors, notes


def _plain_names(
    state: Mapping[str, Tensor], notes: list[str], path: Path
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Returns the state dict without the prefixes of wrappers, and the notes with what was removed.

    Raises:
        CheckpointError: two names become one.
    """
    removed: dict[str, int] = {}
    plain: dict[str, Tensor] = {}
    averages: dict[str, Tensor] = {}
    for key, value in state.items():
        name = _without(key, PREFIXES)
        bare = _without(name, (*AVERAGE_PREFIXES, *PREFIXES))
        averaged = name.startswith(AVERAGE_PREFIXES)
        chosen, short = (averages, bare) if averaged else (plain, name)
        if short in chosen:
            raise CheckpointError(f"{path}: two of its names mean {short}, such as {key}.")
        chosen[short] = value
        if short != key:
            prefix = key.removesuffix(short)
            removed[prefix] = removed.get(prefix, 0) + 1
    if averages and plain:
        notes = [*notes, f"{len(averages)} names of a moving average are not read"]
    elif averages:
        plain, notes = averages, [*notes, "exponential moving average of the weights"]
    found = [f"prefix '{prefix}' of {count} names removed" for prefix, count in removed.items()]
    return plain, (*notes, *found)


def _without(name: str, prefixes: tuple[str, ...]) -> str:
    while True:
        prefix = next((p for p in prefixes if name.startswith(p) and name != p), "")
        if not prefix:
            return name
        name = name.removeprefix(prefix)


def _settings_in(folder: Path) -> dict[str, Any]:
    """Returns the configs that lie in a folder; see `Weights.settings`."""
    config, preprocessor = folder / CONFIG_FILE, folder / PREPROCESSOR_FILE
    settings = read_config(config) if config.is_file() else {}
    if preprocessor.is_file():
        settings[PREPROCESSOR] = read_config(preprocessor)
    return settings


def _read_folder(folder: Path, where: str) -> Weights:
    settings = _settings_in(folder)
    found = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if found is None:
        raise CheckpointError(
            f"{folder}: no weights there; expected {' or '.join(WEIGHT_FILES[::2])}."
        )
    files = [found]
    if found.suffix == ".json":
        names = sorted(set(read_config(found).get("weight_map", {}).values()))
        files = [folder / Path(name).name for name in names]
    state: dict[str, Tensor] = {}
    for file in files:
        state |= read_weight_file(file)
    plain, notes = _plain_names(state, [], folder)
    return Weights(plain, settings, where, notes)


def read_config(path: Path) -> dict[str, Any]:
    """Reads a config.json.

    Raises:
        CheckpointError: it cannot be read or holds no object.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object.")
    return content


def _download(name: str) -> Path:
    """Downloads hub repository `name` into the hub's cache and returns the folder."""
    # the second only where the first does not exist
    for weights in ("*.safetensors*", "pytorch_model*"):
        folder = hub_folder(name, patterns=(CONFIG_FILE, PREPROCESSOR_FILE, weights))
        if any((folder / file).is_file() for file in WEIGHT_FILES):
            break
    return folder


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
