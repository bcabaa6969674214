"""Trees of frozen dataclasses: documented fields, dotted keys, dictionaries and back.

Nothing here knows which settings there are.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Hashable, Mapping
from dataclasses import field
from types import UnionType
from typing import Any, Literal, Protocol, TypeGuard, TypeVar

from simvtp.errors import ConfigError

T = TypeVar("T")
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class SettingsTree(Protocol):
    """An instance of any dataclass of settings."""

    __dataclass_fields__: typing.ClassVar[dict[str, dataclasses.Field[Any]]]


def is_group(value: Any) -> TypeGuard[SettingsTree]:
    """Returns whether a value is an instance of a dataclass of settings."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def narrow(config: object, kind: type[T]) -> T:
    """Returns settings that must be of class `kind`.

    Raises:
        ConfigError: they are of another method or task.
    """
    if not isinstance(config, kind):
        raise ConfigError(
            f"{kind.__name__} is needed here, but the settings are {type(config).__name__}: choose "
            "the method or the task that this belongs to."
        )
    return config


def setting(default: T, doc: str) -> T:
    """Declares a dataclass field with its default and the one line that documents it."""
    return field(default=default, metadata={"doc": doc})


def added(default: T, doc: str) -> T:
    """Declares a setting that is younger than the fingerprint's schema version.

    While it has its default value it is no part of the fingerprint, so that older experiments are
    found again, and stored experiments may lack it. Its default can therefore never change before
    the next schema version.
    """
    return field(default=default, metadata={"doc": doc, "added": True})


def is_default_added(f: dataclasses.Field[Any], value: Any) -> bool:
    """Returns whether the field was declared by `added` and has its default value."""
    return bool(f.metadata.get("added")) and bool(value == f.default)


def field_types(kind: type) -> Mapping[str, Any]:
    """Returns the resolved type of each field of a dataclass, by name."""
    return _field_types(kind)


@functools.cache  # a grid of thousands of points asks for each of them
def _field_types(kind: Hashable) -> Mapping[str, Any]:
    assert isinstance(kind, type) and dataclasses.is_dataclass(kind)
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind)}


def to_dict(config: SettingsTree) -> dict[str, Any]:
    """Returns the nested dictionary of a config dataclass (plain JSON values)."""
    return dataclasses.asdict(config)


def flatten(config: SettingsTree, prefix: str = "") -> dict[str, Any]:
    """Returns `{"masks.video_ratio": 0.9, ...}` in the order of the fields."""
    flat: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if is_group(value):
            flat.update(flatten(value, f"{prefix}{f.name}."))
        else:
            flat[prefix + f.name] = value
    return flat


def flatten_mapping(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the same of settings as a file holds them, also of an older version."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten_mapping(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def documentation(config: SettingsTree, prefix: str = "") -> dict[str, str]:
    """Returns what each setting means, by its dotted key, in the order of `flatten`."""
    found: dict[str, str] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if is_group(value):
            found.update(documentation(value, f"{prefix}{f.name}."))
        else:
            found[prefix + f.name] = f.metadata.get("doc", "")
    return found


def setting_types(config: SettingsTree, prefix: str = "") -> dict[str, Any]:
    """Returns the annotated type of each setting, by its dotted key."""
    found: dict[str, Any] = {}
    for name, hint in field_types(type(config)).items():
        value = getattr(config, name)
        if is_group(value):
            found.update(setting_types(value, f"{prefix}{name}."))
        else:
            found[prefix + name] = hint
    return found


def read_value(key: str, value: Any, hint: Any) -> Any:
    """Returns the value of a setting from text, by the type that the setting has.

    Raises:
        ConfigError: the text is no value of that type.
    """
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise ConfigError(
                f"{key}={value}: must be one of {', '.join(map(str, typing.get_args(hint)))}."
            )
        return value
    if words_of(hint):
        return _read_number_or_word(key, value, hint)
    if hint is bool:
        if str(value).lower() not in _BOOLEANS:
            raise ConfigError(f"{key}={value}: must be true or false.")
        return _BOOLEANS[str(value).lower()]
    try:
        read = hint(value) if not isinstance(value, hint) or isinstance(value, bool) else value
    except (TypeError, ValueError, OverflowError):
        what = {int: "a whole number", float: "a number"}.get(hint, hint.__name__)
        raise ConfigError(f"{key}={value}: must be {what}.") from None
    if isinstance(read, float) and not math.isfinite(read):
        raise ConfigError(f"{key}={value}: must be a finite number.")
    return read


def words_of(hint: Any) -> tuple[str, ...]:
    """Returns the words that a setting may be in place of a number; none for other settings."""
    if typing.get_origin(hint) not in (typing.Union, UnionType):
        return ()
    return typing.get_args(typing.get_args(hint)[1])


def _read_number_or_word(key: str, value: Any, hint: Any) -> Any:
    words = words_of(hint)
    if value in words:
        return value
    try:
        return read_value(key, value, typing.get_args(hint)[0])
    except ConfigError as error:
        raise ConfigError(f"{str(error).removesuffix('.')}, or {' or '.join(words)}.") from None


def build(
    kind: type[T], values: Mapping[str, Any], components: Mapping[str, type], prefix: str = ""
) -> T:
    """Returns a dataclass of settings from its dictionary.

    Args:
        kind: the dataclass.
        values: what `to_dict` gave; settings declared by `added` may be absent.
        components: class of the groups whose class depends on their values, by dotted key; other
            groups have the class that their field is annotated with.
        prefix: dotted key of `kind`, with a trailing dot.

    Raises:
        ConfigError: unknown or missing keys.
    """
    known = field_types(kind)
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, kind))}
    added_fields = {name: f for name, f in fields.items() if f.metadata.get("added")}
    young = {
        name: {} if f.default is dataclasses.MISSING else f.default
        for name, f in added_fields.items()
    }
    values = {**young, **values}
    unknown, missing = sorted(set(values) - set(known)), sorted(set(known) - set(values))
    if unknown or missing:
        raise ConfigError(
            f"stored {kind.__name__} does not fit this version: unknown keys {unknown}, missing "
            f"keys {missing}; it was written by another version of simvtp, run the experiment "
            "again or use that version."
        )
    built: dict[str, Any] = {}
    for name, hint in known.items():
        group = components.get(prefix + name, hint)
        if isinstance(group, type) and dataclasses.is_dataclass(group):
            built[name] = build(group, values[name], components, f"{prefix}{name}.")
        else:
            built[name] = values[name]
    return kind(**built)
