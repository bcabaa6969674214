"""Reads YAML files with the line of each value, so that a message can name file and line.

A value stays text until its setting or option reads it by its own type, as on the command line:
`on`, `1e-3` and `0.50` mean the same in both places.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from simvtp.errors import ConfigError

if TYPE_CHECKING:
    import yaml

ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True)
class YamlEntry:
    """A value of a file, with its place.

    Attributes:
        path: the file.
        line: line of the value, from 1.
        content: a text; a list; or the entries by their names.
    """

    path: Path
    line: int
    content: str | tuple[YamlEntry, ...] | Mapping[str, YamlEntry]

    def error(self, message: str) -> ConfigError:
        """Returns an error that names the place."""
        return ConfigError(f"{self.path}, line {self.line}: {message}")

    def text(self, name: str) -> str:
        """Returns the text of a single value; `name` is for the message of ConfigError."""
        if not isinstance(self.content, str):
            raise self.error(f"{name} is one value, not a list and not a group.")
        return self.content

    def items(self, name: str) -> tuple[YamlEntry, ...]:
        """Returns the values of a list; a single value is a list of one."""
        if isinstance(self.content, Mapping):
            raise self.error(f"{name} is a list such as [1, 2], not a group.")
        return (self,) if isinstance(self.content, str) else self.content

    def group(self, name: str) -> Mapping[str, YamlEntry]:
        """Returns the entries of a group by their names."""
        if not isinstance(self.content, Mapping):
            raise self.error(f"{name} is a group of `name: value`, not a list or a single value.")
        return self.content

    def require_known(self, name: str, known: Collection[str]) -> None:
        """Raises ConfigError if a group has another entry than those that are known."""
        for key, entry in self.group(name).items():
            if key not in known:
                near = get_close_matches(key, known, 1)
                hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}."
                raise entry.error(f"{name} has no entry {key}; {hint}")


def read_yaml(path: Path) -> YamlEntry:
    """Returns the one document of a file.

    Raises:
        ConfigError: there is no such file, it is no YAML, or it names an entry twice.
    """
    # Late for start-up time: most commands read no file of this kind.
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from None
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1
                raise ConfigError(f"{path}, line {line}: aliases (*{event.anchor}) are not read.")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{place} is not YAML: {error.problem}.") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {error}.") from None
    return YamlEntry(path, 1, {}) if root is None else _entry(path, root)


def _entry(path: Path, node: yaml.Node) -> YamlEntry:
    import yaml

    line = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return YamlEntry(path, line, tuple(_entry(path, item) for item in node.value))
    if not isinstance(node, yaml.MappingNode):
        is_null = node.tag == "tag:yaml.org,2002:null"
        return YamlEntry(path, line, "" if is_null else str(node.value))
    entries: dict[str, YamlEntry] = {}
    for key, value in node.value:
        name = YamlEntry(path, key.start_mark.line + 1, str(key.value))
        if not isinstance(key, yaml.ScalarNode):
            raise name.error("the name of an entry is a single word.")
        if key.value in entries:
            raise name.error(f"{key.value} is given twice, first in {_place(entries[key.value])}.")
        entries[key.value] = _entry(path, value)
    return YamlEntry(path, line, entries)


def _place(entry: YamlEntry) -> str:
    return f"line {entry.line}"
