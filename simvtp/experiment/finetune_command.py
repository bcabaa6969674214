"""Builds the experiment of the command `finetune TASK --init`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from simvtp.config.data_config import MANIFEST_DATASETS
from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override, replace_key
from simvtp.config.recipes import RECIPES, get_recipe
from simvtp.errors import ConfigError
from simvtp.runs.rundir import load_experiment
from simvtp.tasks import task_opener


def downstream(
    task: str, init: str, *, recipe: str = "", data: str = "", overrides: Sequence[str] = ()
) -> Experiment:
    """Returns the experiment that fine-tunes the weights `init` on a task.

    Args:
        task: a name in simvtp/tasks.
        init: a run directory, whose settings are used for all but the fine-tuning; or weights, or
            `initial`.
        recipe: the recipe whose fine-tuning settings are used; empty: the recipe of that task with
            the same model, data and pre-training as the run, if there is one, else the run's own.
            Required where `init` is no run directory: then all settings are the recipe's.
        data: a manifest, a folder of shards, or the name of a data set; empty: that of the run or
            recipe.
        overrides: `key=value`, applied last.

    Raises ConfigError if the task, the recipe or a setting is not known.
    """
    task_opener(task)
    is_run = (Path(init).expanduser() / "experiment.json").is_file()
    if not is_run and not recipe:
        raise ConfigError(
            f"--init {init} is no run directory, so its settings are not known: "
            "name the recipe of its model with --recipe."
        )
    base = load_experiment(Path(init).expanduser()) if is_run else get_recipe(recipe)
    fitting = recipe or next(
        (
            name
            for name, build in RECIPES.items()
            if build().finetune.task.name == task and _same_start(build(), base)
        ),
        "",
    )
    tuning = get_recipe(fitting).finetune if fitting else base.finetune
    tuning = dataclasses.replace(tuning, enabled=True, init=init, init_digest="")
    experiment = dataclasses.replace(base, name=fitting or base.name, finetune=tuning)
    experiment = replace_key(experiment, "finetune.task", task)
    retrieves = experiment.finetune.ranks
    experiment = dataclasses.replace(
        experiment,
        evaluate=dataclasses.replace(
            base.evaluate,
            zero_shot=False,
            rerank=base.evaluate.rerank if retrieves else 0,  # this and the next: retrieval only
            dual_softmax=base.evaluate.dual_softmax and retrieves,
        ),
    )
    return override(experiment, [*_data_overrides(data), *overrides])


def _data_overrides(data: str) -> list[str]:
    """Returns the settings for `--data`: a manifest, a folder of shards, or a data set's name."""
    if not data:
        return []
    path = Path(data).expanduser()
    if path.is_file() or (path / "summary.json").is_file():
        return [f"data.dataset={MANIFEST_DATASETS[0]}", f"data.manifest={data}"]
    return [f"data.dataset={data}"]


def _same_start(one: Experiment, other: Experiment) -> bool:
    """Returns True if both have the same model and pre-training; the seed may differ."""

    def start(experiment: Experiment) -> tuple[object, ...]:
        return (
            experiment.model,
            experiment.masks,
            experiment.losses,
            experiment.pretrain,
            experiment.data.dataset,
            experiment.data.shapes,
        )

    return start(one) == start(other)
