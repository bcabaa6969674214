"""Search in place of a grid: settings that retrieve best, and their cost.

Question: which mask ratios, loss weights, learning rate and decoder size retrieve best, and what
does a good result cost?
Expected: nothing is known. A search of a few dozen points of the recipe `tiny` shows where to look,
not what is true: its points are single runs, and the best of many single runs is too good by
chance. Run the winner again with several seeds.

A search looks at the val split only: its objective is the val R@1 of the fine-tuning step that was
selected (on val as well). Its points are scored on the test split too, which must not be used to
choose.

Pruning saves fine-tuning only: a pruner compares the evaluations during fine-tuning, so every point
pays its whole pre-training. With two objectives nothing is pruned, because there is no order of
half-finished points.

Command: `python sweeps/search.py --trials 30`, `python sweeps/search.py --objectives quality,cost`.
Cost: `--trials` times a run of the recipe.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ablations.base_recipe import SMALL_GRID_RECIPES
from ablations.design import Point, dataset_name, sweep_id
from ablations.search_space import SearchParameter, default_space, joined, read_space
from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import replace_key
from simvtp.config.tree import flatten
from simvtp.config.validation import check
from simvtp.errors import ConfigError
from simvtp.resolve import finalise

STARTUP = 10  # random points before TPE begins


@dataclass(frozen=True)
class SearchObjective:
    """Metric that a search improves, as `simvtp.runs.scores.read_metric` names it."""

    metric: str
    label: str
    direction: Literal["maximize", "minimize"]


QUALITY = SearchObjective("val/t2v/R1", "val text-to-video R@1 (%)", "maximize")
GPU_HOURS = SearchObjective("cost/gpu_hours", "GPU-hours", "minimize")
CPU_HOURS = SearchObjective("cost/cpu_hours", "CPU-hours", "minimize")
OBJECTIVES = ("quality", "cost", "gpu_hours", "cpu_hours")
PRUNERS = ("none", "halving", "hyperband")
SAMPLERS = ("tpe", "random")


@dataclass(frozen=True)
class Search:
    """A search over settings.

    Attributes:
        space: the settings that are searched; no key twice.
        objectives: the first one is the quality that tables and progress lines show; a second one
            gives a Pareto front.
        trials: number of points to run. It is no part of the identity: asking for more continues
            the search.
        seed: of the sampler.
        seeds: one seed, of every experiment.
        startup: random points before TPE begins.
    """

    name: str
    title: str
    question: str
    base: Experiment
    space: tuple[SearchParameter, ...]
    objectives: tuple[SearchObjective, ...] = (QUALITY,)
    trials: int = 20
    seed: int = 0
    seeds: tuple[int, ...] = (0,)
    sampler: str = "tpe"
    pruner: str = "none"
    startup: int = STARTUP
    dataset: str = ""

    def __post_init__(self) -> None:
        keys = [parameter.key for parameter in self.space]
        if not keys or len(set(keys)) < len(keys):
            raise ConfigError("the space of a search names each setting once, and at least one.")
        known = flatten(self.base)
        for key in keys:
            if key not in known or key == "seed" or key.startswith("runtime.") or key == "name":
                replace_key(self.base, key, known.get(key))  # raises if there is no such setting
                raise ConfigError(
                    f"{key} cannot be searched: it does not change what is learnt, "
                    "or is drawn by the seed."
                )
        if self.sampler not in SAMPLERS or self.pruner not in PRUNERS:
            raise ConfigError(
                f"a search has one of the samplers {', '.join(SAMPLERS)} "
                f"and one of the pruners {', '.join(PRUNERS)}."
            )
        if len(self.seeds) != 1:
            raise ConfigError(
                "a search runs each point with one seed; "
                "run the best point again with several seeds afterwards."
            )
        if self.trials < 1 or self.startup < 1:
            raise ConfigError("a search needs at least one trial.")
        if len(self.objectives) not in (1, 2) or len(
            {objective.metric for objective in self.objectives}
        ) < len(self.objectives):
            raise ConfigError("a search has one objective, or two different ones.")
        self._check_protocol()

    def _check_protocol(self) -> None:
        finetune = self.base.finetune
        if not finetune.enabled or finetune.selection != "val":
            raise ConfigError(
                "a search compares results of the val split: it needs finetune.enabled=true and "
                "finetune.selection=val, so that the test split stays unseen."
            )
        if self.pruner != "none" and len(self.objectives) > 1:
            raise ConfigError(
                f"--pruner {self.pruner} needs one objective: "
                "with two there is no order by which to prune."
            )
        if self.pruner != "none" and finetune.evaluations < 2:
            raise ConfigError(
                f"--pruner {self.pruner} compares points while they are fine-tuned, but "
                f"finetune.evaluations={finetune.evaluations} scores only the end: "
                "make it 2 or more."
            )

    # ---- as an Ablation

    @property
    def metric(self) -> str:
        """Tracked name of the first objective."""
        return self.objectives[0].metric

    @property
    def metric_label(self) -> str:
        """Name of the first objective in tables."""
        return self.objectives[0].label

    @property
    def evaluations(self) -> int:
        """Number of evaluations of a point; the largest resource of a pruner."""
        return self.base.finetune.evaluations

    @cached_property
    def sweep_id(self) -> str:
        """Id of the search: the same on any machine and for any number of trials."""
        about = {
            "base": dataclasses.replace(self._base, seed=self.seeds[0]).fingerprint,
            "space": sorted(
                (parameter.plan() for parameter in self.space), key=lambda plan: str(plan["key"])
            ),
            "objectives": [dataclasses.asdict(objective) for objective in self.objectives],
            "sampler": self._sampler_plan(),
            "pruner": self._pruner_plan(),
        }
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        return sweep_id(self.name, [digest])

    def plan(self, points: Sequence[Point] = ()) -> dict[str, Any]:
        """Returns plan.json: everything that a report needs.

        Args:
            points: those that were proposed so far.
        """
        return {
            "kind": "search",
            "sweep_id": self.sweep_id,
            "ablation": self.name,
            "title": self.title,
            "question": self.question,
            "paper_says": "",
            "dataset": self.dataset or dataset_name(self.base),
            "recipe": self.base.name,
            "seeds": list(self.seeds),
            "metric": self.metric,
            "metric_label": self.metric_label,
            "published_optimum": None,
            "objectives": [dataclasses.asdict(objective) for objective in self.objectives],
            "space": [parameter.plan() for parameter in self.space],
            "sampler": self._sampler_plan(),
            "pruner": self._pruner_plan(),
            "trials": self.trials,
            "axes": [self._axis(parameter, points) for parameter in self.space],
            "points": [point.plan() for point in points],
        }

    def _axis(self, parameter: SearchParameter, points: Sequence[Point]) -> dict[str, Any]:
        values = _distinct(point.cell[parameter.key] for point in points)
        return {"key": parameter.key, "label": parameter.label, "values": values}

    def _sampler_plan(self) -> dict[str, Any]:
        return {"name": self.sampler, "seed": self.seed, "startup": self.startup}

    def _pruner_plan(self) -> dict[str, Any]:
        return {
            "name": self.pruner,
            "evaluations": self.evaluations if self.pruner != "none" else 0,
        }

    # ---- points

    @cached_property
    def _base(self) -> Experiment:
        return finalise(self.base)  # once: this reads the whole manifest

    @cached_property
    def _parameters(self) -> dict[str, SearchParameter]:
        return {parameter.key: parameter for parameter in self.space}

    def rounded(self, key: str, value: Any) -> Any:
        """Returns the nearest value of a setting that is proposed."""
        return self._parameters[key].rounded(value)

    def point(self, params: Mapping[str, Any]) -> Point:
        """Returns the point of these values, rounded.

        Raises:
            ConfigError: the values make no possible experiment (a width that no head divides).
        """
        if set(params) != set(self._parameters):
            raise ConfigError(
                f"a point of the search '{self.name}' has a value for each of "
                f"{', '.join(self._parameters)}."
            )
        cell = {key: parameter.rounded(params[key]) for key, parameter in self._parameters.items()}
        seed = self.seeds[0]
        experiment = dataclasses.replace(self._base, seed=seed)
        for key, value in cell.items():
            experiment = replace_key(experiment, key, value)
        if experiment.data == self._base.data:
            check(experiment)
        else:
            experiment = finalise(experiment)
        name = " ".join(
            f"{self._parameters[key].name} {_word(value)}" for key, value in cell.items()
        )
        return Point(cell, seed, experiment, name)

    def first(self) -> Point | None:
        """Returns the base itself as the first point; None if it is outside of the space."""
        known = flatten(self._base)
        values = {key: known[key] for key in self._parameters}
        if not all(self._parameters[key].contains(value) for key, value in values.items()):
            return None
        return self.point(values)


def build(
    base: Experiment,
    trials: int = 20,
    space: Sequence[str] | str = (),
    objectives: Sequence[str] | str = ("quality",),
    pruner: str = "none",
    sampler: str = "tpe",
    sampler_seed: int = 0,
    seeds: Sequence[int] = (0,),
) -> Search:
    """Makes the search over ratios, loss weights, learning rate and decoder size.

    Args:
        base: the experiment that every point changes.
        trials: number of points to run.
        space: changes of the default space, see `read_space`.
        objectives: quality, cost, gpu_hours, cpu_hours. `cost` means GPU-hours, or CPU-hours if the
            base is meant for a machine without GPU: the recipe `tiny`, or runtime.device=cpu.
        pruner: of `PRUNERS`.
        sampler: of `SAMPLERS`.
        sampler_seed: seed of the sampler.
        seeds: one seed, of every experiment.

    Raises:
        ConfigError: there is no such objective, or quality is not among them.
    """
    words = [word.strip() for word in joined(objectives).split(",") if word.strip()]
    for word in words:
        if word not in OBJECTIVES:
            raise ConfigError(
                f"there is no objective '{word}': choose from {', '.join(OBJECTIVES)}."
            )
    if "quality" not in words:
        raise ConfigError(
            "a search needs the objective quality: "
            "the cheapest settings alone are those that learn nothing."
        )
    words.sort(key=lambda word: word != "quality")  # tables and progress lines show the first
    cost = (
        CPU_HOURS if base.name in SMALL_GRID_RECIPES or base.runtime.device == "cpu" else GPU_HOURS
    )
    named = {"quality": QUALITY, "cost": cost, "gpu_hours": GPU_HOURS, "cpu_hours": CPU_HOURS}
    return Search(
        name="search",
        title="Search over masks, loss weights, learning rate and decoder",
        question="Which settings retrieve best on the val split, and what do they cost?",
        base=base,
        space=read_space(space, default_space(base), base),
        objectives=tuple(named[word] for word in words),
        trials=trials,
        seed=sampler_seed,
        seeds=tuple(seeds),
        sampler=sampler,
        pruner=pruner,
    )


def _distinct(values: Iterable[Any]) -> list[Any]:
    found = list(dict.fromkeys(values))
    return sorted(found) if all(isinstance(value, int | float) for value in found) else found


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
