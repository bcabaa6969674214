"""Reads cluster profiles: `sweeps/clusters/<name>.toml`.

A profile gives defaults for the options of the groups "how they are run" and "SLURM only", by their
names without the dashes, so that a command line need not repeat the cluster's options. The command
line wins."""

from __future__ import annotations

import argparse
import difflib
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from simvtp.errors import ConfigError

CLUSTERS = Path(__file__).resolve().parents[1] / "clusters"


def profile_path(name: str) -> Path:
    """Returns the file of a profile, given by its path or its name in sweeps/clusters/.

    Raises:
        ConfigError: there is no such file.
    """
    path = Path(name).expanduser()
    if path.suffix == ".toml" or path.parent != Path("."):
        if not path.is_file():
            raise ConfigError(f"--cluster {name}: there is no such file.")
        return path
    path = CLUSTERS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in CLUSTERS.glob("*.toml")))
        raise ConfigError(
            f"--cluster {name}: there is no {path.name} in {CLUSTERS}; "
            f"choose from {known or 'none'}."
        )
    return path


def apply_profile(parser: argparse.ArgumentParser, name: str, allowed: Collection[str]) -> None:
    """Makes the values of a profile the defaults of the options `allowed` (by their `dest`).

    Raises:
        ConfigError: the profile does not exist, or one of its values does not fit.
    """
    path = profile_path(name)
    try:
        values = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from None
    options = {
        option.lstrip("-"): action
        for action in parser._actions
        for option in action.option_strings
        if action.dest in allowed
    }
    for key, value in values.items():
        if key not in options:
            near = difflib.get_close_matches(key, options, 1)
            names = ", ".join(sorted(set(options)))
            hint = f"did you mean {near[0]}?" if near else f"choose from {names}."
            raise ConfigError(f"{path}: there is no option {key}; {hint}")
        parser.set_defaults(**{options[key].dest: _converted(path, key, value, options[key])})


def _table_entry(path: Path, name: str, value: Any) -> str:
    """Returns an entry of a table as the command line would give it; True makes a flag."""
    if isinstance(value, dict | list):
        raise ConfigError(f"{path}: {name} is one value, not a list or table.")
    return name if value is True else f"{name}={value}"


def _converted(path: Path, key: str, value: Any, action: argparse.Action) -> Any:
    """Returns the value as the command line would give it."""
    several = isinstance(action, argparse._AppendAction)
    if several and isinstance(value, dict):  # [sbatch] as a table
        value = [
            _table_entry(path, name, item) for name, item in value.items() if item is not False
        ]
    if several != isinstance(value, list):
        expected = "a list of texts in square brackets" if several else "one value, not a list"
        raise ConfigError(f"{path}: {key} is {expected}.")
    read: Any = action.type or str
    try:
        items = [read(str(item)) for item in value] if several else read(str(value))
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise ConfigError(f"{path}: {key}: {error}.") from None
    if action.choices is not None and items not in action.choices:
        raise ConfigError(f"{path}: {key} is one of {', '.join(action.choices)}, not {value}.")
    return items
