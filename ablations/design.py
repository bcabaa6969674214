"""Ablations: a base experiment, axes and seeds, expanded to experiments without repeats.

Nothing is run here. The same `Ablation` is used by `sweeps` (which runs its points) and, through
`plan()`, by `reports` (which lays out the table and knows which cells are missing).
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from simvtp.config.data_config import MANIFEST_DATASETS
from simvtp.config.experiment_config import Experiment
from simvtp.config.finetune_config import INITIAL
from simvtp.config.overrides import CHOOSERS, replace_keys
from simvtp.config.tree import flatten
from simvtp.config.validation import check
from simvtp.errors import ConfigError
from simvtp.resolve import finalise

Cell = Mapping[str, Any]  # {"masks.video_ratio": 0.9, "masks.text_ratio": 0.75}
NO_PRETRAINING = "no pre-training"


@dataclass(frozen=True)
class Axis:
    """A setting that is varied, or several at a time.

    Attributes:
        key: the setting; for an axis with `settings` any name.
        values: of the setting; for an axis with `settings` the names of the bundles. A cell holds
            the value or the name.
        short: name in progress lines ("video" for "video mask ratio").
        settings: the settings of each name: {"MVM+MLM": {"losses.vtc": 0, "losses.vtm": 0}}; empty:
            a value is one of `key`.
    """

    key: str
    label: str
    values: tuple[Any, ...]
    short: str = ""
    settings: Mapping[Any, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name in progress lines."""
        return self.short or self.label

    @property
    def keys(self) -> tuple[str, ...]:
        """The settings that this axis changes; a user cannot give them by `key=value` as well."""
        return tuple(dict.fromkeys(key for value in self.values for key in self.settings_of(value)))

    def settings_of(self, value: Any) -> Mapping[str, Any]:
        """Returns the settings that a value stands for."""
        return self.settings[value] if self.settings else {self.key: value}


