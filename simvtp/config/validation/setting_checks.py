"""Refuses settings that are impossible or contradict each other.

Every refusal is one sentence that names the setting, its value and what would be right. What only
one method or one task has is no setting of the others, so it needs no check here.
"""

from __future__ import annotations

import math
import typing
from typing import Literal

from simvtp.config.data_config import OWN_DATASETS, split_ratios
from simvtp.config.experiment_config import Experiment
from simvtp.config.finetune_config import (
    ActionTask,
    ChoiceTask,
    FinetuneConfig,
    GroundingTask,
    PairTask,
    QATask,
    RankingTask,
    RetrievalTask,
)
from simvtp.config.mask_counts import check_ratios, check_target, frame_curriculum
from simvtp.config.model_config import (
    PIECE_KINDS,
    WEIGHTED_KINDS,
    MACConfig,
    MACMaskConfig,
    ModelConfig,
    SimVTPConfig,
)
from simvtp.config.train_config import TrainConfig
from simvtp.config.tree import flatten, read_value, setting_types, words_of
from simvtp.config.validation.requirements import (
    require,
    require_all,
    require_divisible,
    require_ratios,
)
from simvtp.config.validation.runtime_checks import check_runtime
from simvtp.config.validation.setting_ranges import check_ranges
from simvtp.errors import ConfigError

MOST_SEGMENTS = 64  # of a video in grounding: 2,080 candidates
LARGEST_SEED = 2**63 - 1
_SIZES = ("image_size", "frames", "patch_size", "dim", "depth", "heads")


def check(experiment: Experiment) -> None:
    """Checks that the settings are possible and do not contradict each other.

    Raises:
        ConfigError: one clear sentence about the first setting that is wrong.
    """
    _check_types(experiment)
    require(0 <= experiment.seed <= LARGEST_SEED, "seed", experiment.seed, "from 0 to 2^63 - 1")
    require_all(experiment.seeds, "seeds", ("init", "order", "masks", "data", "finetune"), least=-1)
    _check_model(experiment.model)
    _check_method(experiment)
    _check_masks(experiment)
    _check_stage("pretrain", experiment.pretrain)
    _check_stage("finetune.train", experiment.finetune.train)
    _check_data(experiment)
    _check_finetuning(experiment.finetune)
    _check_task(experiment)
    _check_evaluation(experiment)
    _check_losses(experiment)
    check_runtime(experiment)
    check_ranges(experiment)


def _check_types(experiment: Experiment) -> None:
    hints = setting_types(experiment)
    for key, value in flatten(experiment).items():
        hint = hints[key]
        if typing.get_origin(hint) is Literal:
            read_value(key, value, hint)
            continue
        if words := words_of(hint):
            if value in words:
                continue
            hint = typing.get_args(hint)[0]
        allowed = (int, float) if hint is float else (hint,)
        if not isinstance(value, allowed) or (isinstance(value, bool) and hint is not bool):
            raise ConfigError(f"{key}={value!r}: must be of type {hint.__name__}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key}={value}: must be a finite number.")


# ---- models and masks ----------------------------------------------------------------------------


def _check_model(m: ModelConfig) -> None:
    require_all(m, "model", _SIZES, least=1)
    require_divisible(m, "model", "image_size", "patch_size", ": change one of them")
    require_divisible(m, "model", "dim", "heads", "")
    require_ratios(m, "model", ("text_dropout", "drop_path"))
    require(m.mlp_ratio > 0, "model.mlp_ratio", m.mlp_ratio, "above 0")
    require(
        3 <= m.text_length <= m.max_text_positions,
        "model.text_length",
        m.text_length,
        "from 3 to model.max_text_positions",
    )


