"""Reference files of the released implementation, and comparisons with them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from simvtp.errors import CheckpointError

TENSOR_LIMIT = 1e-5  # outputs and losses
# smaller gradient norms, relative to the file's largest, count as this: rounding noise has no ratio
NEGLIGIBLE = 1e-9


@dataclass(frozen=True)
class Deviation:
    """One comparison of a tensor.

    Attributes:
        name: of the tensor.
        relative: max |ours - reference| / max |reference|.
        limit: largest value that is accepted.
    """

    name: str
    relative: float
    limit: float

    @property
    def ok(self) -> bool:
        """Returns True if the deviation is within its limit."""
        return self.relative <= self.limit


@dataclass(frozen=True)
class Reference:
    """A reference file in memory; its methods raise CheckpointError for what it lacks."""

    path: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def size(self, key: str) -> Any:
        """Returns an entry of the metadata."""
        if key not in self.config:
            raise CheckpointError(
                f"{self.path}: its metadata `config` has no '{key}', so the model cannot be built."
            )
        return self.config[key]

    def whole(self, key: str) -> int:
        """Returns an entry of the metadata that must be a whole number."""
        value = self.size(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise CheckpointError(
                f"{self.path}: '{key}' in its metadata is {value}, but must be a whole number."
            )
        return value

    def tensor(self, name: str) -> Tensor:
        """Returns a tensor by its full name."""
        if name not in self.tensors:
            raise CheckpointError(
                f"{self.path}: there is no tensor '{name}' in this reference file."
            )
        return self.tensors[name]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Returns the tensors whose names begin with `prefix`, without it."""
        return {
            name.removeprefix(prefix): value
            for name, value in self.tensors.items()
            if name.startswith(prefix)
        }


def read_reference(path: str | Path) -> Reference:
    """Reads a reference file; raises CheckpointError if it is none."""
    try:
        with safe_open(path, "pt") as file:
            config = json.loads((file.metadata() or {}).get("config", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as a safetensors file: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(
            f"{path}: no sizes in its metadata (key `config`, a JSON object): this is not a "
            "reference file."
        )
    return Reference(str(path), config, tensors)


def compare(name: str, ours: Tensor, reference: Tensor, floor: float = 0.0) -> Deviation:
    """Returns the deviation of a tensor from that of the file.

    Args:
        name: of the comparison.
        ours: any shape.
        reference: the same shape.
        floor: a smaller largest value of the reference counts as this.

    Raises:
        CheckpointError: the shapes differ.
    """
    if ours.shape != reference.shape:
        raise CheckpointError(
            f"{name}: ours is {list(ours.shape)}, the reference {list(reference.shape)}."
        )
    difference = (ours.detach().double() - reference.double()).abs().max().item()
    scale = max(reference.double().abs().max().item(), floor)
    return Deviation(name, ratio(difference, scale), TENSOR_LIMIT)


def ratio(difference: float, scale: float) -> float:
    """Returns difference / scale; 0 for 0 / 0, infinite for NaN and for anything else over 0."""
    if math.isnan(difference) or math.isnan(scale):
        return math.inf
    return difference / scale if scale > 0 else (0.0 if difference == 0 else math.inf)
