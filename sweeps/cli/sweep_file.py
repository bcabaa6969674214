"""Sweeps from a file: `python sweeps/run.py my_sweep.yaml`.

    name: my_ratios                    # default: that of the file
    base: tiny_pair                    # a recipe, a file of settings, or a run directory
    settings: {finetune.enabled: false}
    axes:
      masks.video_ratio: [0.5, 0.75, 0.9]
      objectives:                      # a name for each group of settings
        MVM alone: {losses.mlm: 0, losses.vtc: 0, losses.vtm: 0}
        all: {}
    seeds: [0, 1, 2]
    options: {executor: slurm, partition: gpu}    # of the command line, without the dashes

With `ablation: NAME` in place of name and axes, the file holds a call of that ablation. The file
gives the beginning of the command line, so options after its name win.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations import all_ablations
from ablations.base_recipe import DEFAULT_RECIPE
from ablations.design import Ablation, Axis, Cell, null_arm
from ablations.headline import headline
from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import CHOOSERS
from simvtp.config.recipes import RECIPES
from simvtp.config.tree import flatten
from simvtp.errors import ConfigError
from simvtp.runs.sweep_plan import SWEEP_NAME
from simvtp.sources.experiment_source import experiment_of
from simvtp.sources.settings_file import apply, settings_of
from simvtp.sources.yaml_file import ENDINGS, YamlEntry, read_yaml
from sweeps.cli.sweep_parser import SweepScript, make_parser

OWN = ("name", "title", "question", "axes", "baseline", "no_pretraining")
ENTRIES = ("ablation", *OWN, "base", "settings", "seeds", "options")
AXIS = ("label", "short", "values")
ELSEWHERE = {"recipe": "base", "seeds": "seeds", "seed": "seeds"}
SWITCH = {"true": True, "false": False}


@dataclass(frozen=True)
class SweepFile:
    """Content of a file of a sweep.

    Attributes:
        path: the file.
        ablation: an ablation of the project that is called; empty: the file has axes of its own.
        name, title, question: as those of `Ablation`.
        base: what the experiment starts from, as `--recipe` takes it.
        settings: changes of the base.
        axes: the settings that vary.
        baseline: the cell that others are compared with; empty: the first.
        no_pretraining: True if the table has a row without pre-training.
        seeds: each cell is run once a seed; empty: the default of the command line.
        options: options of the command line.
    """

    path: Path
    ablation: str
    name: str
    title: str
    question: str
    base: str
    settings: Mapping[str, YamlEntry]
    axes: Mapping[str, YamlEntry]
    baseline: Mapping[str, YamlEntry] = field(default_factory=dict)
    no_pretraining: bool = False
    seeds: tuple[YamlEntry, ...] = ()
    options: Mapping[str, YamlEntry] = field(default_factory=dict)

    def build(self, base: Experiment, seeds: Sequence[int] = (0,), full: bool = False) -> Ablation:
        """Makes the grid of the file; `full` has no meaning for it.

        Raises:
            ConfigError: a setting of an axis is unknown or has no such value; with its line.
        """
        metric = headline(base)
        axes = tuple(_axis(base, key, entry) for key, entry in self.axes.items())
        made = Ablation(
            name=self.name,
            title=self.title,
            question=self.question,
            paper_says="",
            base=base,
            axes=axes,
            seeds=tuple(seeds),
            metric=metric.metric,
            metric_label=metric.label,
            baseline=self._baseline(base, axes),
            controls=null_arm(base) if self.no_pretraining else {},
        )
        if made.baseline not in made.cells():
            entry = next(iter(self.baseline.values()))
            raise entry.error(f"the baseline is no cell of the axes {', '.join(self.axes)}.")
        return made

    def _baseline(self, base: Experiment, axes: Sequence[Axis]) -> Cell:
        """Returns the cell of `baseline`; axes that it leaves out have their first value."""
        chosen: dict[str, Any] = {axis.key: axis.values[0] for axis in axes}
        for key, entry in self.baseline.items():
            if key not in chosen:
                raise entry.error(f"{key} is no axis: choose from {', '.join(chosen)}.")
            named = next(axis for axis in axes if axis.key == key).settings
            chosen[key] = entry.text(key) if named else _value_of(base, key, entry)
        return chosen


def script_of_file(path: Path, script_of: Callable[[str], SweepScript]) -> SweepScript:
    """Returns the script of a file; what the file says stands before its command line.

    Args:
        path: the file.
        script_of: returns the script of an ablation.

    Raises:
        ConfigError: an entry is unknown, is given twice or has no such value; with its line.
    """
    read = read_sweep(path)
    if read.ablation:
        script = script_of(read.ablation)
    else:
        read.build(apply(experiment_of(read.base), read.settings))  # its errors name lines
        text = f"{read.title}. {read.question}".strip()
        script = SweepScript(name=read.name, build=read.build, axes=(), description=text)
    return SweepScript(
        name=script.name,
        build=script.build,
        axes=script.axes,
        description=script.description,
        examples=script.examples,
        search=script.search,
        script=("run", str(path)),
        preset=tuple(_words(read, make_parser(script))),
    )


def read_sweep(path: Path) -> SweepFile:
    """Returns the content of a file. Raises ConfigError."""
    root = read_yaml(path)
    root.require_known("a file of a sweep", ENTRIES)
    entries = root.group("a file of a sweep")

    def text(key: str, default: str = "") -> str:
        return entries[key].text(key) if key in entries else default

    def group(key: str) -> Mapping[str, YamlEntry]:
        return entries[key].group(key) if key in entries else {}

    name = _name(path, entries)
    if not text("ablation") and not group("axes"):
        raise ConfigError(f"{path} compares nothing: give `axes`, or `ablation: NAME`.")
    switch = text("no_pretraining", "false").lower()
    if switch not in SWITCH:
        raise entries["no_pretraining"].error("no_pretraining is true or false.")
    base = text("base", DEFAULT_RECIPE)
    there = path.parent / Path(base).expanduser()
    is_path = base not in RECIPES and (base.endswith(ENDINGS) or there.exists())
    read = SweepFile(
        path=path,
        ablation=text("ablation"),
        name=name,
        title=text("title", name.replace("_", " ").capitalize()),
        question=text("question"),
        base=str(there) if is_path else base,
        settings=settings_of(group("settings")),
        axes=group("axes"),
        baseline=group("baseline"),
        no_pretraining=SWITCH[switch],
        seeds=entries["seeds"].items("seeds") if "seeds" in entries else (),
        options=group("options"),
    )
    apply(_base_of(read, entries), read.settings)
    return read


def _base_of(read: SweepFile, entries: Mapping[str, YamlEntry]) -> Experiment:
    try:
        return experiment_of(read.base)
    except ConfigError as error:
        if "base" not in entries or str(error).startswith(read.base):  # it names a file itself
            raise
        raise entries["base"].error(str(error)) from None


def _name(path: Path, entries: Mapping[str, YamlEntry]) -> str:
    """Returns the name of the sweep, by which reports and `status` find it."""
    if "ablation" in entries:
        called = entries["ablation"].text("ablation")
        own = [key for key in OWN if key in entries]
        if called not in all_ablations():
            known = ", ".join(all_ablations())
            raise entries["ablation"].error(f"there is no ablation '{called}': {known}.")
        if own:
            raise entries[own[0]].error(f"`{own[0]}` does not go with `ablation: {called}`.")
        return called
    entry = entries.get("name") or YamlEntry(path, 1, path.stem)
    name = entry.text("name")
    if not SWEEP_NAME.fullmatch(name):
        raise entry.error(f"name: '{name}' must be letters, digits, _ and -.")
    if name in all_ablations():
        raise entry.error(
            f"'{name}' is an ablation of the project: write `ablation: {name}` and its options to "
            "call it, or choose another name."
        )
    return name


def _axis(base: Experiment, key: str, entry: YamlEntry) -> Axis:
    """Returns an axis: a list of values, that list with a label, or named groups of settings."""
    label = short = ""
    if isinstance(entry.content, Mapping):
        if "values" not in entry.content:
            return _named_axis(base, key, entry)
        entry.require_known(f"the axis {key}", AXIS)
        texts = {name: entry.content[name].text(name) for name in AXIS[:2] if name in entry.content}
        label, short = texts.get("label", ""), texts.get("short", "")
        entry = entry.content["values"]
    values = tuple(_value_of(base, key, item) for item in entry.items(f"the axis {key}"))
    plain = key.rpartition(".")[2].replace("_", " ")
    return Axis(key, label or plain, tuple(dict.fromkeys(values)), short=short)


def _named_axis(base: Experiment, key: str, entry: YamlEntry) -> Axis:
    cells: dict[str, dict[str, str]] = {}
    for name, cell in entry.group(key).items():
        settings = settings_of(cell.group(f"the cell {name}"))
        apply(base, settings)  # its errors name lines
        cells[name] = {setting: value.text(setting) for setting, value in settings.items()}
    return Axis(key, key.replace("_", " "), tuple(cells), settings=cells)


def _value_of(base: Experiment, key: str, entry: YamlEntry) -> Any:
    """Returns the value of a setting as the setting's type reads it."""
    return flatten(apply(base, {CHOOSERS.get(key, key): entry}))[CHOOSERS.get(key, key)]


