"""Action recognition: one class for each video.

`finetune.task.probe` chooses a linear probe, an attentive probe or full fine-tuning; heads are
ours. `finetune.train.layer_decay` below 1 gives the early layers of a full fine-tuning lower rates
(`simvtp.training.optim`). `finetune.task.mixup` trains on mixtures of two clips
(`simvtp.data.loading.mixup`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from simvtp.config.finetune_config import ActionTask
from simvtp.config.model_config import SimVTPConfig
from simvtp.config.train_config import TrainConfig
from simvtp.config.tree import narrow
from simvtp.data.annotations import open_annotations
from simvtp.data.benchmarks.records import Benchmark
from simvtp.data.clips import Clip
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.text.tokenizer import TokenBatch
from simvtp.errors import DataError
from simvtp.evaluation.answers import UNKNOWN, answer_ranks, chance_top_k, prior_top_k, top_k
from simvtp.evaluation.examples.example_cards import Scored
from simvtp.evaluation.examples.predictions import Candidates, CandidateScores, Queries
from simvtp.evaluation.metrics import TIES
from simvtp.models.downstream.action_model import VideoClassifier
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.runs.results import Result
from simvtp.tasks.pair_scoring import score_texts
from simvtp.tasks.task import Context
from simvtp.tasks.task_objectives import Classification
from simvtp.training.objectives import Objective

VARIANTS = {"none": "full", "linear": "linear-probe", "attentive": "attentive-probe"}


class ActionRecognition:
    """Action recognition; classes are the data set's own, or those of its training split."""

    selection = "val/top1"

    def __init__(self, context: Context) -> None:
        self.context = context
        self.settings = narrow(context.experiment.finetune.task, ActionTask)
        experiment, tuning = context.experiment, context.experiment.finetune
        records = open_annotations(experiment.data, experiment.runtime, "action")
        self.videos = records.videos
        self.actions = {
            split: [a for a in records.actions if a.split == split]
            for split in ("train", "val", "test")
        }
        for split in ("train", tuning.selection, experiment.evaluate.split):
            if not self.actions[split]:
                raise DataError(
                    f"the {split} split of {context.dataset.name} has no video with a class."
                )
        self.labels = class_labels(records)
        self.number = {label: number for number, label in enumerate(self.labels)}
        self.samples = len(self.actions["train"])
        self.negatives: str = ""

    def build(self, unified: SimVTP) -> nn.Module:
        experiment, tuning = self.context.experiment, self.context.experiment.finetune
        return VideoClassifier.from_unified(
            unified,
            narrow(experiment.model, SimVTPConfig),
            len(self.labels),
            experiment.seed_of("finetune"),
            probe=self.settings.probe,
            drop_path=tuning.drop_path,
        )

    def objective(self) -> Objective:
        return Classification()

    def loader(self, settings: TrainConfig, stage: str) -> TrainLoader:
        actions = self.actions["train"]
        targets = self._targets("train")
        nothing = self.context.tokenizer.encode([""], 2)

        def annotate(numbers: Sequence[int], chosen: Sequence[int]) -> tuple[TokenBatch, Tensor]:
            rows = (
                part.expand(len(chosen), -1)
                for part in (nothing.input_ids, nothing.attention_mask, nothing.word_ids)
            )
            return TokenBatch(*rows), targets[list(chosen)]

        clips = [Clip(a.video, self.videos[a.video], ("",), "train") for a in actions]
        return self.context.train_loader(clips, settings, stage, annotate, classes=len(self.labels))

    def _targets(self, split: str) -> Tensor:
        return torch.tensor([self.number.get(a.label, UNKNOWN) for a in self.actions[split]])

    def score(self, model: nn.Module, split: str, setting: str, checkpoint: str) -> list[Scored]:
        """Returns top1 and top5; a clip's class scores are averaged over its views."""
        assert isinstance(model, VideoClassifier)
        actions, right = self.actions[split], self._targets(split)
        clips = [Clip(a.video, self.videos[a.video], ("",), split) for a in actions]
        nothing = self.context.tokenizer.encode([""] * len(actions), 2)
        logits = score_texts(
            self.context,
            model,
            lambda views, ids, mask: model.classify(views),
            clips,
            nothing,
            range(len(actions)),
            classifies=True,
        )
        ranks = answer_ranks(logits, right)
        variant = VARIANTS[self.settings.probe]
        result = Result(
            self.context.protocol(
                "action",
                split,
                setting,
                checkpoint,
                ties=TIES,
                variant=variant,
                classifies=True,
            ),
            top_k(ranks),
            chance_top_k(right, len(self.labels)),
            queries=len(actions),
            gallery=len(self.labels),
            ranks=tuple(ranks.tolist()),
            baselines={"prior": prior_top_k(self._targets("train"), right, len(self.labels))},
        )
        names = [a.video for a in actions]
        candidates = Candidates([self.labels] * len(names), right, [a.label for a in actions])
        queries = Queries(names, names, [""] * len(names))
        return [Scored(result, CandidateScores(queries, candidates, logits))]

    def select(self, results: Sequence[Result]) -> dict[str, float]:
        return {f"val/{name}": value for name, value in results[0].metrics.items()}


def class_labels(records: Benchmark) -> tuple[str, ...]:
    """Returns the names of the classes: the data set's own, or those of its training split."""
    return records.labels or tuple(
        sorted({action.label for action in records.actions if action.split == "train"})
    )
