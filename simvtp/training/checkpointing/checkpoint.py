"""Checkpoints that a kill cannot spoil: written to a neighbour, flushed to disk, renamed; read back
without running any code.

A stage keeps its files in `<run>/checkpoints/<stage>/`: `step_00000100.pt` (the whole state),
`best_00000080.pt` (weights that scored best on the selection split), `start.json` (mark of the
journal when the stage began). Its final weights are `<run>/checkpoints/<stage>.safetensors`.
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
from simvtp.runs.atomic_files import write_atomically

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
    """64 hex digits of the content of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cause_of_write_failure(error: BaseException) -> OSError | None:
    """The OSError behind an error of torch.save, which may wrap it; None if there is none."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def unguarded() -> None:
    """The guard of a process that nobody can replace."""


def write_state(path: Path, state: State, guard: Callable[[], None] = unguarded) -> None:
    """torch.save, whole or not at all. A full disk raises UserError, and what was there before
    stays.

    `guard` is called right before the rename and may raise to prevent it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        guard()
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)  # the rename itself must reach the disk too
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
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
            f"cannot save the checkpoint {path}: {cause.strerror or cause}; the checkpoints saved before it are whole. "
            "Free some space and give the same command again: it continues from the last one."
        ) from error


def read_state(path: Path) -> State:
    """The content of a file written by `write_state`, on the CPU. Raises CheckpointError if it is
    truncated or not ours.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums
            if (bad := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"wrong checksum of {bad}")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["format"] != FORMAT:
            raise CheckpointError(
                f"the checkpoint {path} has format {state['format']}, this version of simvtp reads format {FORMAT}."
            )
        return state
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"the checkpoint {path} cannot be read ({reason}): it is truncated or not a checkpoint."
        ) from error
    except TypeError as error:  # a pickle that holds something else than a dictionary
        raise CheckpointError(
            f"the checkpoint {path} cannot be read: it is not a checkpoint of simvtp."
        ) from error


def write_weights(
    path: Path,
    weights: Mapping[str, Tensor],
    about: Mapping[str, Any],
    guard: Callable[[], None] = unguarded,
) -> str:
    """Weights as safetensors, whole or not at all; returns the file's sha256. Equal weights and
    `about` give equal bytes.
    """
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in weights.items()}
    # One key, because the order of several keys in the header is not fixed.
    content = safetensors.torch.save(
        tensors, metadata={"simvtp": json.dumps(dict(about), sort_keys=True)}
    )
    write_atomically(path, content, guard)
    return hashlib.sha256(content).hexdigest()


def random_state() -> dict[str, Any]:
    """States of torch's (CPU, CUDA), numpy's and Python's global generators, as values that
    `weights_only` loads.
    """
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all()
        if torch.cuda.is_available() and torch.cuda.is_initialized()
        else [],
        "numpy": [
            str(kind),
            [int(key) for key in keys],
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "python": random.getstate(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put back what `random_state` returned; GPU states only where as many GPUs are seen."""
    torch.set_rng_state(state["torch"])
    if (
        state["cuda"]
        and torch.cuda.is_available()
        and len(state["cuda"]) == torch.cuda.device_count()
    ):
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def check_configuration(
    path: Path, state: State, fingerprint: str, config: Mapping[str, Any]
) -> None:
    """Raises CheckpointError, naming the settings that differ, if the checkpoint belongs to another
    configuration.
    """
    if state["fingerprint"] == fingerprint:
        return
    try:
        differ = differences(from_dict(state["config"]), from_dict(config))
        said = (
            ", ".join(f"{key} was {old!r} and is {new!r}" for key, (old, new) in differ.items())
            or "the settings agree, the schema does not"
        )
    except ConfigError as error:
        said = str(error)
    raise CheckpointError(
        f"the checkpoint {path} belongs to another configuration: {said}. Give the settings it was made with, or another runtime.root."
    )


class Checkpoints:
    """The checkpoint files of one stage. Only rank 0 writes, moves or deletes, and only while
    `guard` lets it.
    """

    def __init__(self, directory: Path, keep: int, guard: Callable[[], None] = unguarded) -> None:
        self.directory = directory
        self.keep = keep
        self.guard = guard

    def _files(self, kind: str) -> dict[int, Path]:
        """{step: path} of `step` or `best` files, oldest first."""
        named = {
            path: re.fullmatch(rf"{kind}_(\d+)\.pt", path.name)
            for path in self.directory.glob(f"{kind}_*.pt")
        }
        return dict(sorted((int(found.group(1)), path) for path, found in named.items() if found))

    def path(self, step: int) -> Path:
        return self.directory / f"step_{step:08d}.pt"

    def best_path(self, step: int) -> Path:
        return self.directory / f"best_{step:08d}.pt"

    def latest(self) -> Path | None:
        """The newest checkpoint file, readable or not."""
        files = self._files("step")
        return files[max(files)] if files else None

    def clean(self) -> None:
        """Remove what a killed save left behind."""
        for leftover in self.directory.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    def save(self, step: int, state: State) -> Path:
        """Write the state of `step`, then drop all but the newest `keep` (and the best weights that
        none of those needs).
        """
        path = self.path(step)
        write_state(path, {**state, "format": FORMAT, "step": step}, self.guard)
        for old in list(self._files("step").values())[: -self.keep]:
            old.unlink()
        oldest = min(self._files("step"))
        outdated = [best for best in self._files("best") if best <= oldest][:-1]
        for best in outdated:
            self.best_path(best).unlink()
        return path

    def save_best(self, step: int, state: State) -> Path:
        """Write weights that scored better than all before. A checkpoint of step c goes with the
        newest best file up to c.
        """
        write_state(self.best_path(step), {**state, "format": FORMAT, "step": step}, self.guard)
        return self.best_path(step)

    def forget_best_after(self, step: int) -> None:
        """Drop best weights that belong to steps which are about to be done again."""
        for best, path in self._files("best").items():
            if best > step:
                path.unlink()

    def load_latest(
        self, check: Callable[[Path, State], None] | None = None
    ) -> tuple[Path | None, State | None, list[str]]:
        """The newest readable checkpoint: (path, state, warnings).

        A file that cannot be read (`....pt.unreadable`), or that `check` refuses with a
        CheckpointError (`....pt.foreign`), is moved aside with a warning, and the one before is
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
                self.guard()
                path.rename(path.with_name(path.name + suffix))
                before = [other for other in self._files("step") if other < step]
                then = (
                    f"falling back to step {max(before)}"
                    if before
                    else "no other checkpoint is left: the stage starts anew"
                )
                warnings.append(f"{error} {then[0].upper()}{then[1:]}.")
                _LOG.warning(warnings[-1])
        return None, None, warnings
