"""Interface between experiments and downstream tasks.

A task is opened on the data of an experiment and then knows what it trains and tests on. The
training loop stays the same: a task gives it a model, an objective and a loader, and gives the
experiment the scores. A model is called as model(batch, None) and names its outputs; what is to be
predicted travels in `Batch.targets`, and the model hands it on as `outputs["targets"]`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from simvtp.config.experiment_config import Experiment
from simvtp.config.finetune_config import ActionTask
from simvtp.config.train_config import TrainConfig
from simvtp.data.clips import Clip
from simvtp.data.datasets import Dataset
from simvtp.data.loading.augment import Augment
from simvtp.data.loading.mixup import MixingLoader
from simvtp.data.loading.train_loader import Annotate, TrainLoader
from simvtp.data.loading.view_loader import ViewLoader
from simvtp.data.progress import CancelCheck, LogFn, never_cancelled
from simvtp.data.text.tokenizer import Tokenizer
from simvtp.data.video.video_reader import Reader
from simvtp.evaluation.eval_mode import evaluating
from simvtp.evaluation.examples.example_cards import Scored
from simvtp.runs.results import Protocol as Measured
from simvtp.runs.results import Result
from simvtp.training.objectives import Objective
from simvtp.training.parallel.kept_parts import KeptParts
from simvtp.training.parallel.shares import over_ranks, whole_batches

Item = TypeVar("Item")
Part = TypeVar("Part")


def _unguarded(items: Iterator[Any]) -> Iterator[Any]:
    return items


@dataclass(frozen=True)
class Context:
    """Settings and data that a task is opened with, and the ways to load them.

    Attributes:
        experiment: resolved settings (`model.vocab_size` is the tokenizer's).
        blind: the video is hidden from the model (by `finetune.task.blind`, or because this is the
            text-only baseline).
        until_stopped: passes items on and raises Stopped once that was asked for; wrap what an
            evaluation loops over.
        reader: decoder of views to use in place of `data.reader`.
        kept: parts of the evaluation in progress, see `Context.over_ranks`.
    """

    experiment: Experiment
    dataset: Dataset
    tokenizer: Tokenizer
    device: torch.device
    rank: int = 0
    world: int = 1
    blind: bool = False
    say: LogFn = field(default=print)
    check: CancelCheck = never_cancelled
    until_stopped: Callable[[Iterator[Any]], Iterator[Any]] = _unguarded
    reader: Reader | None = None
    kept: KeptParts = field(default_factory=KeptParts)

    def train_loader(
        self,
        clips: Sequence[Clip],
        settings: TrainConfig,
        stage: str,
        annotate: Annotate | None = None,
        classes: int = 0,
    ) -> TrainLoader:
        """Returns training batches of `clips`, with fine-tuning's crop, flip and augmentation.

        Args:
            clips: one sample each; a clip with two questions is listed twice.
            annotate: texts and targets of the samples; without it, texts are captions and there are
                no targets.
            classes: number of classes, of a task whose targets are classes; then clips and classes
                are mixed if `finetune.task.mixup` says so.
        """
        experiment, tuning = self.experiment, self.experiment.finetune
        alpha = tuning.task.mixup if isinstance(tuning.task, ActionTask) else 0.0
        make = (
            partial(MixingLoader, alpha=alpha, classes=classes)
            if classes and alpha
            else TrainLoader
        )
        return make(
            clips,
            self.tokenizer,
            data=experiment.data,
            model=experiment.model,
            runtime=experiment.runtime,
            batch_size=settings.batch_size,
            seed=experiment.seed_of("finetune"),
            rank=self.rank,
            world=self.world,
            train_crop=tuning.train_crop,
            crop_area=tuning.crop_area,
            flip=tuning.flip,
            augment=Augment(
                tuning.rand_augment,
                tuning.rand_magnitude,
                tuning.rand_spread,
                tuning.random_erasing,
            ),
            stage=stage,
            say=self.say,
            check=self.check,
            annotate=annotate,
        )

    def resampled(self, frames: int, stride: int) -> Context:
        """Returns a context whose samples have another length and stride, and one window in time.

        Args:
            stride: may also be `STILL` or `WHOLE_VIDEO`.
        """
        experiment = self.experiment
        return replace(
            self,
            experiment=replace(
                experiment,
                model=replace(experiment.model, frames=frames),
                data=replace(experiment.data, stride=stride),
                evaluate=replace(experiment.evaluate, segments=1),
            ),
        )

    def view_loader(self, clips: Sequence[Clip], part: range | None = None) -> ViewLoader:
        """Returns all views of `clips` (segments x crops of the experiment's evaluation).

        Args:
            part: numbers of the clips to give; None: of all.
        """
        experiment, settings = self.experiment, self.experiment.evaluate
        return ViewLoader(
            clips,
            data=experiment.data,
            model=experiment.model,
            runtime=experiment.runtime,
            segments=settings.segments,
            crops=settings.crops,
            batch_size=settings.batch_size,
            part=part,
            reader=self.reader,
            say=self.say,
            check=self.check,
        )

    @contextlib.contextmanager
    def scoring(self, model: nn.Module) -> Iterator[None]:
        """Puts the model into evaluation mode inside the block, in `evaluate.precision`."""
        half = self.experiment.evaluate.precision == "bf16"
        with evaluating(model), torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            yield

    def over_ranks(self, count: int, unit: int, work: Callable[[range], Part]) -> list[Part]:
        """Returns `shares.over_ranks` of the work, of which a killed evaluation keeps its parts."""
        return over_ranks(count, unit, work, self.kept)

    @property
    def clips_in_whole_batches(self) -> int:
        """Smallest number of clips whose views fill whole batches of an evaluation."""
        settings = self.experiment.evaluate
        return whole_batches(settings.batch_size, settings.segments * settings.crops)

    def protocol(
        self,
        task: str,
        split: str,
        setting: str,
        checkpoint: str,
        *,
        ties: str,
        direction: str = "",
        variant: str = "",
        classifies: bool = False,
    ) -> Measured:
        """Returns the protocol of a figure that is measured with this experiment's views.

        `classifies`: the views are merged by `evaluate.view_merging`.
        """
        experiment, settings = self.experiment, self.experiment.evaluate
        merges = classifies and settings.segments * settings.crops > 1
        return Measured(
            task=task,
            dataset=self.dataset.name,
            split=split,
            setting=setting,
            direction=direction,
            frames=experiment.model.frames,
            segments=settings.segments,
            crops=settings.crops,
            ties=ties,
            seed=experiment.seed,
            checkpoint=checkpoint,
            variant=variant,
            merging=settings.view_merging if merges else "",
            precision=settings.precision if settings.precision != "fp32" else "",
        )


class Task(Protocol):
    """A task on the data of one experiment.

    Attributes:
        selection: the metric of `select` by which fine-tuning chooses its weights; larger is
            better, its name begins with `val/`.
        samples: training samples in an epoch.
        negatives: `global` or `local` if the loss contrasts the samples of a batch, else empty.
    """

    selection: str
    samples: int
    negatives: str

    def build(self, unified: Any) -> nn.Module:
        """Returns the model to train.

        Args:
            unified: the pre-trained model (a `SimVTP`, unless `FEATURES_ONLY` names the task).
        """
        ...

    def objective(self) -> Objective:
        """Returns the loss."""
        ...

    def loader(self, settings: TrainConfig, stage: str) -> TrainLoader:
        """Returns this rank's training batches."""
        ...

    def score(self, model: nn.Module, split: str, setting: str, checkpoint: str) -> list[Scored]:
        """Returns all figures of `model` on a split, with protocol, chance and baselines.

        All ranks call it and return the same. May raise Stopped, on all of them.
        """
        ...

    def select(self, results: Sequence[Result]) -> dict[str, float]:
        """Returns the metrics of the selection split to log during training.

        Their names begin with `val/`; `selection` is among them.
        """
        ...


# May raise DataError (no annotations) or ConfigError (settings that do not go with the task).
OpenTask = Callable[[Context], Task]
