"""Digest of a tree of settings, by which the same experiment is found again on any machine.

The fingerprint is the sha256 of the whole resolved tree plus a schema version. It names the run
directory and tags the tracked run. Numbers are rounded to 12 significant digits and 1 is 1.0, so
that 0.1 + 0.2 and 0.3 are one experiment.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from simvtp.config.tree import SettingsTree, is_default_added, is_group

# 2: one class a method and a task; accumulate, compile and gradient_checkpointing in `runtime`
SCHEMA_VERSION = 2


def identifying(config: SettingsTree) -> dict[str, Any]:
    """Returns the nested dictionary without `added` settings that have their default value.

    A group that was added as a whole is left out while it has none to show.
    """
    tree: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if is_group(value):
            group = identifying(value)
            if group or not f.metadata.get("added"):
                tree[f.name] = group
        elif not is_default_added(f, value):
            tree[f.name] = value
    return tree


def digest(tree: Mapping[str, Any]) -> str:
    """Returns the sha256 of a tree, 64 hex digits.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(_canonical(tree), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    """Returns the value with floats at 12 significant digits, whole ones as integers."""
    if isinstance(value, Mapping):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, float):
        rounded = float(f"{value:.12g}")
        return int(rounded) if rounded.is_integer() else rounded
    return value
