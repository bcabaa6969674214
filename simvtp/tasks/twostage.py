"""Retrieval figures that are measured on request: after dual-softmax, and of two stages.

Two stages: a dual encoder ranks the gallery, then the matching head of the *pre-trained* pair
encoder re-ranks the first `evaluate.rerank` of it. So after fine-tuning the dual encoder's list is
re-ranked by a pair encoder that was not fine-tuned (ours: the published fine-tuning trains no
matching head); for the zero-shot figures both stages are the one pre-trained model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from simvtp.data.clips import Clip
from simvtp.errors import ConfigError
from simvtp.evaluation.rerank import MatchScores, score_reranked
from simvtp.evaluation.retrieval_evaluation import Embedded, score_dual_softmax
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.runs.results import Protocol, Result
from simvtp.tasks.task import Context
from simvtp.training.parallel.distributed import together, world

CACHED_BYTES = 2**31  # of decoded clips, for the second stage, of all ranks together


@dataclass(frozen=True)
class Matcher:
    """The pre-trained pair encoder.

    Attributes:
        model: has the matching head.
        checkpoint: sha256 of its weights.
    """

    model: SimVTP
    checkpoint: str


def further_figures(
    context: Context,
    embedded: Embedded,
    clips: Sequence[Clip],
    captions: Sequence[str],
    protocol: Protocol,
    matcher: Matcher | None,
) -> list[Result]:
    """Returns the figures of `evaluate.dual_softmax` and `evaluate.rerank`, (t2v, v2t) each.

    By default there are none.

    Args:
        embedded: `clips` and `captions` as features of the model that `protocol` names.
        protocol: of the plain figures.

    Raises:
        ConfigError: re-ranking without a pair encoder.
    """
    wanted = context.experiment.evaluate
    results = list(score_dual_softmax(embedded, protocol)) if wanted.dual_softmax else []
    if wanted.rerank and matcher is None:
        raise ConfigError(
            f"evaluate.rerank={wanted.rerank} needs a pair encoder, which this method does not "
            "have: set evaluate.rerank=0."
        )
    if wanted.rerank and matcher:
        results += _two_stages(context, embedded, clips, captions, protocol, matcher)
    return results


def _two_stages(
    context: Context,
    embedded: Embedded,
    clips: Sequence[Clip],
    captions: Sequence[str],
    protocol: Protocol,
    matcher: Matcher,
) -> list[Result]:
    settings = context.experiment.evaluate
    tokens = context.tokenizer.encode(captions, context.experiment.model.text_length)
    views = together(lambda: CentreViews(context, clips, CACHED_BYTES // world()))
    match = MatchScores(
        matcher.model,
        views,
        tokens.input_ids,
        tokens.attention_mask,
        context.device,
    )

    def score_pairs(captions: Tensor, videos: Tensor) -> Tensor:
        context.check()
        with context.scoring(matcher.model):
            return match(captions, videos)

    if matcher.checkpoint != protocol.checkpoint:
        protocol = replace(protocol, checkpoint=f"{protocol.checkpoint}+{matcher.checkpoint}")
    found = score_reranked(
        embedded,
        score_pairs,
        protocol,
        k=settings.rerank,
        pairs_per_batch=settings.batch_size,
        over_ranks=context.over_ranks,
    )
    results = []
    for result in found.results:
        direction = result.protocol.direction
        stages = ("first_stage_s", "second_stage_s")
        seconds = {stage: found.seconds[f"{direction}/{stage}"] for stage in stages}
        results.append(replace(result, seconds=seconds))
    return results


class CentreViews:
    """One view of each clip, its middle window and centre crop.

    Called with numbers int64 [n], returns uint8 [n, T, H, W, 3]. As many of the first clips as fit
    into `cached_bytes` are decoded once, here; the others are decoded each time they are asked for,
    and only their decoding counts for the time of the second stage.
    """

    def __init__(
        self, context: Context, clips: Sequence[Clip], cached_bytes: int = CACHED_BYTES
    ) -> None:
        experiment = context.experiment
        model, one_view = experiment.model, replace(experiment.evaluate, segments=1, crops=1)
        # A clip that does not decode is grey, as in the first stage, which has judged how many
        # there may be.
        tolerant = replace(experiment.data, max_corrupt_ratio=1.0)
        self._context = replace(
            context, experiment=replace(experiment, evaluate=one_view, data=tolerant)
        )
        self._clips = clips
        fitting = cached_bytes // (model.frames * model.image_size**2 * 3)
        self._cached = _read(self._context, clips[:fitting]) if fitting else None

    def __call__(self, numbers: Tensor) -> Tensor:
        if self._cached is None:
            return self._decoded(numbers)
        cached = numbers < len(self._cached)
        if bool(cached.all()):
            return self._cached[numbers]
        views = torch.empty(len(numbers), *self._cached.shape[1:], dtype=torch.uint8)
        views[cached] = self._cached[numbers[cached]]
        views[~cached] = self._decoded(numbers[~cached])
        return views

    def _decoded(self, numbers: Tensor) -> Tensor:
        """Decodes a few clips in this process.

        Worker processes and a cache for them would cost more than they save.
        """
        experiment = self._context.experiment
        here = replace(
            experiment, runtime=replace(experiment.runtime, workers=0, decoded_cache=False)
        )
        return _read(
            replace(self._context, experiment=here),
            [self._clips[number] for number in numbers.tolist()],
        )


def _read(context: Context, clips: Sequence[Clip]) -> Tensor:
    return torch.cat(
        [views for views, _ in context.until_stopped(context.view_loader(clips).batches())]
    )