# ---- the command line of a file ------------------------------------------------------------------


def _words(read: SweepFile, parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yields the file as the words of a command line."""
    actions = {
        option.lstrip("-"): (option, action)
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and action.dest != "help"
    }
    yield from ("--recipe", read.base)
    seeds = "seeds" if "seeds" in actions else "seed"
    if read.seeds:
        yield _checked(*actions[seeds], read.seeds[0], [item.text(seeds) for item in read.seeds])
    for name, entry in read.options.items():
        if name in ELSEWHERE:
            raise entry.error(f"{name} is no option here: write `{ELSEWHERE[name]}` above.")
        YamlEntry(entry.path, entry.line, {name: entry}).require_known("options", actions)
        option, action = actions[name]
        if action.nargs == 0:
            if entry.text(name).lower() not in SWITCH:
                raise entry.error(f"{name} is true or false.")
            if SWITCH[entry.text(name).lower()]:
                yield option
            continue
        texts = [item.text(name) for item in entry.items(name)]
        if isinstance(action, argparse._AppendAction):
            yield from (_checked(option, action, entry, [text]) for text in texts)
        else:
            yield _checked(option, action, entry, texts)
    for key, entry in read.settings.items():
        yield f"{key}={entry.text(key)}"


def _checked(option: str, action: argparse.Action, entry: YamlEntry, texts: Sequence[str]) -> str:
    """Returns `--option=value` if the option takes the value, with commas between several."""
    text = ",".join(texts)
    read: Any = action.type or str
    try:
        value = read(text)
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise entry.error(f"{option.lstrip('-')}: {error}.") from None
    if action.choices is not None and value not in action.choices:
        known = ", ".join(map(str, action.choices))
        raise entry.error(f"{option.lstrip('-')} is one of {known}, not {text}.")
    return f"{option}={text}"
