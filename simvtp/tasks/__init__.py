"""Downstream tasks: what a pre-trained encoder is fine-tuned for and how that is measured. One file
a task.
"""

from __future__ import annotations

from simvtp.errors import ConfigError
from simvtp.methods import METHODS, method_of
from simvtp.tasks.action import ActionRecognition
from simvtp.tasks.choice import CaptionChoice
from simvtp.tasks.grounding import Grounding
from simvtp.tasks.imagetext import ImageText, holds_images
from simvtp.tasks.published_choice import SimilarityChoice, is_published
from simvtp.tasks.qa import QuestionAnswering
from simvtp.tasks.retrieval import Retrieval
from simvtp.tasks.task import Context, OpenTask, Task

__all__ = ["TASKS", "Context", "OpenTask", "Task", "open_retrieval", "open_task", "open_zero_shot"]


def open_retrieval(context: Context) -> Retrieval:
    """Retrieval as the data set has it: clips and captions, pictures and captions, or published
    choices by similarity.
    """
    name = context.experiment.data.dataset
    return (
        ImageText(context)
        if holds_images(name)
        else SimilarityChoice(context)
        if is_published(name)
        else Retrieval(context)
    )


def open_zero_shot(context: Context) -> Retrieval:
    """What the pre-trained model is tested on before any fine-tuning: retrieval as above; with
    finetune.task=imagetext, pictures.
    """
    name, tuning = context.experiment.data.dataset, context.experiment.finetune
    if is_published(name):
        return SimilarityChoice(context, trains=False)
    return (
        ImageText(context)
        if tuning.enabled and tuning.task == "imagetext"
        else open_retrieval(context)
    )


TASKS: dict[str, OpenTask] = {
    "retrieval": open_retrieval,
    "qa": QuestionAnswering,
    "choice": CaptionChoice,
    "action": ActionRecognition,
    "grounding": Grounding,
    "imagetext": ImageText,
}


FEATURES_ONLY = (
    "retrieval",
    "imagetext",
)  # tasks that work with any method; the others fine-tune a pair encoder


def open_task(name: str, context: Context) -> Task:
    """The task of that name on the experiment's data; ConfigError with the list if there is none."""
    if name not in TASKS:
        raise ConfigError(
            f"finetune.task={name}: there is no such task; choose one of {', '.join(TASKS)}."
        )
    method = context.experiment.model.method
    if name not in FEATURES_ONLY and not method_of(context.experiment.model).pair:
        able = ", ".join(other for other in METHODS if METHODS[other].pair)
        raise ConfigError(
            f"finetune.task={name} needs a pair encoder, which model.method={method} does not have: "
            f"choose a method that has one ({able}), or finetune.task=retrieval."
        )
    return TASKS[name](context)
