"""What an experiment will cost, roughly, from its settings: enough to plan a grid and to say how
much of a point is done.

Counted are multiply-adds of the encoder and the decoders, from the numbers of tokens, without
building a model (`simvtp.models.flops.simvtp_flops` counts exactly and needs torch). Minutes are
those counts over the speed that recipe `tiny` was measured to have. A small model spends much of
its time outside of products, so that minutes are worth a factor of two either way, and differences
between cells more than that."""

from __future__ import annotations

from simvtp.config.mask_counts import hidden_per_slot
from simvtp.config.schema import Experiment, ModelConfig, TrainConfig

STAGES = ("pretrain", "zero_shot", "finetune", "evaluate")
BACKWARD = 3  # a training step is about three forward passes
PER_CLIP = {
    "qa": 5.0,
    "grounding": 1.7,
    "action": 0.55,
}  # samples for each clip of the embedded data set; 1 for the other tasks
# multiply-adds of a CPU second, recipe tiny on one core of a shared server (docs/ablations.md says
# how)
MEASURED_RATE = 2.4e10
START_MINUTES = 0.25  # of a process, until its first step


def stage_work(experiment: Experiment) -> dict[str, float]:
    """Multiply-adds of each of `STAGES`; 0 for one that is off. Where the number of clips is not
    known, that of the embedded data set.
    """
    shapes, tuning, evaluate = experiment.data.shapes, experiment.finetune, experiment.evaluate
    views = evaluate.segments * evaluate.crops
    scored = shapes.test if evaluate.split == "test" else shapes.val
    work = dict.fromkeys(STAGES, 0.0)
    if not tuning.init:
        work["pretrain"] = (
            BACKWARD * pretraining_sample(experiment) * _samples(experiment.pretrain, shapes.train)
        )
    if evaluate.zero_shot:
        work["zero_shot"] = scored * (
            views * _encoder(experiment.model, experiment.model.tubes) + _text(experiment.model)
        )
    if tuning.enabled:
        sample, per_clip = finetuning_sample(experiment), PER_CLIP.get(tuning.task, 1.0)
        chosen = (shapes.test if tuning.selection == "test" else shapes.val) * tuning.evaluations
        trained = (
            (1 if tuning.probe != "none" else BACKWARD)
            * sample
            * _samples(tuning.train, round(per_clip * shapes.train))
        )
        work["finetune"] = trained + per_clip * chosen * views * sample
        work["evaluate"] = per_clip * scored * views * sample
    return work


def share_done(experiment: Experiment, stage: str, stage_share: float) -> float:
    """Estimated share of the whole work that is done, in the middle of `stage`; at most 0.99, and 0
    for a stage that is not known.
    """
    work = stage_work(experiment)
    total = sum(work.values())
    if total == 0 or stage not in STAGES:
        return 0.0
    before = sum(work[name] for name in STAGES[: STAGES.index(stage)])
    return min(0.99, (before + work[stage] * stage_share) / total)


def cpu_minutes(experiment: Experiment) -> float:
    """Estimated minutes of one CPU core; meant for recipes of the size of `tiny`."""
    return START_MINUTES + sum(stage_work(experiment).values()) / MEASURED_RATE / 60


# ---- one sample ----------------------------------------------------------------------------------


def pretraining_sample(experiment: Experiment) -> float:
    """A forward pass of the objectives that are on."""
    model, masks, wanted = experiment.model, experiment.masks, experiment.losses.wanted
    slots, height, width = model.grid
    masked = hidden_per_slot(model, masks) * {"random": 1, "frame": height * width}.get(
        masks.video_kind, slots
    )
    visible = model.tubes - masked
    encoded = visible * (1 - model.merged_share)
    embedded, seen = (
        (visible, encoded) if model.contrastive_video == "masked" else (model.tubes, model.tubes)
    )
    shared = model.reuse_pair_pass and model.contrastive_text == model.contrastive_video == "masked"
    work = 0.0
    if {"mvm", "mlm"} & set(wanted) or ("vtm" in wanted and shared):
        work += _encoder(model, encoded + model.text_length)
    if "vtc" in wanted or ("vtm" in wanted and model.vtm_negatives == "hard"):
        work += _encoder(model, seen) + _text(model)
    if "vtm" in wanted:
        work += (1 if shared else 2) * _encoder(model, seen + model.text_length)
    if "mvm" in wanted:
        built = masked * model.decoded_share
        work += model.decoder_depth * _block(model.decoder_dim, model.mlp_ratio, visible + built)
        work += (
            built * model.decoder_dim * model.tube_values + visible * model.dim * model.decoder_dim
        )
    if "mlm" in wanted:
        words = max(1.0, masks.text_ratio * (model.text_length - 2))
        width = (
            (model.text_decoder_dim or model.decoder_dim) if model.text_decoder_depth else model.dim
        )
        work += (
            model.text_decoder_depth * _block(width, model.mlp_ratio, model.text_length)
            + words * width * model.vocab_size
        )
    return work + embedded * model.tube_values * model.dim


def finetuning_sample(experiment: Experiment) -> float:
    """A forward pass of what is fine-tuned, for one sample of its task; the blind baseline
    included.
    """
    model, tuning = experiment.model, experiment.finetune
    tubes = model.tubes
    if tuning.task == "grounding":
        tubes = (
            tuning.segments
            * tuning.segment_frames
            // model.tubelet_size
            * model.grid[1]
            * model.grid[2]
        )
    embedding = tubes * model.tube_values * model.dim
    if tuning.task == "action":
        return embedding + _encoder(model, tubes)
    if tuning.task not in ("qa", "choice", "grounding"):
        return embedding + _encoder(model, tubes) + _text(model)
    texts = (
        tuning.candidates
        if tuning.task == "choice"
        else 4
        if (tuning.task, tuning.questions) == ("qa", "choice")
        else 1
    )
    pair = _encoder(model, tubes * (1 - tuning.drop_tubes) + model.text_length)
    return embedding + texts * (
        pair * (not tuning.blind) + _text(model) * (tuning.blind or tuning.baseline)
    )


def _samples(train: TrainConfig, clips: int) -> float:
    return float(train.max_steps * train.batch_size) if train.max_steps else train.epochs * clips


def _text(model: ModelConfig) -> float:
    return _encoder(model, model.text_length)


def _encoder(model: ModelConfig, tokens: float) -> float:
    return model.depth * _block(model.dim, model.mlp_ratio, tokens)


def _block(width: int, mlp_ratio: float, tokens: float) -> float:
    return tokens * width * (width * (4 + 2 * mlp_ratio) + 2 * tokens)
