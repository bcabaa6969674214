"""Text-video retrieval with two copies of the encoder, as published (method notes 1.8).

`finetune.task.encoder` may choose one encoder for both sides.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from simvtp.config.train_config import TrainConfig
from simvtp.data.clips import Clip
from simvtp.data.datasets import require_captions
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.loading.view_loader import text_batches
from simvtp.evaluation.examples.example_cards import Scored
from simvtp.evaluation.examples.predictions import Captions, with_retrieval_predictions
from simvtp.evaluation.metrics import TIES
from simvtp.evaluation.modality.motion_queries import one_frame_candidates, split_by_motion
from simvtp.evaluation.modality.temporal_order import (
    FrameOrder,
    OrderedFrames,
    score_orders,
    split_orders,
)
from simvtp.evaluation.retrieval_evaluation import (
    DIRECTIONS,
    Embedded,
    score,
    text_features,
    video_features,
)
from simvtp.methods import method_of
from simvtp.runs.results import Protocol, Result
from simvtp.runs.scores import SELECTION_METRIC
from simvtp.tasks.task import Context
from simvtp.tasks.twostage import Matcher, further_figures
from simvtp.training.objectives import RetrievalObjective
from simvtp.training.parallel.shares import whole_batches


class Retrieval:
    """Retrieval of videos by captions and back.

    The best epoch is chosen by the mean of t2v R@1, R@5 and R@10 on the selection split (ours:
    steadier than R@1 alone), or by R@1 (released).
    """

    kind = "retrieval"  # `Protocol.task`
    selection = SELECTION_METRIC

    def __init__(self, context: Context, captioned: bool = True) -> None:
        """Opens the task.

        Args:
            captioned: the data must have captions.

        Raises:
            DataError: no clip has a caption.
        """
        if captioned:
            require_captions(context.dataset, "retrieval")
        self.context = self.second_stage = context
        self.clips = context.dataset.splits
        self.samples = len(self.clips["train"])
        settings = context.experiment.finetune.ranking
        self.negatives: str = settings.vtc_negatives
        if settings.select_by == "R1":
            self.selection = f"val/{DIRECTIONS[self.kind][0]}/R1"

    def build(self, unified: nn.Module) -> nn.Module:
        tuning, config = self.context.experiment.finetune, self.context.experiment.model
        settings = tuning.ranking
        return method_of(config).retrieval(
            unified,
            config,
            drop_path=tuning.drop_path,
            pooling=settings.pooling,
            encoder=settings.encoder,
        )

    def objective(self) -> RetrievalObjective:
        settings = self.context.experiment.finetune.ranking
        return RetrievalObjective(settings.temperature, settings.vtc_negatives)

    def loader(self, settings: TrainConfig, stage: str) -> TrainLoader:
        return self.context.train_loader(self.clips["train"], settings, stage)

    def score(self, model: nn.Module, split: str, setting: str, checkpoint: str) -> list[Scored]:
        """Returns [t2v, v2t].

        Args:
            model: any with `embed_video` and `embed_text`, also the pre-trained one.
        """
        embedded = self._embed(model, split)
        results = score(embedded, self._protocol(split, setting, checkpoint))
        return with_retrieval_predictions(results, embedded, self._names_and_captions(split))

    def report(
        self, model: nn.Module, split: str, setting: str, checkpoint: str, matcher: Matcher | None
    ) -> list[Scored]:
        """Returns the figures of `score`, then those of other rankings and other frame orders.

        `evaluate.dual_softmax`, `evaluate.rerank` (twostage.py), `evaluate.frame_orders` and
        `evaluate.motion_split` ask for them.
        """
        protocol = self._protocol(split, setting, checkpoint)
        orders: dict[FrameOrder, Embedded] = {}
        if self._orders_frames():
            embedded, orders = split_orders(self._embed(OrderedFrames(model), split))
        else:
            embedded = self._embed(model, split)
        further = further_figures(
            self.second_stage, embedded, self.clips[split], self._captions(split), protocol, matcher
        )
        results = [*score(embedded, protocol), *further, *score_orders(orders, protocol)]
        scored = with_retrieval_predictions(results, embedded, self._names_and_captions(split))
        if self._moves and self.context.experiment.evaluate.motion_split:
            scored += self._by_motion(results[0], split)
        return scored

    def _by_motion(self, result: Result, split: str) -> list[Scored]:
        clips = self.clips[split]
        candidates = one_frame_candidates(self.context.experiment.data.shapes, split, clips)
        return split_by_motion(result, candidates, [f"{clip.id}#0" for clip in clips])

    @property
    def _moves(self) -> bool:
        """True if the clips are no pictures."""
        return self.kind == "retrieval" and self.context.experiment.model.frames > 1

    def _orders_frames(self) -> bool:
        return self.context.experiment.evaluate.frame_orders and self._moves

    def _names_and_captions(self, split: str) -> Captions:
        return Captions([clip.id for clip in self.clips[split]], self._captions(split))

    def _captions(self, split: str) -> list[str]:
        return [caption for clip in self.clips[split] for caption in clip.captions]

    def _protocol(self, split: str, setting: str, checkpoint: str) -> Protocol:
        return self.context.protocol(
            self.kind, split, setting, checkpoint, ties=TIES, direction=DIRECTIONS[self.kind][0]
        )

    def _embed(self, model: nn.Module, split: str) -> Embedded:
        clips = self.clips[split]
        owners = [number for number, clip in enumerate(clips) for _ in clip.captions]
        return embed_over_ranks(self.context, model, clips, self._captions(split), owners)

    def select(self, results: Sequence[Result]) -> dict[str, float]:
        first, direction = results[0].metrics, results[0].protocol.direction
        mean = (first["R1"] + first["R5"] + first["R10"]) / 3
        return {
            self.selection: mean,
            **{f"val/{direction}/{name}": first[name] for name in ("R1", "MdR")},
        }


def embed_over_ranks(
    context: Context,
    model: nn.Module,
    clips: Sequence[Clip],
    captions: Sequence[str],
    owners: Sequence[int],
) -> Embedded:
    """Returns the features of clips and captions; the ranks share the work, and all have them.

    The times are those of all ranks together.

    Args:
        model: has `embed_video` and `embed_text`, see `embed_test_set`.
        owners: number of the clip that each caption describes.

    Raises:
        DataError: a clip gave no view.
    """
    experiment, names = context.experiment, [clip.id for clip in clips]
    size = experiment.evaluate.batch_size

    def see(mine: range) -> tuple[Tensor, float]:
        began, batches = time.perf_counter(), context.view_loader(clips, mine).batches()
        views = ((pixels, numbers - mine.start) for pixels, numbers in batches)
        own = names[mine.start : mine.stop]
        with context.scoring(model):
            seen = context.until_stopped(views)
            features = video_features(model, seen, len(mine), own, context.device)
        return features, time.perf_counter() - began

    def read(mine: range) -> tuple[Tensor, float]:
        began, own = time.perf_counter(), captions[mine.start : mine.stop]
        batches = text_batches(own, context.tokenizer, experiment.model, size)
        with context.scoring(model):
            features = text_features(model, context.until_stopped(batches), context.device)
        return features, time.perf_counter() - began

    videos = context.over_ranks(len(clips), context.clips_in_whole_batches, see)
    texts = context.over_ranks(len(captions), whole_batches(size), read)
    return Embedded(
        torch.cat([features for features, _ in texts]),
        torch.cat([features for features, _ in videos]),
        torch.tensor(owners),
        sum(seconds for _, seconds in texts),
        sum(seconds for _, seconds in videos),
    )
