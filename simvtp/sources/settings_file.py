"""Files of settings: an experiment as YAML, and back.

    base: tiny_pair            # a recipe, another file, or a run directory
    masks:
      video_ratio: 0.75
    finetune.enabled: false    # a dotted name means the same

Without `base`, a file must give every setting, as `simvtp settings RECIPE --yaml` prints them; its
experiment then does not depend on what a recipe becomes later.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import CHOOSERS, replace_key, setting_order
from simvtp.config.tree import SettingsTree, documentation, is_group, setting_types
from simvtp.errors import ConfigError
from simvtp.sources.yaml_file import YamlEntry, read_yaml

BASE = "base"
FILLED_IN = (
    "data.manifest_digest",
    "finetune.init_digest",
    "plugins.digests",
)  # computed from what the files hold
COMMENT_COLUMN = 40
_PLAIN = re.compile(r"[A-Za-z][\w./-]*")
_OTHER_TYPES = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")  # of YAML


def read_experiment(path: Path, open_base: Callable[[str], Experiment]) -> Experiment:
    """Returns the experiment of a file.

    Args:
        path: the file.
        open_base: returns the experiment that `base` names.

    Raises:
        ConfigError: an entry is unknown, is given twice or has no such value (with its line); or
            settings are missing.
    """
    entries = dict(read_yaml(path).group("a file of settings"))
    base = entries.pop(BASE, None)
    settings = settings_of(entries)
    if base is not None:
        return apply(open_base(base.text(BASE)), settings)
    experiment = apply(Experiment(), settings)
    missing = [key for key in _required(experiment) if key not in settings]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ConfigError(
            f"{path} has no `base`, so it must give every setting, and {len(missing)} are missing: "
            f"{shown}; add `base: RECIPE` to change some settings of a recipe."
        )
    return experiment


def settings_of(entries: Mapping[str, YamlEntry], prefix: str = "") -> dict[str, YamlEntry]:
    """Returns the values by dotted key, of groups and of dotted names.

    Raises:
        ConfigError: one setting is given in both ways.
    """
    found: dict[str, YamlEntry] = {}
    for name, entry in entries.items():
        inside = (
            settings_of(entry.content, f"{prefix}{name}.").items()
            if isinstance(entry.content, Mapping)
            else ((CHOOSERS.get(prefix + name, prefix + name), entry),)
        )
        for key, value in inside:
            if key in found:
                raise value.error(f"{key} is given twice, first in line {found[key].line}.")
            found[key] = value
    return found


def apply(experiment: Experiment, settings: Mapping[str, YamlEntry]) -> Experiment:
    """Returns the experiment with settings of a file; raises ConfigError with the line."""
    for key, entry in sorted(settings.items(), key=lambda item: setting_order(item[0])):
        try:
            experiment = replace_key(experiment, key, entry.text(key))
        except ConfigError as error:
            placed = str(error).startswith(f"{entry.path}, ")
            raise error if placed else entry.error(str(error)) from None
    return experiment


def to_yaml(experiment: Experiment, heading: Iterable[str] = ()) -> str:
    """Returns all settings as YAML, each with its meaning; `heading` are comments above them.

    What is filled in from the content of files is left out.
    """
    meaning, types = documentation(experiment), setting_types(experiment)
    lines = [f"# {line}" for line in heading]
    for key, value in _walk(experiment):
        indent, name = "  " * key.count("."), key.rpartition(".")[2]
        if is_group(value):
            lines.append(f"{indent}{name}:")
        elif key not in FILLED_IN:
            shown = float(value) if types[key] is float else value
            text = f"{indent}{name}: {_value(shown)}"
            lines.append(f"{text:<{COMMENT_COLUMN}} # {meaning[key]}")
    return "\n".join(lines) + "\n"


def _walk(config: SettingsTree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields groups and settings by dotted key, a group before what it holds."""
    for f in dataclasses.fields(config):
        key, value = prefix + f.name, getattr(config, f.name)
        yield key, value
        if is_group(value):
            yield from _walk(value, f"{key}.")


def _required(config: SettingsTree, prefix: str = "") -> Iterator[str]:
    """Yields the settings that a complete file has.

    They are those that every fingerprint of this schema has: no younger ones, which have defaults,
    and none of how a run is carried.
    """
    for f in dataclasses.fields(config):
        key, value = prefix + f.name, getattr(config, f.name)
        if f.metadata.get("added") or key in ("name", "runtime", *FILLED_IN):
            continue
        if is_group(value):
            yield from _required(value, f"{key}.")
        else:
            yield key


def _value(value: Any) -> str:
    """Returns a value as YAML, quoted where another reader would take it for another type."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        text = repr(value)
        return text if "e" not in text or "." in text else text.replace("e", ".0e")
    if isinstance(value, int):
        return str(value)
    is_plain = _PLAIN.fullmatch(value) and value.lower() not in _OTHER_TYPES
    return str(value) if is_plain else f'"{"".join(map(_escaped, value))}"'


def _escaped(letter: str) -> str:
    """Returns a letter as it stands between double quotes; no letter may change the file's form."""
    return letter if letter.isprintable() and letter not in '"\\' else f"\\U{ord(letter):08x}"
