"""Checkpoint files that survive a kill while they are written.

They are written to a temporary file, flushed to disk and renamed; they are read back without
running any code. A stage keeps its files in `<run>/checkpoints/<stage>/`: `step_00000100.pt` (the
full state), `best_00000080.pt` (weights with the best metric on the selection split), `start.json`
(position in the journal when the stage began). Its final weights are
`<run>/checkpoints/<stage>.safetensors`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import pickle
import random
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from simvtp.config.experiment_config import differences, from_dict
from simvtp.errors import CheckpointError, ConfigError, UserError
from simvtp.runs.atomic_files import TRANSIENT, cannot_read, retry_io, write_atomically

FORMAT = 1
_LOG = logging.getLogger(__name__)
_UNREADABLE = (
    RuntimeError,
    EOFError,
    OSError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    KeyError,
    ValueError,
    AttributeError,
)

State = dict[str, Any]


def sha256_of(path: Path) -> str:
    """Returns the 64 hex digits of the sha256 of a file."""

    def read() -> str:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return retry_io(read, path)


def _cause_of_write_failure(error: BaseException) -> OSError | None:
    """Returns the OSError behind an error of torch.save, which may wrap it; None without one."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def always_owned() -> None:
    """Passes every ownership check: no other process can take the files over."""


def write_state(
    path: Path, state: State, check_ownership: Callable[[], None] = always_owned
) -> None:
    """Writes a state with torch.save, completely or not at all; the previous file stays until then.

    Args:
        check_ownership: called right before the rename; may raise to prevent it.

    Raises:
        UserError: the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        check_ownership()
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)  # the rename itself must reach the disk too
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    try:
        retry_io(write, path)
    except UserError:
        temporary.unlink(missing_ok=True)
        raise
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        cause = _cause_of_write_failure(error)
        if cause is None:
            raise
        raise UserError(
            f"cannot save the checkpoint {path}: {cause.strerror or cause}; the checkpoints saved "
            "before it are intact. Free some space and run the command again: it continues from "
            "the last one."
        ) from error


def _verify_checksums(path: Path) -> None:
    """Raises BadZipFile if a file is damaged; torch.load does not look at the checksums."""
    with zipfile.ZipFile(path) as archive:
        if (bad := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {bad}")


def read_state(path: Path) -> State:
    """Reads a file written by `write_state`, onto the CPU.

    Raises:
        CheckpointError: the file is truncated or of another kind.
    """

    def read() -> State:
        try:
            _verify_checksums(path)
        except zipfile.BadZipFile:  # also where it is the disk that fails: zipfile hides that
            sha256_of(path)
            _verify_checksums(path)
        state: State = torch.load(path, map_location="cpu", weights_only=True)
        return state

    try:
        state = retry_io(read, path)
        if state["format"] != FORMAT:
            raise CheckpointError(
                f"the checkpoint {path} has format {state['format']}, "
                f"this version of simvtp reads format {FORMAT}."
            )
        return state
    except _UNREADABLE as error:
        if isinstance(error, OSError) and error.errno in TRANSIENT:
            raise cannot_read(path, error) from error  # the file itself may well be intact
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"the checkpoint {path} cannot be read ({reason}): it is truncated or not a checkpoint."
        ) from error
    except TypeError as error:  # the pickle holds no dictionary
        raise CheckpointError(
            f"the checkpoint {path} cannot be read: it is not a checkpoint of simvtp."
        ) from error


def write_weights(
    path: Path,
    weights: Mapping[str, Tensor],
    about: Mapping[str, Any],
    check_ownership: Callable[[], None] = always_owned,
) -> str:
    """Writes weights as safetensors, completely or not at all, and returns the file's sha256.

    Equal weights and `about` give equal bytes.
    """
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in weights.items()}
    # One key, because the order of several keys in the header is not fixed.
    metadata = {"simvtp": json.dumps(dict(about), sort_keys=True)}
    content = safetensors.torch.save(tensors, metadata=metadata)
    write_atomically(path, content, check_ownership)
    return hashlib.sha256(content).hexdigest()


def random_state() -> dict[str, Any]:
    """Returns the states of torch's (CPU, CUDA), numpy's and Python's global generators.

    They are values that `weights_only` loads.
    """
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    numbers = [int(key) for key in keys]
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if on_gpu else [],
        "numpy": [str(kind), numbers, int(position), int(has_gauss), float(cached)],
        "python": random.getstate(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restores what `random_state` returned; GPU states only if the number of GPUs is the same."""
    torch.set_rng_state(state["torch"])
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if state["cuda"] and len(state["cuda"]) == gpus:
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def check_configuration(
    path: Path, state: State, fingerprint: str, config: Mapping[str, Any]
) -> None:
    """Checks that a checkpoint belongs to this configuration.

    Raises:
        CheckpointError: it does not; the message names the settings that differ.
    """
    if state["fingerprint"] == fingerprint:
        return
    try:
        differ = differences(from_dict(state["config"]), from_dict(config))
        changes = [f"{key} was {old!r} and is {new!r}" for key, (old, new) in differ.items()]
        reason = ", ".join(changes) or "the settings agree, the schema does not"
    except ConfigError as error:
        reason = str(error)
    raise CheckpointError(
        f"the checkpoint {path} belongs to another configuration: {reason}. "
        "Give the settings it was made with, or another runtime.root."
    )


