"""Measures what a pre-trained model uses of the other modality: at its end, and on the way."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from simvtp.config.train_config import LossConfig
from simvtp.data.loading.view_loader import ViewLoader
from simvtp.data.shapes.motion_negatives import motion_negative
from simvtp.data.text.piece_weights import counted_captions
from simvtp.data.text.tokenizer import encode_captions
from simvtp.errors import ConfigError
from simvtp.evaluation.examples.example_cards import Scored
from simvtp.evaluation.modality.content_words import content_pieces
from simvtp.evaluation.modality.modality_use import (
    USE_MASKS,
    UseSamples,
    measure_pairs,
    measure_use,
)
from simvtp.evaluation.modality.use_results import PAIRS, scored_use
from simvtp.experiment.context import ExperimentContext
from simvtp.runs.results import USE
from simvtp.training.parallel.distributed import on_main

SETTING = "pre-trained"


def measures_use(context: ExperimentContext) -> bool:
    """Returns whether this run measures the use: it is asked for, and the run pre-trains itself.

    Weights that come from elsewhere do not say which of their heads were trained.
    """
    experiment = context.experiment
    return experiment.evaluate.modality_use and not experiment.finetune.init


def score_use(context: ExperimentContext, checkpoint: str) -> list[Scored]:
    """Returns the results of the pre-trained model; none if the run does not measure the use."""
    if not measures_use(context):
        return []
    split = context.experiment.evaluate.split
    return on_main(lambda: _score(context, context.models["pretrain"], split, checkpoint))


def use_on_the_way(
    context: ExperimentContext,
) -> Callable[[nn.Module, int], dict[str, float]] | None:
    """Returns the measurement at points of the pre-training, on the val split; None if not wanted.

    Metrics are `use/<masks>/<metric>`: gains, and what the model does with its own partner.
    """
    if not measures_use(context) or not context.experiment.evaluate.use_points:
        return None

    def measure(model: nn.Module, step: int) -> dict[str, float]:
        scored = on_main(lambda: _score(context, model, "val", ""))
        return {
            f"{USE}/{one.result.protocol.variant}/{name}": value
            for one in scored
            for name, value in one.result.metrics.items()
            if "gain" in name or name.endswith("_own") or one.result.protocol.variant == PAIRS
        }

    return measure


def _score(
    context: ExperimentContext, model: nn.Module, split: str, checkpoint: str
) -> list[Scored]:
    experiment, samples = context.experiment, _samples(context, split)
    protocol = replace(
        context.task_context().protocol(USE, split, SETTING, checkpoint, ties=""),
        segments=1,
        crops=1,
        precision="",  # always fp32
    )
    losses, batch_size = experiment.losses, experiment.evaluate.batch_size
    target = losses.mvm_target if isinstance(losses, LossConfig) else "normalized"
    scored = []
    for mask in USE_MASKS:
        context.stop.check()
        columns = measure_use(
            model,
            samples,
            mask,
            mask_id=context.tokenizer.mask_id,
            target=target,
            batch_size=batch_size,
            device=context.device,
        )
        scored += scored_use(columns, samples.ids, replace(protocol, variant=mask.name))
    pairs = measure_pairs(
        model, samples, losses.wanted, batch_size=batch_size, device=context.device
    )
    return scored + scored_use(pairs, samples.ids, replace(protocol, variant=PAIRS))


def _samples(context: ExperimentContext, split: str) -> UseSamples:
    """Returns the first clips of a split that have a caption, with the first caption of each."""
    experiment, model = context.experiment, context.experiment.model
    wanted = experiment.evaluate.use_clips
    clips = [clip for clip in context.dataset.splits[split] if clip.captions][:wanted]
    if len(clips) < 2:
        raise ConfigError(
            "evaluate.modality_use compares a clip with another one, but the split "
            f"{split} of {context.dataset.name} has {len(clips)} with a caption: set it to false."
        )
    loader = ViewLoader(
        clips,
        data=experiment.data,
        model=model,
        runtime=experiment.runtime,
        segments=1,
        crops=1,
        batch_size=experiment.evaluate.batch_size,
        say=context.say,
        check=context.stop.check,
    )
    pixels = torch.cat([views for views, _ in context.until_stopped(loader.batches())])
    captions = [clip.captions[0] for clip in clips]
    encode = functools.partial(encode_captions, context.tokenizer, model=model)
    negatives = [_motion_negative(context, caption) for caption in captions]
    has_motion = torch.tensor([negative is not None for negative in negatives])
    changed = [negative or own for negative, own in zip(negatives, captions, strict=True)]
    return UseSamples(
        ids=tuple(clip.id for clip in clips),
        clips=pixels,
        captions=encode(captions),
        content=_content(context),
        motion=encode(changed) if has_motion.any() else None,
        has_motion=has_motion if has_motion.any() else None,
    )


def _motion_negative(context: ExperimentContext, caption: str) -> str | None:
    """Returns a caption with another motion; only the embedded data set has a grammar for it."""
    return motion_negative(caption) if context.experiment.data.dataset == "shapes" else None


def _content(context: ExperimentContext) -> torch.Tensor:
    model, clips = context.experiment.model, context.dataset.splits["train"]
    batches = list(counted_captions(clips, context.tokenizer, model))
    return content_pieces(
        [batch.input_ids for batch in batches],
        [batch.word_ids for batch in batches],
        model.vocab_size,
    )
