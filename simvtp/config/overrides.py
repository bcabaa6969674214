"""Changing settings by name, and filling in what depends on files. What is refused, and why:
`simvtp.config.validation`.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

from simvtp.config.schema import Experiment, flatten
from simvtp.config.validation import read_value
from simvtp.errors import ConfigError


def override(experiment: Experiment, assignments: Iterable[str]) -> Experiment:
    """Apply `key=value` texts such as `masks.video_ratio=0.5`."""
    for text in assignments:
        key, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(
                f"'{text}' is not a setting: write key=value, for example masks.video_ratio=0.5."
            )
        experiment = replace_key(experiment, key.strip(), value.strip())
    return experiment


def replace_key(experiment: Experiment, key: str, value: Any) -> Experiment:
    """A copy with one setting changed; `value` may be text, which is read by the type of the
    setting.
    """
    known = flatten(experiment)
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        inside = [k for k in known if k.startswith(key + ".")]
        hint = (
            f"it is a group; its settings are {', '.join(inside)}"
            if inside
            else f"did you mean '{near[0]}'?"
        )
        raise ConfigError(f"there is no setting '{key}': {hint}")
    return _replace_path(experiment, key.split("."), value, key)


def _replace_path(node: Any, path: list[str], value: Any, key: str) -> Any:
    head, rest = path[0], path[1:]
    if rest:
        return dataclasses.replace(
            node, **{head: _replace_path(getattr(node, head), rest, value, key)}
        )
    return dataclasses.replace(node, **{head: read_value(key, value)})
