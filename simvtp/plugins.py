"""Data sets, methods, tasks, ablations and reports of users, without a change of this package.

A plugin is one Python file that declares dictionaries by the names in `KINDS`: {name: object}. It
comes from `--plugin FILE`, from the setting `plugins.files`, or from the entry points
`simvtp.plugins` of an installed package. Its module bears the digest of the file, so two versions
never mix, and `sys.modules` is the list of what is loaded.

The digest of a plugin that gives an experiment its data set, method or task is part of the
fingerprint. Run directories and the copies of the code that jobs run hold the file, which is then
read from there.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import stat
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from simvtp.errors import ConfigError

# what a plugin may declare -> the dictionaries that have the project's own, as module:name
KINDS = {
    "DATASETS": ("simvtp.data.datasets:DATASETS", "simvtp.data.benchmarks:BENCHMARKS"),
    "METHODS": ("simvtp.methods:METHODS",),
    "METHOD_CONFIGS": ("simvtp.config.experiment_config:METHOD_CONFIGS",),
    "TASKS": ("simvtp.tasks:TASKS",),
    "TASK_CONFIGS": ("simvtp.config.experiment_config:TASK_CONFIGS",),
    "ABLATIONS": ("ablations:ABLATIONS",),
    "REPORT_TYPES": ("reports.kinds.registry:REPORT_TYPES",),
}
ENTRY_POINTS = "simvtp.plugins"
PREFIX = "simvtp_plugin_"
FROZEN = "simvtp_plugins"  # folder of copies next to the packages, in a copy of the code for jobs
HOME = Path(__file__).resolve().parents[1]
OPTION = "--plugin"
FACTS, COPY = "__simvtp_plugin__", "__simvtp_copy__"  # names that a module gets here


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin.

    Attributes:
        origin: the file that the user named.
        digest: sha256 of its content, 64 hex digits.
        content: its text.
        module: what it defines.
    """

    origin: Path
    digest: str
    content: bytes
    module: ModuleType

    @property
    def file_name(self) -> str:
        """Name of a copy of the file."""
        return f"{self.module.__name__}.py"

    def declared(self, kind: str) -> Mapping[str, Any]:
        """Returns what it declares of a kind, by name."""
        found: Mapping[str, Any] = getattr(self.module, kind, {})
        return found


def load_plugin(path: Path, origin: Path | None = None) -> Plugin:
    """Loads a file, once.

    Args:
        path: the file.
        origin: the file that it is a copy of; None: `path`, whose earlier version is dropped.

    Raises:
        ConfigError: the file cannot be read, fails, or declares nothing or a name that is taken.
    """
    origin = (origin or path).expanduser().absolute()
    try:
        content = path.expanduser().read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"the plugin {path} cannot be read: {reason}.") from None
    digest = hashlib.sha256(content).hexdigest()
    name = PREFIX + digest[:16]
    if name in sys.modules:
        return _plugin(sys.modules[name])
    for other in loaded_plugins():
        if other.origin != origin:
            continue
        if path.expanduser().absolute() == origin:  # its user has changed it, as in a notebook
            del sys.modules[other.module.__name__]
        else:
            raise ConfigError(
                f"the plugin {origin} has changed since the experiment was made that is used here: "
                f"its version {other.digest[:12]} and the present one cannot be mixed."
            )
    module = _execute(name, origin, content, digest)
    try:
        _check_names(_plugin(module))
        _make_importable(module, path.expanduser().absolute(), content)
    except BaseException:
        del sys.modules[name]
        raise
    return _plugin(module)


def load_stored(files: str, digests: str, folders: Sequence[Path] = ()) -> None:
    """Loads the plugins of a stored experiment, by their digests.

    Args:
        files: the files that the user named, with `os.pathsep` between.
        digests: their digests, with commas between.
        folders: where copies may lie, before those of the code and the files themselves.

    Raises:
        ConfigError: a file is gone or has changed and there is no copy, or it belongs to another
            user.
    """
    origins = [Path(file) for file in files.split(os.pathsep) if file]
    known = [digest for digest in digests.split(",") if digest]
    if len(known) != len(origins):
        raise ConfigError(f"plugins.files={files} and plugins.digests={digests} do not agree.")
    for origin, digest in zip(origins, known, strict=True):
        name = PREFIX + digest[:16]
        if name in sys.modules:
            continue
        copies = [folder / f"{name}.py" for folder in (*folders, HOME / FROZEN)]
        for path in (*copies, origin):
            if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
                _require_own(path)
                load_plugin(path, origin)
                break
        else:
            raise ConfigError(
                f"the plugin {origin} of this experiment is gone or has changed (version "
                f"{digest[:12]} is needed): restore it, or start the experiment again."
            )


def loaded_plugins() -> list[Plugin]:
    """Returns the plugins of this process, in the order in which they were loaded."""
    return [_plugin(sys.modules[name]) for name in list(sys.modules) if name.startswith(PREFIX)]


