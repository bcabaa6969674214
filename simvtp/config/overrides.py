"""Changes settings by name, as the command line and the ablations do."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from simvtp.config.experiment_config import (
    METHOD_CONFIGS,
    TASK_CONFIGS,
    Experiment,
    method_configs,
    task_config,
)
from simvtp.config.tree import SettingsTree, field_types, flatten, read_value, setting_types
from simvtp.errors import ConfigError
from simvtp.plugins import load_plugin

C = TypeVar("C", bound=SettingsTree)

METHOD_KEY, TASK_KEY = "model.method", "finetune.task.name"
PLUGINS_KEY = "plugins.files"  # loaded when it is set: the other settings may be theirs
CHOOSERS = {"model": METHOD_KEY, "finetune.task": TASK_KEY}  # a component's key chooses its class
_CHOOSING = {*CHOOSERS, METHOD_KEY, TASK_KEY}
_STAGES = ("pretrain", "finetune.train")
_OF_TASKS = sorted({name for kind in TASK_CONFIGS.values() for name in field_types(kind)})
# names of earlier versions -> today's
RENAMED: Mapping[str, str] = {
    "model.decoded_share": "model.decoder_keep_ratio",
    "model.merged_share": "model.token_merge_ratio",
    "masks.frames": "masks.frame_schedule",
    "data.max_corrupt_share": "data.max_corrupt_ratio",
    **{f"{stage}.warmup_share": f"{stage}.warmup_ratio" for stage in _STAGES},
    **{
        f"{stage}.{name}": f"runtime.{name}"
        for stage in _STAGES
        for name in ("accumulate", "compile", "gradient_checkpointing")
    },
    **{f"finetune.{name}": f"finetune.task.{name}" for name in _OF_TASKS if name != "name"},
}


def override(experiment: Experiment, assignments: Iterable[str]) -> Experiment:
    """Returns the experiment with `key=value` texts such as `masks.video_ratio=0.5` applied.

    Raises:
        ConfigError: a text is no assignment, or `replace_keys` refuses it.
    """
    values: list[tuple[str, str]] = []
    for text in assignments:
        key, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(
                f"'{text}' is not a setting: write key=value, for example masks.video_ratio=0.5."
            )
        values.append((key.strip(), value.strip()))
    return _replace_all(experiment, values)


def replace_keys(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """Returns a copy with several settings changed, in any order.

    Raises:
        ConfigError: see `replace_key`.
    """
    return _replace_all(experiment, list(values.items()))


def replace_key(experiment: Experiment, key: str, value: Any) -> Experiment:
    """Returns a copy with one setting changed.

    `model=mac` (or `model.method=mac`) and `finetune.task=qa` choose the class of a component: it
    keeps the fields that both classes have, the others take their defaults.

    Args:
        experiment: the settings to start from.
        key: dotted name of the setting.
        value: its value, or text, which is read by the type of the setting.

    Raises:
        ConfigError: there is no such setting, or it has no such value.
    """
    key = CHOOSERS.get(key, key)
    if key == METHOD_KEY:
        return _with_method(experiment, value)
    if key == TASK_KEY:
        return _with_task(experiment, value)
    if key == PLUGINS_KEY:
        for file in filter(None, str(value).split(os.pathsep)):
            try:
                load_plugin(Path(file))
            except ConfigError as error:
                raise ConfigError(f"{key}={value}: {error}") from error
    types = setting_types(experiment)
    if key not in types:
        raise ConfigError(f"there is no setting '{key}'{_hint(experiment, key)}")
    return _replace_path(experiment, key.split("."), read_value(key, value, types[key]))


def _replace_all(experiment: Experiment, values: list[tuple[str, Any]]) -> Experiment:
    """Applies the choosers of classes first, so that the order of the others does not matter."""
    for key, value in sorted(values, key=lambda item: setting_order(item[0])):
        experiment = replace_key(experiment, key, value)
    return experiment


def setting_order(key: str) -> int:
    """Returns 0 for plugins, 1 for what chooses a class, 2 for other settings, which come last."""
    return 0 if key == PLUGINS_KEY else 1 if key in _CHOOSING else 2


def _with_method(experiment: Experiment, method: Any) -> Experiment:
    kinds = method_configs(method)
    if experiment.model.method == method:
        return experiment
    return dataclasses.replace(
        experiment,
        model=_as(kinds.model, experiment.model, "method"),
        masks=_as(kinds.masks, experiment.masks),
        losses=_as(kinds.losses, experiment.losses),
    )


def _with_task(experiment: Experiment, task: Any) -> Experiment:
    kind, tuning = task_config(task), experiment.finetune
    if tuning.task.name == task:
        return experiment
    changed = dataclasses.replace(tuning, task=_as(kind, tuning.task, "name"))
    return dataclasses.replace(experiment, finetune=changed)


def _as(kind: type[C], config: SettingsTree, *but: str) -> C:
    """Returns settings of another class with the fields that both have, except those of `but`."""
    both = field_types(kind).keys() & field_types(type(config)).keys() - set(but)
    return kind(**{name: getattr(config, name) for name in both})


def _replace_path(node: C, path: list[str], value: Any) -> C:
    head, *rest = path
    new = _replace_path(getattr(node, head), rest, value) if rest else value
    return dataclasses.replace(node, **{head: new})


def _hint(experiment: Experiment, key: str) -> str:
    """Returns the end of the sentence that refuses a key: what was meant, or whose it is."""
    known = flatten(experiment)
    today = RENAMED.get(key, key)
    if today in known:
        return f": it is now called '{today}'."
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        return f": it is a group; its settings are {', '.join(inside)}"
    owners = _owners(today)
    if owners:
        now = f" and is now called '{today}'" if today != key else ""
        return f" here: it belongs to {' or '.join(owners)}{now}."
    return f": did you mean '{difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]}'?"


def _owners(key: str) -> list[str]:
    """Returns the components, such as `model.method=mac`, that have a setting."""
    group, _, name = key.rpartition(".")
    if group in ("model", "masks", "losses"):
        kinds = {f"model.method={m}": getattr(c, group) for m, c in METHOD_CONFIGS.items()}
    elif group == "finetune.task":
        kinds = {f"finetune.task={task}": kind for task, kind in TASK_CONFIGS.items()}
    else:
        return []
    return [owner for owner, kind in kinds.items() if name in field_types(kind)]
