"""The metric that the cells of an ablation are compared by: that of the fine-tuned task.

Names are those of the tasks (`Result.key`), written out here because the tasks need torch.
"""

from __future__ import annotations

from typing import NamedTuple

from simvtp.config.experiment_config import Experiment
from simvtp.config.finetune_config import (
    ActionTask,
    ChoiceTask,
    GroundingTask,
    ImageTextTask,
    QATask,
)
from simvtp.runs.metric_names import result_key

QUESTIONS = {"open": "open-ended", "choice": "multiple-choice", "count": "count"}
PROBES = {"none": "full", "linear": "linear-probe", "attentive": "attentive-probe"}
SUPPRESSION = "NMS 0.5"


class Headline(NamedTuple):
    """A metric with its name for people.

    Attributes:
        metric: tracked name, `test/finetuned/qa/open-ended/accuracy`.
        label: name in tables, `accuracy of the answers (%)`.
    """

    metric: str
    label: str


def headline(experiment: Experiment) -> Headline:
    """Returns the metric of the finished experiment's task; without fine-tuning zero-shot R@1.

    Of a benchmark, `finetune.task` must name the questions that the benchmark asks.
    """
    tuning, split = experiment.finetune, experiment.evaluate.split
    if not tuning.enabled:
        return Headline(f"{split}/zero-shot/t2v/R1", "text-to-video R@1 (%)")
    setting = "finetuned-selected-on-test" if tuning.selection == "test" else "finetuned"
    last, metric, label = _of_task(experiment)
    return Headline(f"{result_key(split, setting, *last)}/{metric}", label)


def _of_task(experiment: Experiment) -> tuple[tuple[str, ...], str, str]:
    """Returns direction, or task and variant; the metric; its name for people."""
    task = experiment.finetune.task
    match task:
        case QATask():
            return ("qa", QUESTIONS[task.questions]), "accuracy", "accuracy of the answers (%)"
        case ChoiceTask():
            variant = f"{task.candidates} captions"
            return ("choice", variant), "accuracy", "accuracy of the choice (%)"
        case GroundingTask():
            spans = SUPPRESSION if task.spans == "nms" else task.spans
            return ("grounding", spans), "mIoU", "mean IoU of the spans (%)"
        case ActionTask():
            return ("action", PROBES[task.probe]), "top1", "top-1 accuracy of the action (%)"
        case ImageTextTask():
            return ("t2i",), "R1", "text-to-image R@1 (%)"
    return ("t2v",), "R1", "text-to-video R@1 (%)"