def extensions(kind: str) -> dict[str, Any]:
    """Returns what all plugins declare of a kind, by name.

    Raises:
        ConfigError: two plugins declare the same name.
    """
    _load_installed()
    found: dict[str, Any] = {}
    for plugin in loaded_plugins():
        for name, value in plugin.declared(kind).items():
            if name in found:
                files = " and ".join(
                    str(one.origin) for one in loaded_plugins() if name in one.declared(kind)
                )
                raise ConfigError(f"{kind} has '{name}' twice, from {files}: load one of them.")
            found[name] = value
    return found


def providers(names: Mapping[str, str]) -> list[Plugin]:
    """Returns the plugins that declare one of {kind: name}, each once."""
    return [
        plugin
        for plugin in loaded_plugins()
        if any(name in plugin.declared(kind) for kind, name in names.items())
    ]


def is_of_plugin(value: object) -> bool:
    """Returns whether the class of a value is defined in a plugin."""
    return type(value).__module__.startswith(PREFIX)


def take_plugins(words: Sequence[str]) -> list[str]:
    """Loads what `--plugin FILE` names on a command line; returns the other words.

    Raises:
        ConfigError: see `load_plugin`.
    """
    rest, waiting = [], list(words)
    while waiting:
        word = waiting.pop(0)
        option, sign, file = word.partition("=")
        if option != OPTION:
            rest.append(word)
            continue
        if not sign and not waiting:
            raise ConfigError(f"{OPTION} needs a file: {OPTION} my_data.py.")
        load_plugin(Path(file if sign else waiting.pop(0)))
    return rest


def plugin_words() -> list[str]:
    """Returns the words by which another process loads the same plugins."""
    return [word for plugin in loaded_plugins() for word in (OPTION, str(plugin.origin))]


def _plugin(module: ModuleType) -> Plugin:
    facts = vars(module).get(FACTS)
    if facts is None:  # imported by its name, in a process that was sent something of it
        path = Path(str(module.__file__))
        content = path.read_bytes()
        facts = vars(module)[FACTS] = (path, hashlib.sha256(content).hexdigest(), content)
    origin, digest, content = facts
    return Plugin(origin, digest, content, module)


def _execute(name: str, origin: Path, content: bytes, digest: str) -> ModuleType:
    """Runs the file as a module of that name."""
    module = ModuleType(name)
    module.__file__ = str(origin)
    vars(module)[FACTS] = (origin, digest, content)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        exec(compile(content, str(origin), "exec"), vars(module))  # noqa: S102  (a user's own file)
    except Exception as error:
        del sys.modules[name]
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(origin)]
        place = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ConfigError(
            f"the plugin {origin} fails in line {place}: {type(error).__name__}: "
            f"{reason.rstrip('.')}."
        ) from error
    return module


def _check_names(plugin: Plugin) -> None:
    """Raises ConfigError if a plugin declares nothing, or a name that the project has itself."""
    declared = [kind for kind in KINDS if plugin.declared(kind)]
    if not declared:
        raise ConfigError(
            f"the plugin {plugin.origin} declares none of {', '.join(KINDS)}, each a dictionary "
            "{name: object}: see docs/extend.md."
        )
    for kind in declared:
        taken = plugin.declared(kind).keys() & _own_names(kind)
        if taken:
            raise ConfigError(
                f"the plugin {plugin.origin} declares {kind}['{min(taken)}'], which the project "
                "has itself: choose another name."
            )


def _own_names(kind: str) -> set[str]:
    names: set[str] = set()
    for place in KINDS[kind]:
        module, _, table = place.partition(":")
        try:
            names |= set(getattr(importlib.import_module(module), table))
        except ModuleNotFoundError as error:
            if error.name != module.partition(".")[0]:  # a job has no reports
                raise
    return names


def _make_importable(module: ModuleType, path: Path, content: bytes) -> None:
    """Lets processes that this one starts import the module, which what they are sent may need.

    They get this process's import path.
    """
    if path.stem == module.__name__:
        sys.path.append(str(path.parent))
        return
    folder = tempfile.TemporaryDirectory(prefix="simvtp-plugin-")  # deleted with the process
    Path(folder.name, f"{module.__name__}.py").write_bytes(content)
    vars(module)[COPY] = folder
    sys.path.append(folder.name)


def _require_own(path: Path) -> None:
    """Raises ConfigError if others could have written the code that a stored experiment names."""
    facts = path.stat()
    if facts.st_uid not in (os.getuid(), 0) or facts.st_mode & stat.S_IWOTH:
        raise ConfigError(
            f"the plugin {path} of a stored experiment belongs to another user or can be written "
            f"by everybody: look at it, then name it yourself by {OPTION}."
        )


@functools.cache
def _load_installed() -> None:
    """Loads the plugins of installed packages; a job has copies of those that it needs."""
    if (HOME / FROZEN).is_dir():
        return
    known = {plugin.origin for plugin in loaded_plugins()}
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        spec = importlib.util.find_spec(entry.module)
        if spec is None or not spec.origin:
            raise ConfigError(f"the plugin {entry.module} of {entry.name} cannot be found.")
        if Path(spec.origin).absolute() not in known:
            load_plugin(Path(spec.origin))