class Checkpoints:
    """Checkpoint files of one stage.

    Only rank 0 writes, moves or deletes, and only while `check_ownership` does not raise.
    """

    def __init__(
        self, directory: Path, keep: int, check_ownership: Callable[[], None] = always_owned
    ) -> None:
        self.directory = directory
        self.keep = keep
        self.check_ownership = check_ownership

    def _files(self, kind: str) -> dict[int, Path]:
        """Returns {step: path} of `step` or `best` files, oldest first."""
        files = {}
        for path in self.directory.glob(f"{kind}_*.pt"):
            found = re.fullmatch(rf"{kind}_(\d+)\.pt", path.name)
            if found:
                files[int(found.group(1))] = path
        return dict(sorted(files.items()))

    def path(self, step: int) -> Path:
        """Returns the checkpoint file of a step."""
        return self.directory / f"step_{step:08d}.pt"

    def best_path(self, step: int) -> Path:
        """Returns the file of the best weights so far, from a step."""
        return self.directory / f"best_{step:08d}.pt"

    def latest(self) -> Path | None:
        """Returns the newest checkpoint file, readable or not."""
        files = self._files("step")
        return files[max(files)] if files else None

    def clean(self) -> None:
        """Removes temporary files of a killed save."""
        for leftover in self.directory.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    def save(self, step: int, state: State) -> Path:
        """Writes the state of `step`, then removes all but the newest `keep`.

        Best weights that none of those needs are removed too.
        """
        path = self.path(step)
        write_state(path, {**state, "format": FORMAT, "step": step}, self.check_ownership)
        for old in list(self._files("step").values())[: -self.keep]:
            old.unlink()
        oldest = min(self._files("step"))
        outdated = [best for best in self._files("best") if best <= oldest][:-1]
        for best in outdated:
            self.best_path(best).unlink()
        return path

    def save_best(self, step: int, state: State) -> Path:
        """Writes weights with a better metric than all before.

        A checkpoint of step c belongs to the newest best file up to c.
        """
        write_state(
            self.best_path(step), {**state, "format": FORMAT, "step": step}, self.check_ownership
        )
        return self.best_path(step)

    def forget_best_after(self, step: int) -> None:
        """Removes best weights of steps that are about to be repeated."""
        for best, path in self._files("best").items():
            if best > step:
                path.unlink()

    def load_latest(
        self, check: Callable[[Path, State], None] | None = None
    ) -> tuple[Path | None, State | None, list[str]]:
        """Returns the newest readable checkpoint: (path, state, warnings).

        A file that cannot be read (`....pt.unreadable`), or that `check` refuses with a
        CheckpointError (`....pt.foreign`), is renamed with a warning, and the previous one is
        tried; path and state are None if none is left.
        """
        warnings: list[str] = []
        for step, path in reversed(self._files("step").items()):
            suffix = ".unreadable"
            try:
                state = read_state(path)
                suffix = ".foreign"
                if check is not None:
                    check(path, state)
                return path, state, warnings
            except CheckpointError as error:
                self.check_ownership()
                path.rename(path.with_name(path.name + suffix))
                before = [other for other in self._files("step") if other < step]
                then = (
                    f"falling back to step {max(before)}"
                    if before
                    else "no other checkpoint is left: the stage starts from the beginning"
                )
                warnings.append(f"{error} {then[0].upper()}{then[1:]}.")
                _LOG.warning(warnings[-1])
        return None, None, warnings
