"""Estimates the cost of an experiment from its settings, to plan a grid and to show progress.

It counts multiply-adds of the encoder and the decoders from the numbers of tokens, without building
a model (`simvtp.models.flops.simvtp_flops` counts exactly and needs torch). Minutes are those
counts over the measured speed of recipe `tiny`. A small model spends much of its time outside of
matrix products, so minutes are right within a factor of two; ratios between cells are better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from simvtp.config.experiment_config import Experiment
from simvtp.config.finetune_config import (
    ActionTask,
    ChoiceTask,
    GroundingTask,
    PairTask,
    QATask,
)
from simvtp.config.mask_counts import hidden_per_slot
from simvtp.config.model_config import MACConfig, ModelConfig, SimVTPConfig
from simvtp.config.train_config import TrainConfig

STAGES = ("pretrain", "use", "zero_shot", "finetune", "evaluate")
USE_PASSES = 12  # of a sample, at all evaluation masks, in forward passes of the training
BACKWARD = 3  # a training step is about three forward passes
# Samples for each clip of the embedded data set; 1 for the other tasks.
PER_CLIP = {"qa": 5.0, "grounding": 1.7, "action": 0.55}
# Multiply-adds of a CPU second: recipe tiny on one core of a shared server (see docs/ablations.md).
MEASURED_RATE = 2.4e10
START_MINUTES = 0.25  # of a process, until its first step


def stage_work(experiment: Experiment) -> dict[str, float]:
    """Returns the multiply-adds of each of `STAGES`; 0 for one that is off.

    An unknown number of clips counts as that of the embedded data set.
    """
    shapes, tuning, evaluate = experiment.data.shapes, experiment.finetune, experiment.evaluate
    views = evaluate.segments * evaluate.crops
    scored = shapes.test if evaluate.split == "test" else shapes.val
    work = dict.fromkeys(STAGES, 0.0)
    if not tuning.init:
        work["pretrain"] = (
            BACKWARD * pretraining_sample(experiment) * _samples(experiment.pretrain, shapes.train)
        )
    if evaluate.modality_use and not tuning.init:
        passes = USE_PASSES * min(scored, evaluate.use_clips)
        work["use"] = passes * pretraining_sample(experiment)
    if evaluate.zero_shot:
        work["zero_shot"] = scored * (
            views * _encoder(experiment.model, experiment.model.tubes) + _text(experiment.model)
        )
    if tuning.enabled:
        sample, per_clip = finetuning_sample(experiment), PER_CLIP.get(tuning.task.name, 1.0)
        evaluations = tuning.evaluations or math.ceil(tuning.train.epochs)  # 0: every epoch
        chosen = (shapes.test if tuning.selection == "test" else shapes.val) * evaluations
        frozen = isinstance(tuning.task, ActionTask) and tuning.task.probe != "none"
        trained = (
            (1 if frozen else BACKWARD)
            * sample
            * _samples(tuning.train, round(per_clip * shapes.train))
        )
        work["finetune"] = trained + per_clip * chosen * views * sample
        work["evaluate"] = per_clip * scored * views * sample
    return work


def fraction_done(experiment: Experiment, stage: str, stage_fraction: float) -> float:
    """Returns the estimated fraction of the work that is done, at most 0.99.

    Args:
        experiment: the experiment.
        stage: the current stage; 0 is returned for an unknown one.
        stage_fraction: fraction of that stage that is done.
    """
    work = stage_work(experiment)
    total = sum(work.values())
    if total == 0 or stage not in STAGES:
        return 0.0
    before = sum(work[name] for name in STAGES[: STAGES.index(stage)])
    return min(0.99, (before + work[stage] * stage_fraction) / total)


def cpu_minutes(experiment: Experiment) -> float:
    """Returns the estimated minutes of one CPU core; meant for recipes of the size of `tiny`."""
    return START_MINUTES + sum(stage_work(experiment).values()) / MEASURED_RATE / 60


# ---- one sample ----------------------------------------------------------------------------------


def pretraining_sample(experiment: Experiment) -> float:
    """Returns the multiply-adds of a forward pass of the objectives that are on."""
    model = experiment.model
    visible, masked = _tubes(experiment)
    if isinstance(model, SimVTPConfig):
        return _simvtp_sample(experiment, model, visible, masked)
    return _encoder(model, visible) + _text(model) + visible * model.tube_values * model.dim


def _tubes(experiment: Experiment) -> tuple[int, int]:
    """Returns how many tubes of a clip are visible, and how many are masked."""
    model, masks = experiment.model, experiment.masks
    slots, height, width = model.grid
    units = {"random": 1, "frame": height * width}.get(masks.video_kind, slots)
    masked = hidden_per_slot(model, masks) * units
    return model.tubes - masked, masked


def _simvtp_sample(experiment: Experiment, model: SimVTPConfig, visible: int, masked: int) -> float:
    wanted, runs = experiment.losses.wanted, _simvtp_runs(experiment, model, visible, masked)
    visible = visible if model.mlm_video == "visible" else 0
    embedded = visible if model.contrastive_video == "masked" else model.tubes
    work: float = embedded * model.tube_values * model.dim
    work += sum(run.depth * _block(run.width, model.mlp_ratio, run.tokens) for run in runs)
    if "mvm" in wanted:
        built, width = masked * model.decoder_keep_ratio, model.decoder_dim
        work += built * width * model.tube_values + visible * model.dim * width
    if "mlm" in wanted:
        work += _word_decoder(experiment, model)
    return work


@dataclass(frozen=True)
class BlockRun:
    """Tokens of a sample that go through `depth` blocks of a width, in one pass of a step."""

    depth: int
    width: int
    tokens: float


def _simvtp_runs(
    experiment: Experiment, model: SimVTPConfig, visible: int, masked: int
) -> list[BlockRun]:
    """Returns the passes through the encoder, and that through the video decoder."""
    wanted = experiment.losses.wanted
    visible = visible if model.mlm_video == "visible" else 0
    encoded = visible * (1 - model.token_merge_ratio)
    seen = encoded if model.contrastive_video == "masked" else model.tubes
    shared = model.reuse_pair_pass and model.contrastive_text == model.contrastive_video == "masked"
    lengths: list[float] = []
    if {"mvm", "mlm"} & set(wanted) or ("vtm" in wanted and shared):
        lengths.append(encoded + model.text_length)
    if "vtc" in wanted or ("vtm" in wanted and model.vtm_negatives == "hard"):
        lengths += [seen, model.text_length]
    if "vtm" in wanted:
        pairs = (1 if shared else 2) + (model.vtm_directions == "both")
        lengths += pairs * [seen + model.text_length]
    runs = [BlockRun(model.depth, model.dim, tokens) for tokens in lengths]
    if "mvm" in wanted:
        built = visible + masked * model.decoder_keep_ratio
        runs.append(BlockRun(model.decoder_depth, model.decoder_dim, built))
    return runs


def kept_values(experiment: Experiment) -> float:
    """Returns tokens x width x blocks over all passes of a sample of the pre-training.

    The memory of a step is in proportion to it and to the batch: every block keeps the same number
    of values of a token and a channel for the backward pass, and attention keeps no table.
    """
    model = experiment.model
    visible, masked = _tubes(experiment)
    runs = [BlockRun(model.depth, model.dim, visible)]
    match model:
        case SimVTPConfig():
            runs = _simvtp_runs(experiment, model, visible, masked)
        case MACConfig():
            runs.append(BlockRun(model.text_depth, model.text_width, model.text_length))
    return sum(run.depth * run.width * run.tokens for run in runs)


def _word_decoder(experiment: Experiment, model: SimVTPConfig) -> float:
    masks = experiment.masks
    words = max(1.0, masks.text_predicted * masks.text_ratio * (model.text_length - 2))
    width = model.dim
    if model.text_decoder_depth:
        width = model.text_decoder_dim or model.decoder_dim
    blocks = model.text_decoder_depth * _block(width, model.mlp_ratio, model.text_length)
    return blocks + words * width * model.vocab_size


def finetuning_sample(experiment: Experiment) -> float:
    """Returns the multiply-adds of a forward pass of the fine-tuned model for one sample.

    The blind baseline is included.
    """
    model, task = experiment.model, experiment.finetune.task
    tubes, texts = model.tubes, 1
    match task:
        case GroundingTask():
            slots = task.segments * task.segment_frames // model.tubelet_size
            tubes = slots * model.grid[1] * model.grid[2]
        case ChoiceTask():
            texts = task.candidates
        case QATask(questions="choice"):
            texts = 4
    embedding = tubes * model.tube_values * model.dim
    if isinstance(task, PairTask):
        pair = _encoder(model, tubes * (1 - task.drop_tubes) + model.text_length)
        alone = _text(model) * (task.blind or task.baseline)
        return embedding + texts * (pair * (not task.blind) + alone)
    video = embedding + _encoder(model, tubes)
    return video if isinstance(task, ActionTask) else video + _text(model)


def _samples(train: TrainConfig, clips: int) -> float:
    return float(train.max_steps * train.batch_size) if train.max_steps else train.epochs * clips


def _text(model: ModelConfig) -> float:
    return _encoder(model, model.text_length)


def _encoder(model: ModelConfig, tokens: float) -> float:
    return model.depth * _block(model.dim, model.mlp_ratio, tokens)


def _block(width: int, mlp_ratio: float, tokens: float) -> float:
    return tokens * width * (width * (4 + 2 * mlp_ratio) + 2 * tokens)
