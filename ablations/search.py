"""A search instead of a grid: which settings retrieve best, where nobody has a table in mind?

Question: which mask ratios, loss weights, learning rate and decoder size retrieve best, and what
does a good figure cost? Expected: no figure is known. A search of a few dozen points of the recipe
`tiny` says where to look, not what is true: the figures of its points are single runs, and the best
of many single runs is too good by chance. Run the winner again with several seeds.

A search looks at the val split only: its figure is the val R@1 of the fine-tuning step that was
selected (on val as well). The test figures of its points are measured too, and must not be used to
choose.

Pruning saves fine-tuning only: the figures that a pruner compares are those of the evaluations
during fine-tuning, so every point pays its whole pre-training. With two objectives nothing is
pruned (which of two half-finished points is worse has no answer).

Command: `python sweeps/search.py --trials 30`, `python sweeps/search.py --objectives quality,cost`.
Cost: `--trials` times a run of the recipe.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ablations.design import Point, dataset_name, sweep_id
from simvtp.config.experiment_config import Experiment
from simvtp.config.model_config import SimVTPConfig
from simvtp.config.overrides import replace_key
from simvtp.config.tree import flatten
from simvtp.config.validation import check
from simvtp.errors import ConfigError
from simvtp.resolve import finalise

# significant digits of a proposed number: names stay short, and 0.8312345 is not another experiment
# than 0.831
DIGITS = 3
STARTUP = 10  # random points before TPE begins
WEIGHTS = ("mvm", "mlm", "vtc", "vtm")


@dataclass(frozen=True)
class Parameter:
    """One setting that is searched: a range (`low` to `high`, both possible) or `choices`."""

    key: str
    label: str
    kind: Literal["float", "int", "choice"]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()
    short: str = ""

    def __post_init__(self) -> None:
        if self.kind == "choice":
            if not self.choices:
                raise ConfigError(
                    f"{self.key} has no choice: give at least one, such as {self.key}=2,4."
                )
        elif not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ConfigError(
                f"{self.key}={self.low:g}:{self.high:g}: a range goes from a lower to a higher number."
            )
        elif self.log and self.low <= 0:
            raise ConfigError(
                f"{self.key}={self.low:g}:{self.high:g}:log: a range with a logarithmic scale must begin above 0."
            )

    @property
    def name(self) -> str:
        return self.short or self.label

    @property
    def words(self) -> str:
        """The range for people: `0.3 to 0.95`, `32, 64 or 128`."""
        if self.kind == "choice":
            first, last = ", ".join(map(str, self.choices[:-1])), str(self.choices[-1])
            return f"{first} or {last}" if first else last
        return f"{self.low:g} to {self.high:g}{' (log scale)' if self.log else ''}"

    def rounded(self, value: Any) -> Any:
        """The nearest value that is proposed: a float of few digits inside the range, a whole
        number, one of the choices.
        """
        if self.kind == "choice":
            return value
        if self.kind == "int":
            return min(max(round(value), int(self.low)), int(self.high))
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def contains(self, value: Any) -> bool:
        if self.kind == "choice":
            return value in self.choices
        return self.low <= value <= self.high

    def plan(self) -> dict[str, Any]:
        words = ("key", "label", "kind", "low", "high", "log")
        return {word: getattr(self, word) for word in words} | {"choices": list(self.choices)}


@dataclass(frozen=True)
class Objective:
    """What a search wants more or less of. `metric` is what `simvtp.runs.scores.read_metric` knows."""

    metric: str
    label: str
    direction: Literal["maximize", "minimize"]


QUALITY = Objective("val/t2v/R1", "val text-to-video R@1 (%)", "maximize")
GPU_HOURS = Objective("cost/gpu_hours", "GPU-hours", "minimize")
CPU_HOURS = Objective("cost/cpu_hours", "CPU-hours", "minimize")
OBJECTIVES = ("quality", "cost", "gpu_hours", "cpu_hours")
PRUNERS = ("none", "halving", "hyperband")
SAMPLERS = ("tpe", "random")


@dataclass(frozen=True)
class Search:
    """A search over settings.

    Attributes: space: what is searched; no key twice. objectives: the first one is the quality that
        tables and progress lines show; a second one gives a Pareto front. trials: how many points
        to run in total. Not part of the identity: asking for more continues the search. seed: of
        the sampler. seeds: one seed, of every experiment. startup: random points before TPE begins.
    """

    name: str
    title: str
    question: str
    base: Experiment
    space: tuple[Parameter, ...]
    objectives: tuple[Objective, ...] = (QUALITY,)
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
                replace_key(self.base, key, known.get(key))  # says what the setting may have meant
                raise ConfigError(
                    f"{key} cannot be searched: it does not change what is learnt, or is drawn by the seed."
                )
        if self.sampler not in SAMPLERS or self.pruner not in PRUNERS:
            raise ConfigError(
                f"a search has one of the samplers {', '.join(SAMPLERS)} and one of the pruners {', '.join(PRUNERS)}."
            )
        if len(self.seeds) != 1:
            raise ConfigError(
                "a search runs each point with one seed; run the best point again with several seeds afterwards."
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
                "a search compares figures of the val split: it needs finetune.enabled=true and finetune.selection=val, "
                "so that the test split stays unseen."
            )
        if self.pruner != "none" and len(self.objectives) > 1:
            raise ConfigError(
                f"--pruner {self.pruner} needs one objective: with two there is no order by which to prune."
            )
        if self.pruner != "none" and finetune.evaluations < 2:
            raise ConfigError(
                f"--pruner {self.pruner} compares points while they are fine-tuned, but finetune.evaluations={finetune.evaluations} "
                "scores only the end: make it 2 or more."
            )

    # ---- what the engine uses of an Ablation

    @property
    def metric(self) -> str:
        return self.objectives[0].metric

    @property
    def metric_label(self) -> str:
        return self.objectives[0].label

    @property
    def evaluations(self) -> int:
        """How often a point is scored before it ends; the largest resource of a pruner."""
        return self.base.finetune.evaluations

    @cached_property
    def sweep_id(self) -> str:
        """The same search has the same id, on any machine, whatever its number of trials and
        whatever was proposed so far.
        """
        about = {
            "base": dataclasses.replace(self._base, seed=self.seeds[0]).fingerprint,
            "space": sorted(
                (parameter.plan() for parameter in self.space), key=lambda plan: str(plan["key"])
            ),
            "objectives": [dataclasses.asdict(objective) for objective in self.objectives],
            "sampler": self._sampler_plan(),
            "pruner": self._pruner_plan(),
        }
        return sweep_id(
            self.name, [hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()]
        )

    def plan(self, points: Sequence[Point] = ()) -> dict[str, Any]:
        """All that a report needs to know, as plain JSON values; `points` are those that were
        proposed so far.
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
            "axes": [
                {
                    "key": p.key,
                    "label": p.label,
                    "values": _distinct(point.cell[p.key] for point in points),
                }
                for p in self.space
            ],
            "points": [point.plan() for point in points],
        }

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
    def _parameters(self) -> dict[str, Parameter]:
        return {parameter.key: parameter for parameter in self.space}

    def rounded(self, key: str, value: Any) -> Any:
        return self._parameters[key].rounded(value)

    def point(self, params: Mapping[str, Any]) -> Point:
        """The point of these values, rounded. ConfigError if they make no possible experiment (a
        width that no head divides).
        """
        if set(params) != set(self._parameters):
            raise ConfigError(
                f"a point of the search '{self.name}' has a value for each of {', '.join(self._parameters)}."
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
        """The base itself, as the first point: what the search has to beat. None where the base
        lies outside of the space.
        """
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
    """The search over ratios, loss weights, learning rate and decoder size, with `space` changed by
    `read_space`.

    `cost` among the objectives means GPU-hours, and CPU-hours for a base that is meant for a
    machine without GPU: the recipe `tiny`, or runtime.device=cpu. `gpu_hours` and `cpu_hours` can
    be named as well."""
    words = [word.strip() for word in _joined(objectives).split(",") if word.strip()]
    for word in words:
        if word not in OBJECTIVES:
            raise ConfigError(
                f"there is no objective '{word}': choose from {', '.join(OBJECTIVES)}."
            )
    if "quality" not in words:
        raise ConfigError(
            "a search needs the objective quality: the cheapest settings alone are those that learn nothing."
        )
    words.sort(
        key=lambda word: word != "quality"
    )  # it comes first: tables and progress lines show it
    cost = CPU_HOURS if base.name == "tiny" or base.runtime.device == "cpu" else GPU_HOURS
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


def default_space(base: Experiment) -> tuple[Parameter, ...]:
    """What is searched if the user says nothing. Ranges around the base: learning rate 1/10 to 3
    times, decoder half to twice.

    Weights range around 1; leaving an objective out altogether is the question of the loss table,
    not of a search. What the base does not use is not searched: the weight of an objective that is
    off, a mask that hides nothing, the decoder without MVM."""
    lr = base.pretrain.base_lr
    found = [
        Parameter("masks.video_ratio", "video mask ratio", "float", 0.3, 0.95, short="video"),
        Parameter("masks.text_ratio", "text mask ratio", "float", 0.1, 0.9, short="text"),
        *(
            Parameter(
                f"losses.{name}", f"{name.upper()} weight", "float", 0.1, 4.0, log=True, short=name
            )
            for name in WEIGHTS
        ),
        Parameter(
            "pretrain.base_lr",
            "learning rate",
            "float",
            _digits(lr / 10),
            _digits(lr * 3),
            log=True,
            short="lr",
        ),
    ]
    if isinstance(base.model, SimVTPConfig) and "mvm" in base.losses.wanted:
        found += _decoder_space(base.model)
    known = flatten(base)
    return tuple(parameter for parameter in found if known.get(parameter.key))


def _decoder_space(model: SimVTPConfig) -> list[Parameter]:
    """Returns half to twice the decoder's depth and width.

    A width is divided evenly among the heads, and sine-cosine positions need pairs.
    """
    depth, width, step = model.decoder_depth, model.decoder_dim, 2 * model.decoder_heads
    widths = tuple(
        dict.fromkeys(max(step, round(width * factor / step) * step) for factor in (0.5, 1, 2))
    )
    return [
        Parameter("model.decoder_depth", "decoder depth", "int", 1, 2 * depth, short="depth"),
        Parameter("model.decoder_dim", "decoder width", "choice", choices=widths, short="width"),
    ]


def read_space(
    texts: Sequence[str] | str, space: Sequence[Parameter], base: Experiment
) -> tuple[Parameter, ...]:
    """`space` changed by `key=low:high[:log]`, `key=a,b,c` (choices) and `key=value` (fixed, out of
    the search), with commas between.

    A key that is not in `space` is added to it. ConfigError with one sentence for anything else.
    """
    found = {parameter.key: parameter for parameter in space}
    known = flatten(base)
    for key, values in _assignments(_joined(texts)).items():
        if key not in known:
            replace_key(base, key, "")  # says which setting may have been meant
        before = found.get(key, Parameter(key, key, "choice", choices=(known[key],)))
        found[key] = _parameter(before, values, base)
    return tuple(found.values())


def _assignments(text: str) -> dict[str, list[str]]:
    """`a=1:2,b=x,y` as {"a": ["1:2"], "b": ["x", "y"]}."""
    found: dict[str, list[str]] = {}
    key = ""
    for part in (part.strip() for part in text.split(",") if part.strip()):
        name, sign, value = part.partition("=")
        if sign:
            key = name.strip()
            found[key] = []
        if not key or not (value if sign else part).strip():
            raise ConfigError(f"--space {part}: write key=low:high, key=low:high:log or key=a,b,c.")
        found[key].append((value if sign else part).strip())
    return found


def _parameter(before: Parameter, values: list[str], base: Experiment) -> Parameter:
    key, label, short = before.key, before.label, before.short
    low, sign, rest = values[0].partition(":")
    if len(values) > 1 or not sign:
        typed = tuple(
            dict.fromkeys(flatten(replace_key(base, key, value))[key] for value in values)
        )
        return Parameter(key, label, "choice", choices=typed, short=short)
    high, _, scale = rest.partition(":")
    try:
        numbers = float(low), float(high)
    except ValueError:
        numbers = math.nan, math.nan
    whole = isinstance(flatten(base)[key], int)
    if (
        any(math.isnan(number) for number in numbers)
        or scale not in ("", "log")
        or not isinstance(flatten(base)[key], int | float)
    ):
        raise ConfigError(
            f"--space {key}={values[0]}: write {key}=low:high or {key}=low:high:log with two numbers."
        )
    return Parameter(
        key,
        label,
        "int" if whole else "float",
        numbers[0],
        numbers[1],
        log=scale == "log",
        short=short,
    )


def _joined(texts: Sequence[str] | str) -> str:
    return texts if isinstance(texts, str) else ",".join(texts)


def _distinct(values: Any) -> list[Any]:
    found = list(dict.fromkeys(values))
    return sorted(found) if all(isinstance(value, int | float) for value in found) else found


def _digits(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
