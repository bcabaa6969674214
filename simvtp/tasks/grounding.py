"""Temporal grounding: the span of a video that a sentence describes. The method is ours.

The video is divided into `finetune.task.segments` equal segments; `finetune.task.segment_frames`
frames of each pass through the pair encoder with the sentence, and a light head says of each
segment that it lies inside the span, that the span starts with it, that it ends with it. Every run
of segments is a candidate. Its loss, had it been the true span, gives its probability; its score is
the overlap with the true span that these probabilities let one expect; then non-maximum
suppression, or with `finetune.task.spans=coverage` the spans that best complete those before them.
Spans are as fine as the segments.

Each figure comes with `chance` (random spans) and `prior` (the spans that overlap best with the
training moments). `finetune.task.blind=true` trains on the sentence alone,
`finetune.task.baseline=true` trains that as a baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simvtp.batch import Masks
from simvtp.config.finetune_config import GroundingTask
from simvtp.config.model_config import SimVTPConfig
from simvtp.config.train_config import TrainConfig
from simvtp.config.tree import narrow
from simvtp.data.annotations import open_annotations
from simvtp.data.benchmarks.records import Benchmark, Moment
from simvtp.data.clips import Clip
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.text.tokenizer import TokenBatch
from simvtp.data.video.readers import get_reader, probe
from simvtp.errors import DataError
from simvtp.evaluation.examples.example_cards import Scored
from simvtp.evaluation.examples.predictions import Queries, SpanPredictions
from simvtp.evaluation.span_guessing import grounding_result
from simvtp.evaluation.temporal_spans import (
    AP_DEPTH,
    Numbers,
    Prediction,
    Spans,
    cover,
    overlap,
    suppress,
)
from simvtp.models.downstream.grounding_model import END, INSIDE, START, GroundingModel
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.runs.results import Result
from simvtp.tasks.pair_scoring import asked_clips, needed_length, score_texts
from simvtp.tasks.task import Context
from simvtp.training.objectives import Losses, Normalizers, Objective, Report

NMS = 0.5  # a candidate that overlaps by more with a better one is left out
TIES = "pessimistic"  # see simvtp/evaluation/temporal_spans.py
# A stride that no video is long enough for: the frames are spread evenly from its first to its
# last one.
WHOLE_VIDEO = 10**9


class Grounding:
    """Temporal grounding of the moments of videos."""

    selection = "val/mIoU"

    def __init__(self, context: Context) -> None:
        experiment, tuning = context.experiment, context.experiment.finetune
        settings = self.settings = narrow(context.experiment.finetune.task, GroundingTask)
        self.segments, self.segment_frames = settings.segments, settings.segment_frames
        self.spans = settings.spans
        self.variant = f"NMS {NMS:g}" if self.spans == "nms" else self.spans
        self.context = context.resampled(self.segments * self.segment_frames, WHOLE_VIDEO)
        records = open_annotations(experiment.data, experiment.runtime, "grounding")
        self.videos = records.videos
        wanted = dict.fromkeys(("train", tuning.selection, experiment.evaluate.split))
        self.moments = {split: [m for m in records.moments if m.split == split] for split in wanted}
        for split, moments in self.moments.items():
            if not moments:
                raise DataError(f"the {split} split of {context.dataset.name} has no moment.")
        self.lengths = _lengths(
            [m for moments in self.moments.values() for m in moments], records, context
        )
        self.learnt = [m for m in self.moments["train"] if self._begins(m)]
        if not self.learnt:
            raise DataError(
                f"no moment of the train split of {context.dataset.name} begins within its video."
            )
        self._report_late_moments()
        asked = (m.sentence for moments in self.moments.values() for m in moments)
        self.text_length = needed_length(context.tokenizer, asked, experiment.model.text_length)
        self.samples = len(self.learnt)
        self.negatives: str = ""

    def _begins(self, moment: Moment) -> bool:
        """Returns True if it begins before its video ends; in real annotation files not all do."""
        return moment.span.start_s < self.lengths[moment.id]

    def _report_late_moments(self) -> None:
        for split, moments in self.moments.items():
            late = sum(not self._begins(moment) for moment in moments)
            if late:
                fate = "no span can be right, so they count as misses"
                self.context.say(
                    f"{split}: {late} of {len(moments)} sentences are about a time after the end "
                    f"of their video: {'left out' if split == 'train' else fate}"
                )

    # ---- training --------------------------------------------------------------------------------

    def build(self, unified: SimVTP) -> nn.Module:
        tuning = self.context.experiment.finetune
        return GroundingModel.from_unified(
            unified,
            narrow(self.context.experiment.model, SimVTPConfig),
            self.segments,
            self.segment_frames,
            self.context.experiment.seed_of("finetune"),
            drop_path=tuning.drop_path,
            blind=self.context.blind,
            drop_tubes=self.settings.drop_tubes,
        )

    def objective(self) -> Objective:
        return SpanLoss()

    def loader(self, settings: TrainConfig, stage: str) -> TrainLoader:
        clips = [Clip(m.video, self.videos[m.video], (m.sentence,), "train") for m in self.learnt]

        def annotate(numbers: Sequence[int], chosen: Sequence[int]) -> tuple[TokenBatch, Tensor]:
            moments = [self.learnt[number] for number in chosen]
            spans, lengths = self._truth(moments)
            fractions = np.clip(spans / lengths[:, None], 0, 1)
            return self._texts(moments), torch.from_numpy(fractions).float()

        return self.context.train_loader(clips, settings, stage, annotate)

    def _texts(self, moments: Sequence[Moment]) -> TokenBatch:
        return self.context.tokenizer.encode([m.sentence for m in moments], self.text_length)

    def _truth(self, moments: Sequence[Moment]) -> tuple[Spans, Numbers]:
        """Returns (true spans [Q, 2], lengths of their videos [Q]), in seconds.

        A span that reaches beyond its video is clipped at the end.
        """
        lengths = np.array([self.lengths[m.id] for m in moments])
        spans = np.array([(m.span.start_s, m.span.end_s) for m in moments])
        spans[:, 1] = np.where(spans[:, 0] < lengths, np.minimum(spans[:, 1], lengths), spans[:, 1])
        return spans, lengths

    # ---- scoring ---------------------------------------------------------------------------------

    def score(self, model: nn.Module, split: str, setting: str, checkpoint: str) -> list[Scored]:
        assert isinstance(model, GroundingModel)
        moments = self.moments[split]
        clips, owners = asked_clips(moments, self.videos, split)
        logits = score_texts(self.context, model, model.score, clips, self._texts(moments), owners)
        truths, lengths = self._truth(moments)
        protocol = self.context.protocol(
            "grounding", split, setting, checkpoint, ties=TIES, variant=self.variant
        )
        found, names = predict(logits, lengths, self.spans), [m.id for m in moments]
        result = grounding_result(
            protocol, found, truths, lengths, *self._truth(self.learnt), names=names
        )
        queries = Queries(names, [m.video for m in moments], [m.sentence for m in moments])
        return [Scored(result, SpanPredictions(queries, found, truths, lengths))]

    def select(self, results: Sequence[Result]) -> dict[str, float]:
        return {f"val/{name}": value for name, value in results[0].metrics.items()}


class SpanLoss:
    """Loss of `logits` [B, S, 3] against the spans `targets` float [B, 2], fractions of the video.

    inside: binary cross-entropy with the fraction of each segment that the span covers, mean over
    the segments; bounds: cross-entropy with the first segment of the span and with the last one,
    both after rounding to whole segments (at least one).
    """

    def loss_normalizers(self, masks: Sequence[Masks | None]) -> Normalizers:
        return {}

    def __call__(
        self, outputs: dict[str, Tensor], normalizers: Normalizers | None = None
    ) -> tuple[Losses, Report]:
        logits, targets = outputs["logits"].float(), outputs["targets"]
        count = logits.shape[1]
        scaled = targets * count
        edges = torch.arange(count, device=targets.device)
        covered = (scaled[:, 1:].minimum(edges + 1) - scaled[:, :1].maximum(edges)).clamp(min=0)
        first = scaled[:, 0].round().long().clamp(max=count - 1)
        last = (scaled[:, 1].round().long() - 1).maximum(first)
        inside = F.binary_cross_entropy_with_logits(logits[..., INSIDE], covered)
        start = F.cross_entropy(logits[..., START], first)
        bounds = start + F.cross_entropy(logits[..., END], last)
        report = {"loss/inside": inside.detach(), "loss/bounds": bounds.detach()}
        return {"inside": inside, "bounds": bounds}, report


def candidates(logits: Tensor) -> tuple[Spans, Numbers]:
    """Returns all runs of segments with their probabilities.

    Args:
        logits: float64 [Q, S, 3].

    Returns:
        (candidates as fractions of the video [N, 2], probability of each to be the true span [Q,
        N]).
    """
    count = logits.shape[1]
    first, last = torch.triu_indices(count, count).unbind(0)
    starts, ends = (logits[..., part].log_softmax(dim=1) for part in (START, END))
    # The binary cross-entropy of a run is, but for what is the same for all of them, minus the sum
    # of its logits.
    until = F.pad(logits[..., INSIDE].cumsum(dim=1), (1, 0))
    gain = starts[:, first] + ends[:, last] + (until[:, last + 1] - until[:, first]) / count
    spans = torch.stack([first, last + 1], dim=1).double().numpy() / count
    return spans, gain.softmax(dim=1).numpy()


def predict(
    logits: Tensor, lengths: Numbers, spans: Literal["nms", "coverage"] = "nms"
) -> list[Prediction]:
    """Returns spans in seconds with scores, at most as many as the metrics look at.

    A score is the expected overlap; with `coverage` it is the gain of the span.
    """
    fractions, probabilities = candidates(logits)
    overlaps = overlap(fractions, fractions)
    found = []
    for row, length in zip(probabilities, lengths, strict=True):
        if spans == "coverage":
            chosen, scores = cover(overlaps, row, AP_DEPTH)
        else:
            expected = row @ overlaps
            chosen = suppress(fractions, expected, NMS, AP_DEPTH)
            scores = expected[chosen]
        found.append((fractions[chosen] * length, scores))
    return found


def _lengths(moments: Sequence[Moment], records: Benchmark, context: Context) -> dict[str, float]:
    """Returns the length in seconds of the video of each moment.

    Files are opened where the annotations do not give it.
    """
    known = {m.video: m.duration_s for m in moments}
    unknown = [video for video, length in known.items() if length is None]
    if unknown:
        context.say(f"looking up the lengths of {len(unknown)} videos")
    reader = get_reader(context.experiment.data.reader)
    for video in unknown:
        context.check()
        info = probe(records.videos[video], reader)
        if info.fps <= 0:
            raise DataError(
                f"{records.videos[video]} does not say its frames per second: the length of the "
                "video is not known."
            )
        known[video] = info.frames / info.fps
    return {m.id: m.duration_s or known[m.video] or 0.0 for m in moments}