def _check_method(experiment: Experiment) -> None:
    model = experiment.model
    match model:
        case SimVTPConfig():
            _check_simvtp(model)
            if model.encoders == "two":
                _check_two_encoders(experiment, model)
            if model.mlm_video == "none" and experiment.losses.wanted != ("mlm",):
                raise ConfigError(
                    "model.mlm_video=none shows text alone, so MLM must be the only objective: "
                    "set losses.mvm=0 losses.vtc=0 losses.vtm=0."
                )
            if model.learned_temperature and "vtc" not in experiment.losses.wanted:
                raise ConfigError(
                    "model.learned_temperature=true is for the contrastive loss, but losses.vtc=0: "
                    "change one of them."
                )
        case MACConfig():
            check_mac(experiment, model)


def _check_simvtp(m: SimVTPConfig) -> None:
    sizes = ("tubelet_size", "decoder_dim", "decoder_depth", "decoder_heads")
    require_all(m, "model", sizes, least=1)
    require_divisible(m, "model", "frames", "tubelet_size", ": change one of them")
    require_divisible(m, "model", "decoder_dim", "decoder_heads", "")
    require_divisible(m, "model", "text_decoder_dim", "decoder_heads", "")
    require_all(m, "model", ("text_decoder_depth", "text_decoder_dim"))
    if m.text_decoder_dim and not m.text_decoder_depth:
        raise ConfigError(
            f"model.text_decoder_dim={m.text_decoder_dim} is the width of a text decoder's blocks, "
            "but model.text_decoder_depth=0 has none: set both or neither."
        )
    keep, merge, fusion = m.decoder_keep_ratio, m.token_merge_ratio, m.fusion_blocks
    require(0 < keep <= 1, "model.decoder_keep_ratio", keep, "in (0, 1]")
    require(
        0 <= merge <= 0.5,
        "model.token_merge_ratio",
        merge,
        "in [0, 0.5]: a tube is merged into one that stays",
    )
    require(0 <= fusion <= m.depth, "model.fusion_blocks", fusion, "from 0 (all) to model.depth")
    if m.encoders == "one" and fusion:
        raise ConfigError(
            f"model.fusion_blocks={fusion} is for model.encoders=two: one encoder always sees the "
            "whole pair."
        )


def _check_two_encoders(experiment: Experiment, m: SimVTPConfig) -> None:
    tuning = experiment.finetune
    if m.init_video:
        raise ConfigError(
            f"model.init_video={m.init_video} fills one encoder, but model.encoders=two: leave it "
            "empty."
        )
    if tuning.enabled and not isinstance(tuning.task, RetrievalTask):
        raise ConfigError(
            f"finetune.task={tuning.task.name} builds on one encoder, but model.encoders=two: only "
            "retrieval goes with it."
        )
    if isinstance(tuning.task, RankingTask) and tuning.task.encoder == "shared":
        raise ConfigError(
            "finetune.task.encoder=shared needs one pre-trained encoder, but model.encoders=two: "
            "choose one of them."
        )
    if experiment.runtime.shard == "full":
        raise ConfigError(
            "model.encoders=two does not go with runtime.shard=full, which gathers weights block "
            "by block."
        )


def check_mac(experiment: Experiment, model: MACConfig) -> None:
    """Checks what MAC's settings need of each other.

    Raises:
        ConfigError: they contradict each other.
    """
    require_all(model, "model", ("text_depth", "projection"), least=1)
    require_all(model, "model", ("text_dim", "text_heads", "text_mlp_ratio"))
    require_ratios(model, "model", ("text_block_dropout",))
    width, heads = model.text_width, model.text_head_count
    whole = f"a multiple of the {heads} heads of the text tower"
    require(width % heads == 0, "model.text_dim", width, whole)
    masks = experiment.masks
    if not isinstance(masks, MACMaskConfig):
        raise ConfigError("model.method=mac needs masks of its own: choose the method by its name.")
    for frames, _ in frame_curriculum(masks.frame_schedule):
        require(
            frames <= model.frames,
            "masks.frame_schedule",
            masks.frame_schedule,
            f"of at most model.frames={model.frames} frames",
        )
    counts = masks.text_rule == "exact" and masks.text_kind in PIECE_KINDS
    if masks.text_mask == "drop" and not counts:
        raise ConfigError(
            "masks.text_mask=drop needs to know how many words remain: set masks.text_rule=exact "
            f"and masks.text_kind to one of {', '.join(PIECE_KINDS)}."
        )