@dataclass(frozen=True)
class Point:
    """One cell of the table with one seed: exactly one experiment."""

    cell: Cell
    seed: int
    experiment: Experiment
    name: str

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the experiment."""
        return self.experiment.fingerprint

    @property
    def run_dir(self) -> Path:
        """Directory of its run."""
        return Path(self.experiment.runtime.root) / self.fingerprint[:12]

    def plan(self) -> dict[str, Any]:
        """Returns the entry of the point in plan.json."""
        return {
            "name": self.name,
            "cell": dict(self.cell),
            "seed": self.seed,
            "fingerprint": self.fingerprint,
            "cell_fingerprint": self.experiment.cell_fingerprint,
        }


@dataclass(frozen=True)
class Ablation:
    """A comparison of experiments.

    Attributes:
        name: short name, the first part of the sweep id and the argument of the report.
        title, question, paper_says: text above the table of the report.
        base: the experiment that every point starts from.
        axes: the settings that are varied; the points are their product.
        seeds: each cell is run once per seed.
        metric: tracked name of the metric of the table, `<Result.key>/<metric>`, for example
            `test/finetuned/t2v/R1`.
        metric_label: name of the metric in the table.
        published_optimum: the cell that the paper found best, or None.
        baseline: the cell that the report compares the others with; None, or not in the grid: the
            published optimum, else the first cell.
        extra_points: cells outside the product, with a value for each axis.
        controls: rows outside the grid, such as no pre-training: {name: settings}. In the cell of a
            control the first axis has its name and the others None.
        dataset: name of the data in the report; empty: that of the base experiment.
    """

    name: str
    title: str
    question: str
    paper_says: str
    base: Experiment
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    metric: str
    metric_label: str
    published_optimum: Cell | None = None
    baseline: Cell | None = None
    extra_points: tuple[Cell, ...] = ()
    controls: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    dataset: str = ""

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ConfigError(f"the ablation '{self.name}' has no seed: give at least one.")
        for axis in self.axes:
            if not axis.values:
                raise ConfigError(
                    f"the axis {axis.key} of the ablation '{self.name}' has no value: "
                    "give at least one."
                )
        keys = {axis.key for axis in self.axes}
        for cell in self.extra_points:
            if set(cell) != keys:
                raise ConfigError(
                    f"the extra point {dict(cell)} of the ablation '{self.name}' must give "
                    f"a value for each of {sorted(keys)}."
                )
        for axis in (axis for axis in self.axes if axis.settings):
            for value in (*axis.values, *(cell[axis.key] for cell in self.extra_points)):
                if value not in axis.settings:
                    raise ConfigError(
                        f"the axis {axis.key} of the ablation '{self.name}' has no settings "
                        f"for its value '{value}'."
                    )

    def cells(self) -> tuple[dict[str, Any], ...]:
        """Returns the product of the axes, the extra points and the controls, without repeats."""
        keys = [axis.key for axis in self.axes]
        product = itertools.product(*(axis.values for axis in self.axes))
        extra = (tuple(cell[key] for key in keys) for cell in self.extra_points)
        others = (None,) * (len(keys) - 1)
        controls = ((name, *others) for name in self.controls)
        once = dict.fromkeys((*product, *extra, *controls))
        return tuple(dict(zip(keys, values, strict=True)) for values in once)

    def points(self) -> tuple[Point, ...]:
        """Returns all points by seed, then by cell: a table with one seed is complete early.

        Points that are the same experiment (equal fingerprints) are listed once. The base must be
        possible by itself.

        Raises:
            ConfigError: a combination cannot be run; the message names the point.
        """
        return self._points

    @cached_property
    def _points(self) -> tuple[Point, ...]:
        base = finalise(self.base)  # once: this reads the whole manifest
        found: dict[str, Point] = {}
        for seed, cell in itertools.product(dict.fromkeys(self.seeds), self.cells()):
            point = self._point(base, cell, seed)
            found.setdefault(point.fingerprint, point)
        return tuple(found.values())

    def _point(self, base: Experiment, cell: Cell, seed: int) -> Point:
        name = self.point_name(cell, seed)
        try:
            changes = self._settings(cell)
            experiment = replace_keys(dataclasses.replace(base, seed=seed), changes)
            if experiment.data == base.data:
                check(experiment)
            else:
                experiment = finalise(experiment)
        except ConfigError as error:
            raise ConfigError(
                f"the point '{name}' of the ablation '{self.name}' is impossible: {error}"
            ) from None
        resolved = flatten(experiment)
        control = self._control(cell) is not None
        shown = {
            axis.key: cell[axis.key]
            if control or axis.settings
            else resolved[CHOOSERS.get(axis.key, axis.key)]
            for axis in self.axes
        }
        return Point(shown, seed, experiment, name)

    def _control(self, cell: Cell) -> str | None:
        """Returns the name of the control that a cell is; None for a cell of the grid."""
        first = cell[self.axes[0].key]
        return first if isinstance(first, str) and first in self.controls else None

    def _settings(self, cell: Cell) -> dict[str, Any]:
        control = self._control(cell)
        if control is not None:
            return dict(self.controls[control])
        changes: dict[str, Any] = {}
        for axis in self.axes:
            changes |= axis.settings_of(cell[axis.key])
        return changes

    @property
    def varied_keys(self) -> frozenset[str]:
        """Settings that a user cannot give by `key=value`, because the cells differ in them."""
        ours = {key for settings in self.controls.values() for key in settings}
        return frozenset(ours.union(*((axis.key, *axis.keys) for axis in self.axes)))

    def point_name(self, cell: Cell, seed: int) -> str:
        """Returns `video 0.90 text 0.75`, with the seed if there are several."""
        control = self._control(cell)
        parts = [f"{axis.name} {_number(cell[axis.key])}" for axis in self.axes]
        parts = parts if control is None else [control]
        return " ".join(parts + ([f"seed {seed}"] if len(self.seeds) > 1 else []))

    @cached_property
    def sweep_id(self) -> str:
        """Id of the grid, the same on any machine: running the grid again continues the sweep."""
        return sweep_id(self.name, [point.fingerprint for point in self.points()])

    def plan(self) -> dict[str, Any]:
        """Returns plan.json: everything that a report needs of the grid."""
        optimum = self.published_optimum
        return {
            "sweep_id": self.sweep_id,
            "ablation": self.name,
            "title": self.title,
            "question": self.question,
            "paper_says": self.paper_says,
            "dataset": self.dataset or dataset_name(self.base),
            "recipe": self.base.name,
            "axes": [
                {"key": axis.key, "label": axis.label, "values": list(axis.values)}
                for axis in self.axes
            ],
            "controls": list(self.controls),
            "seeds": list(dict.fromkeys(self.seeds)),
            "metric": self.metric,
            "metric_label": self.metric_label,
            "published_optimum": dict(optimum) if optimum else None,
            "baseline": dict(self.baseline) if self.baseline in self.cells() else None,
            "points": [point.plan() for point in self.points()],
        }


def sweep_id(name: str, fingerprints: Sequence[str]) -> str:
    """Returns `<ablation>-<8 hex digits>` of the set of fingerprints, whatever their order."""
    digest = hashlib.sha256(" ".join(sorted(set(fingerprints))).encode()).hexdigest()
    return f"{name}-{digest[:8]}"


def dataset_name(experiment: Experiment) -> str:
    """Returns the name of the data in the protocol of results, the same on every machine.

    It is `shapes`, or the manifest's file name without its ending.
    """
    data = experiment.data
    return Path(data.manifest).stem if data.dataset in MANIFEST_DATASETS else data.dataset


def null_arm(base: Experiment) -> dict[str, dict[str, Any]]:
    """Returns the control `no pre-training`: the initial weights, fine-tuned as every cell is.

    Without fine-tuning, or with a re-ranking by a matching head that initial weights lack, there is
    no such arm.
    """
    if not base.finetune.enabled or base.evaluate.rerank:
        return {}
    return {NO_PRETRAINING: {"finetune.init": INITIAL}}


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) and round(value, 2) == value else str(value)
