"""Downstream tasks: fine-tuning and evaluation of a pre-trained encoder, one file a task."""

from __future__ import annotations

from simvtp.config.finetune_config import ImageTextTask, RankingTask
from simvtp.errors import ConfigError
from simvtp.methods import METHODS, method_of
from simvtp.plugins import extensions
from simvtp.tasks.action import ActionRecognition
from simvtp.tasks.choice import CaptionChoice
from simvtp.tasks.grounding import Grounding
from simvtp.tasks.imagetext import ImageText, holds_images
from simvtp.tasks.published_choice import SimilarityChoice, is_published
from simvtp.tasks.qa import QuestionAnswering
from simvtp.tasks.retrieval import Retrieval
from simvtp.tasks.task import Context, OpenTask, Task

__all__ = [
    "TASKS",
    "Context",
    "OpenTask",
    "Task",
    "open_retrieval",
    "open_task",
    "open_zero_shot",
    "task_opener",
]


def open_retrieval(context: Context) -> Retrieval:
    """Returns retrieval as the data set has it.

    That is clips and captions, pictures and captions, or published choices by similarity.
    """
    name = context.experiment.data.dataset
    if holds_images(name):
        return ImageText(context)
    return SimilarityChoice(context) if is_published(name) else Retrieval(context)


def open_zero_shot(context: Context) -> Retrieval:
    """Returns the test of the pre-trained model before any fine-tuning.

    It is retrieval as in `open_retrieval`; with finetune.task=imagetext, of pictures.
    """
    name, tuning = context.experiment.data.dataset, context.experiment.finetune
    if is_published(name):
        return SimilarityChoice(context, trains=False)
    if tuning.enabled and isinstance(tuning.task, ImageTextTask):
        return ImageText(context)
    return open_retrieval(context)


TASKS: dict[str, OpenTask] = {
    "retrieval": open_retrieval,
    "qa": QuestionAnswering,
    "choice": CaptionChoice,
    "action": ActionRecognition,
    "grounding": Grounding,
    "imagetext": ImageText,
}


def open_task(context: Context) -> Task:
    """Returns the task of `finetune.task` on the experiment's data.

    Raises:
        ConfigError: the method has no pair encoder, but the task needs one.
    """
    task = context.experiment.finetune.task
    name, method = task.name, context.experiment.model.method
    if not isinstance(task, RankingTask) and not method_of(context.experiment.model).pair:
        able = ", ".join(other for other in METHODS if METHODS[other].pair)
        raise ConfigError(
            f"finetune.task={name} needs a pair encoder, which model.method={method} does not "
            f"have: choose a method that has one ({able}), or finetune.task=retrieval."
        )
    return task_opener(name)(context)


def task_opener(name: str) -> OpenTask:
    """Returns what opens the task of that name; raises ConfigError if there is none."""
    if name in TASKS:
        return TASKS[name]
    known: dict[str, OpenTask] = {**TASKS, **extensions("TASKS")}
    if name not in known:
        raise ConfigError(f"there is no task '{name}': choose from {', '.join(known)}.")
    return known[name]