def _check_masks(experiment: Experiment) -> None:
    masks = experiment.masks
    require_ratios(masks, "masks", ("video_ratio", "text_ratio"))
    require_all(masks, "masks", ("text_span",), least=1)
    if masks.text_kind in WEIGHTED_KINDS and masks.text_rule != "exact":
        raise ConfigError(
            f"masks.text_kind={masks.text_kind} draws the exact number of pieces, one after "
            f"another: masks.text_rule={masks.text_rule} must be exact."
        )
    asked = masks.text_predicted
    require(0 < asked <= 1, "masks.text_predicted", asked, "in (0, 1]")
    if isinstance(masks, MACMaskConfig) and (asked != 1 or masks.text_corruption != "mask"):
        raise ConfigError(
            "masks.text_predicted and masks.text_corruption are for the words that MLM predicts, "
            "which model.method=mac does not: leave them as they are."
        )
    check_ratios(experiment)


# ---- training ------------------------------------------------------------------------------------


def _check_losses(experiment: Experiment) -> None:
    losses = experiment.losses
    names = [f"losses.{name}" for name in losses.weights]
    require_all(losses, "losses", tuple(losses.weights))
    if not losses.wanted:
        them = f"all of {', '.join(names[:-1])} and {names[-1]} are" if names[1:] else f"{names[0]}"
        raise ConfigError(
            f"{them} {'0' if names[1:] else 'is 0'}: nothing would be learnt; set one above 0."
        )
    check_target(experiment)
    require(losses.temperature > 0, "losses.temperature", losses.temperature, "above 0")
    micro = experiment.pretrain.batch_size // max(1, experiment.runtime.accumulate)
    if "vtm" in losses.wanted and micro < 2:
        raise ConfigError(
            "losses.vtm needs another clip as negative, but pretrain.batch_size over "
            f"runtime.accumulate is {micro}: make it 2 or more."
        )


def _check_stage(name: str, stage: TrainConfig) -> None:
    require_all(stage, name, ("batch_size",), least=1)
    require_all(stage, name, ("max_steps", "weight_decay", "clip_norm", "base_min_lr"))
    above_0 = f"above 0 (or set {name}.max_steps)"
    require(stage.epochs > 0 or stage.max_steps > 0, f"{name}.epochs", stage.epochs, above_0)
    for key in ("base_lr", "eps", "layer_decay"):
        require(getattr(stage, key) > 0, f"{name}.{key}", getattr(stage, key), "above 0")
    require_ratios(stage, name, ("warmup_ratio", "decay_ratio", "beta1", "beta2", "ema_decay"))
    if stage.schedule == "wsd" and stage.warmup_ratio + stage.decay_ratio > 1:
        raise ConfigError(
            f"{name}.warmup_ratio={stage.warmup_ratio} and decay_ratio={stage.decay_ratio} are "
            "more than 1 together, and schedule=wsd has both: lower one of them."
        )


# ---- data, fine-tuning, evaluation ---------------------------------------------------------------


def _check_data(experiment: Experiment) -> None:
    data = experiment.data
    split_ratios(data)
    for key in ("root", "protocol"):
        if data.dataset in OWN_DATASETS and getattr(data, key):
            raise ConfigError(
                f"data.{key}={getattr(data, key)} is for benchmarks, but data.dataset="
                f"{data.dataset}: name the benchmark."
            )
    require(0 < data.fraction <= 1, "data.fraction", data.fraction, "in (0, 1]")
    require_all(data, "data", ("stride",), least=1)
    require(1 <= data.repeat <= 16, "data.repeat", data.repeat, "from 1 to 16")
    require(0 < data.crop_area <= 1, "data.crop_area", data.crop_area, "in (0, 1]")
    require_ratios(data, "data", ("flip", "max_corrupt_ratio"), one=True)
    require_ratios(data.shapes, "data.shapes", ("difficulty",), one=True)
    sizes = ("train", "val", "test", "image_size", "frames")
    require_all(data.shapes, "data.shapes", sizes, least=1)


