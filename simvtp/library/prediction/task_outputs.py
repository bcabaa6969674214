"""Names of the outputs of a fine-tuned model: its answers, its classes, limits of its counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simvtp.config.experiment_config import Experiment
from simvtp.config.finetune_config import ActionTask, ChoiceTask, GroundingTask, QATask
from simvtp.data.annotations import open_annotations
from simvtp.errors import DataError, UserError
from simvtp.tasks.action import class_labels
from simvtp.tasks.qa import answer_vocabulary, count_limits, only_kind

Kind = Literal["open", "choice", "count", "captions", "action", "grounding"]


@dataclass(frozen=True)
class TaskOutputs:
    """Names of the outputs of a model.

    Attributes:
        kind: `open`, `choice` and `count` are the kinds of questions of finetune.task=qa.
        labels: answers (`open`) or classes (`action`), in the order of the outputs.
        limits: smallest and largest count (`count`).
    """

    kind: Kind
    labels: tuple[str, ...] = ()
    limits: tuple[int, int] | None = None


def outputs_of(experiment: Experiment) -> TaskOutputs:
    """Returns what the outputs of an experiment's fine-tuned model stand for.

    Answers and classes are read from the annotations of its data set.

    Raises:
        DataError: they are needed, and the data set is not on this machine.
        UserError: the task has no such outputs.
    """
    task, data = experiment.finetune.task, experiment.data
    if isinstance(task, ChoiceTask):
        return TaskOutputs("captions")
    if isinstance(task, GroundingTask):
        return TaskOutputs("grounding")
    try:
        if isinstance(task, ActionTask):
            records = open_annotations(data, experiment.runtime, "action")
            return TaskOutputs("action", class_labels(records))
        if isinstance(task, QATask):
            records = open_annotations(data, experiment.runtime, "qa", task.questions)
            kind = only_kind(records.questions)
            trained = [q for q in records.questions if q.split == "train"]
            if kind == "open":
                return TaskOutputs(kind, answer_vocabulary(trained, task.answers))
            if kind == "count":
                return TaskOutputs(kind, limits=count_limits(data.dataset, trained))
            return TaskOutputs(kind)
    except DataError as error:
        raise DataError(
            f"the names of the answers are those of data.dataset={data.dataset}, which is not "
            f"here: {error}"
        ) from error
    raise UserError(f"finetune.task={task.name} has no answers of its own.")
