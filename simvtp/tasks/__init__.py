"""Downstream tasks: what a pre-trained encoder is fine-tuned for and how that is measured. One file a task."""

from __future__ import annotations

from simvtp.errors import ConfigError
from simvtp.tasks.action import ActionRecognition
from simvtp.tasks.choice import CaptionChoice
from simvtp.tasks.grounding import Grounding
from simvtp.tasks.qa import QuestionAnswering
from simvtp.tasks.retrieval import Retrieval
from simvtp.tasks.task import Context, OpenTask, Task

__all__ = ["TASKS", "Context", "OpenTask", "Task", "open_task"]

TASKS: dict[str, OpenTask] = {
    "retrieval": Retrieval,
    "qa": QuestionAnswering,
    "choice": CaptionChoice,
    "action": ActionRecognition,
    "grounding": Grounding,
}


def open_task(name: str, context: Context) -> Task:
    """The task of that name on the experiment's data; ConfigError with the list if there is none."""
    if name not in TASKS:
        raise ConfigError(f"finetune.task={name}: there is no such task; choose one of {', '.join(TASKS)}.")
    return TASKS[name](context)