def _check_finetuning(tuning: FinetuneConfig) -> None:
    require_all(tuning, "finetune", ("evaluations",))
    require_ratios(tuning, "finetune", ("drop_path",))
    require_ratios(tuning, "finetune", ("flip", "random_erasing"), one=True)
    require_all(tuning, "finetune", ("rand_augment", "rand_spread"))
    area, magnitude = tuning.crop_area, tuning.rand_magnitude
    require(0 < area <= 1, "finetune.crop_area", area, "in (0, 1]")
    require(0 <= magnitude <= 10, "finetune.rand_magnitude", magnitude, "in [0, 10]")


def _check_task(experiment: Experiment) -> None:
    task, prefix = experiment.finetune.task, "finetune.task"
    if isinstance(task, PairTask):
        require_ratios(task, prefix, ("drop_tubes",))
        if task.blind and task.baseline:
            raise ConfigError(
                "finetune.task.baseline=true trains a blind model as well, but "
                "finetune.task.blind=true: switch one of them off."
            )
    match task:
        case RankingTask():
            require(task.temperature > 0, f"{prefix}.temperature", task.temperature, "above 0")
        case QATask():
            require_all(task, prefix, ("answers",))
        case ChoiceTask():
            require_all(task, prefix, ("candidates",), least=2)
        case ActionTask():
            require_ratios(task, prefix, ("mixup",), one=True)
        case GroundingTask():
            _check_grounding(task, experiment.model)


def _check_grounding(task: GroundingTask, model: ModelConfig) -> None:
    segments, frames = task.segments, task.segment_frames
    limits = f"from 2 to {MOST_SEGMENTS}"
    require(2 <= segments <= MOST_SEGMENTS, "finetune.task.segments", segments, limits)
    whole = frames >= 1 and frames % model.tubelet_size == 0
    multiple = f"a multiple of model.tubelet_size={model.tubelet_size}"
    require(whole, "finetune.task.segment_frames", frames, multiple)


def _check_evaluation(experiment: Experiment) -> None:
    evaluate, tuning = experiment.evaluate, experiment.finetune
    require_all(evaluate, "evaluate", ("segments", "crops", "batch_size"), least=1)
    require_all(evaluate, "evaluate", ("rerank", "use_points", "during_pretraining"))
    require_all(evaluate, "evaluate", ("use_clips",), least=2)
    points, possible = evaluate.use_points, evaluate.modality_use or not evaluate.use_points
    require(possible, "evaluate.use_points", points, "0 without evaluate.modality_use=true")
    points = evaluate.during_pretraining
    possible = evaluate.zero_shot or not points
    require(possible, "evaluate.during_pretraining", points, "0 without evaluate.zero_shot=true")
    if evaluate.rerank and "vtm" not in experiment.losses.wanted:
        raise ConfigError(
            f"evaluate.rerank={evaluate.rerank} needs the matching head, but losses.vtm=0: set it "
            "above 0, or set evaluate.rerank=0."
        )
    retrieves = evaluate.zero_shot or tuning.ranks
    dataset = experiment.data.dataset
    if evaluate.motion_split and dataset != "shapes":
        raise ConfigError(
            "evaluate.motion_split asks the generator of the embedded data set which captions need "
            f"motion, but data.dataset={dataset}: set it to false."
        )
    for key in ("rerank", "dual_softmax", "frame_orders", "motion_split"):
        if getattr(evaluate, key) and not retrieves:
            raise ConfigError(
                f"evaluate.{key} is for retrieval, which this experiment does not measure: "
                "set evaluate.zero_shot=true or finetune.task=retrieval."
            )
