"""Which settings are impossible or contradict each other. Every refusal is one sentence that names
the setting, its value and what would be right.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import Any, Literal

from simvtp.config.mask_counts import frame_curriculum, hidden_per_slot, mask_units
from simvtp.config.schema import (
    OWN_DATASETS,
    Experiment,
    FinetuneConfig,
    ModelConfig,
    TrainConfig,
    flatten,
    split_shares,
)
from simvtp.errors import ConfigError

INITIAL = "initial"  # finetune.init: no pre-training at all
RETRIEVALS = ("retrieval", "imagetext")  # tasks that rank a gallery


def read_value(key: str, value: Any) -> Any:
    """The value of a setting from text, by the type that the setting has; ConfigError if it has
    another.
    """
    return _read(value, _types()[key], key)


def _read(value: Any, hint: Any, key: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise ConfigError(
                f"{key}={value}: must be one of {', '.join(map(str, typing.get_args(hint)))}."
            )
        return value
    if hint is bool:
        named = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if str(value).lower() not in named:
            raise ConfigError(f"{key}={value}: must be true or false.")
        return named[str(value).lower()]
    try:
        return hint(value) if not isinstance(value, hint) or isinstance(value, bool) else value
    except (TypeError, ValueError):
        what = {int: "a whole number", float: "a number"}.get(
            hint, getattr(hint, "__name__", str(hint))
        )
        raise ConfigError(f"{key}={value}: must be {what}.") from None


def check(experiment: Experiment) -> None:
    """Raise ConfigError with one clear sentence if settings are impossible or contradict each
    other.
    """
    _check_types(experiment)
    _check_model(experiment.model)
    _check_options(experiment)
    _check_masks(experiment)
    _check_method(experiment)
    _check_stage("pretrain", experiment.pretrain)
    _check_stage("finetune.train", experiment.finetune.train)
    _check_data(experiment)
    _check_further_figures(experiment)
    losses = experiment.losses
    if not losses.wanted:
        raise ConfigError(
            "all of losses.mvm, losses.mlm, losses.vtc and losses.vtm are 0: nothing would be learnt; set one above 0."
        )
    for name in ("mvm", "mlm", "vtc", "vtm"):
        _require(getattr(losses, name) >= 0, f"losses.{name}", getattr(losses, name), "at least 0")
    _require(losses.temperature > 0, "losses.temperature", losses.temperature, "above 0")
    _check_sharding(experiment)
    if experiment.runtime.pack_text == "on" and (
        experiment.pretrain.compile or experiment.finetune.train.compile
    ):
        raise ConfigError(
            "runtime.pack_text=on gives each step another shape, for which compile=true would compile anew: set one of them off."
        )
    micro = experiment.pretrain.batch_size // max(1, experiment.pretrain.accumulate)
    if "vtm" in losses.wanted and micro < 2:
        raise ConfigError(
            f"losses.vtm needs another clip as negative, but pretrain.batch_size/accumulate is {micro}: make it 2 or more."
        )


@functools.cache  # a grid of thousands of points asks for each of them
def _types(kind: type = Experiment, prefix: str = "") -> dict[str, Any]:
    """The annotated type of each setting, by its name."""
    found: dict[str, Any] = {}
    for key, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            found |= _types(typing.cast(type, hint), f"{prefix}{key}.")
        else:
            found[prefix + key] = hint
    return found


def _check_types(experiment: Experiment) -> None:
    hints = _types()
    for key, value in flatten(experiment).items():
        hint = hints[key]
        if typing.get_origin(hint) is Literal:
            _read(value, hint, key)
        elif isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
            allowed = (int, float) if hint is float else (hint,)
            if not isinstance(value, allowed) or (isinstance(value, bool) and hint is not bool):
                raise ConfigError(f"{key}={value!r}: must be of type {hint.__name__}.")


def _require(holds: bool, key: str, value: Any, what: str) -> None:
    if not holds:
        raise ConfigError(f"{key}={value}: must be {what}.")


def _check_model(m: ModelConfig) -> None:
    for key in (
        "image_size",
        "frames",
        "patch_size",
        "tubelet_size",
        "dim",
        "depth",
        "heads",
        "decoder_dim",
        "decoder_depth",
        "decoder_heads",
    ):
        _require(getattr(m, key) >= 1, f"model.{key}", getattr(m, key), "at least 1")
    if m.frames % m.tubelet_size:
        raise ConfigError(
            f"model.frames={m.frames} is not divisible by model.tubelet_size={m.tubelet_size}: change one of them."
        )
    if m.image_size % m.patch_size:
        raise ConfigError(
            f"model.image_size={m.image_size} is not divisible by model.patch_size={m.patch_size}: change one of them."
        )
    for width, heads in (("dim", "heads"), ("decoder_dim", "decoder_heads")):
        if getattr(m, width) % getattr(m, heads):
            raise ConfigError(
                f"model.{width}={getattr(m, width)} is not divisible by model.{heads}={getattr(m, heads)}."
            )
    for key in ("text_dropout", "drop_path"):
        _require(0 <= getattr(m, key) < 1, f"model.{key}", getattr(m, key), "in [0, 1)")
    _require(
        m.text_decoder_depth >= 0, "model.text_decoder_depth", m.text_decoder_depth, "at least 0"
    )
    _require(
        3 <= m.text_length <= m.max_text_positions,
        "model.text_length",
        m.text_length,
        "from 3 to model.max_text_positions",
    )


def _check_options(experiment: Experiment) -> None:
    """Wiring of SimVTP that the ablations vary: what each needs, and what it does not go with."""
    m, tuning = experiment.model, experiment.finetune
    _require(0 < m.decoded_share <= 1, "model.decoded_share", m.decoded_share, "in (0, 1]")
    _require(
        0 <= m.merged_share <= 0.5,
        "model.merged_share",
        m.merged_share,
        "in [0, 0.5]: a tube is merged into one that stays",
    )
    _require(
        0 <= m.fusion_blocks <= m.depth,
        "model.fusion_blocks",
        m.fusion_blocks,
        "from 0 (all) to model.depth",
    )
    _require(
        m.text_decoder_dim >= 0,
        "model.text_decoder_dim",
        m.text_decoder_dim,
        "at least 0 (0 = model.decoder_dim)",
    )
    if m.text_decoder_dim % m.decoder_heads:
        raise ConfigError(
            f"model.text_decoder_dim={m.text_decoder_dim} is not divisible by model.decoder_heads={m.decoder_heads}."
        )
    if m.text_decoder_dim and not m.text_decoder_depth:
        raise ConfigError(
            f"model.text_decoder_dim={m.text_decoder_dim} is the width of a text decoder's blocks, but model.text_decoder_depth=0 has none: "
            "set both or neither."
        )
    if m.learned_temperature and "vtc" not in experiment.losses.wanted:
        raise ConfigError(
            "model.learned_temperature=true is for the contrastive loss, but losses.vtc=0: switch one of them."
        )
    if m.encoders == "one" and m.fusion_blocks:
        raise ConfigError(
            f"model.fusion_blocks={m.fusion_blocks} is for model.encoders=two: one encoder always sees the whole pair."
        )
    if m.encoders == "two" and m.init_video:
        raise ConfigError(
            f"model.init_video={m.init_video} fills one encoder, but model.encoders=two: leave it empty."
        )
    if m.encoders == "two" and tuning.enabled and tuning.task != "retrieval":
        raise ConfigError(
            f"finetune.task={tuning.task} builds on one encoder, but model.encoders=two: only retrieval goes with it."
        )
    if m.encoders == "two" and tuning.encoder == "shared":
        raise ConfigError(
            "finetune.encoder=shared needs one pre-trained encoder, but model.encoders=two: choose one of them."
        )
    if m.encoders == "two" and experiment.runtime.shard == "full":
        raise ConfigError(
            "model.encoders=two does not go with runtime.shard=full, which gathers weights block by block."
        )


def _check_masks(experiment: Experiment) -> None:
    model, masks = experiment.model, experiment.masks
    for key in ("video_ratio", "text_ratio"):
        _require(0 <= getattr(masks, key) < 1, f"masks.{key}", getattr(masks, key), "in [0, 1)")
    _require(masks.text_span >= 1, "masks.text_span", masks.text_span, "at least 1")
    units = mask_units(model, masks)
    hidden = hidden_per_slot(model, masks)
    if hidden >= units:
        raise ConfigError(
            f"masks.video_ratio={masks.video_ratio} leaves no visible tube of {units}: lower it."
        )
    if "mvm" in experiment.losses.wanted and hidden == 0:
        raise ConfigError(
            f"losses.mvm={experiment.losses.mvm} needs masked tubes, but masks.video_ratio={masks.video_ratio} hides none of {units}: "
            "raise the ratio or set losses.mvm=0."
        )
    if "mlm" in experiment.losses.wanted and masks.text_ratio == 0:
        raise ConfigError(
            "losses.mlm needs masked words, but masks.text_ratio=0: raise the ratio or set losses.mlm=0."
        )


def _check_method(experiment: Experiment) -> None:
    """What the method has and has not; an unknown method is left to `models.method_of`, which lists
    those that there are.
    """
    model, masks, tuning = experiment.model, experiment.masks, experiment.finetune
    if tuning.masks and tuning.enabled and tuning.task not in RETRIEVALS:
        raise ConfigError(
            f"finetune.masks=true is for retrieval, but finetune.task={tuning.task}: use finetune.drop_tubes there."
        )
    if model.method == "mac":
        check_mac(experiment)
        return
    for key, value, usual in (
        ("text_mask", masks.text_mask, "replace"),
        ("frames", masks.frames, ""),
    ):
        if value != usual:
            raise ConfigError(
                f"masks.{key}={value} is for model.method=mac, but model.method={model.method}: leave it as '{usual}'."
            )


def check_mac(experiment: Experiment) -> None:
    """ConfigError for settings that MAC does not have."""
    model, masks, losses = experiment.model, experiment.masks, experiment.losses
    if losses.wanted != ("vtc",):
        raise ConfigError(
            f"model.method=mac has the contrastive objective alone, not {'+'.join(losses.wanted) or 'none'}: "
            "set losses.mvm=0 losses.mlm=0 losses.vtm=0 and losses.vtc above 0."
        )
    if model.tubelet_size != 1:
        raise ConfigError(
            f"model.tubelet_size={model.tubelet_size}: model.method=mac cuts each frame into patches; set it to 1."
        )
    if masks.video_kind in ("random", "frame"):
        raise ConfigError(
            f"masks.video_kind={masks.video_kind}: model.method=mac needs as many patches in each frame: per_frame, block or tube."
        )
    for key in ("text_depth", "projection"):
        _require(getattr(model, key) >= 1, f"model.{key}", getattr(model, key), "at least 1")
    for frames, _ in frame_curriculum(masks.frames):
        _require(
            frames <= model.frames,
            "masks.frames",
            masks.frames,
            f"of at most model.frames={model.frames} frames",
        )
    if masks.text_mask == "drop" and (masks.text_rule, masks.text_kind) != ("exact", "token"):
        raise ConfigError(
            "masks.text_mask=drop needs to know how many words remain: set masks.text_rule=exact masks.text_kind=token."
        )
    for key, usual in (
        ("learned_temperature", False),
        ("encoders", "one"),
        ("decoded_share", 1.0),
        ("merged_share", 0.0),
        ("contrastive_video", "masked"),
    ):
        if getattr(model, key) != usual:
            raise ConfigError(
                f"model.{key}={getattr(model, key)} is wiring of SimVTP, which model.method=mac does not have: set it to {usual}."
            )
    if model.contrastive_text != "masked":
        raise ConfigError(
            f"model.contrastive_text={model.contrastive_text}: model.method=mac contrasts what the masks leave; set masks.text_ratio=0."
        )


def _check_stage(name: str, stage: TrainConfig) -> None:
    _require(stage.batch_size >= 1, f"{name}.batch_size", stage.batch_size, "at least 1")
    _require(
        stage.accumulate >= 0, f"{name}.accumulate", stage.accumulate, "at least 0 (0 = derived)"
    )
    if stage.accumulate and stage.batch_size % stage.accumulate:
        raise ConfigError(
            f"{name}.batch_size={stage.batch_size} is not divisible by {name}.accumulate={stage.accumulate}."
        )
    _require(
        stage.epochs > 0 or stage.max_steps > 0,
        f"{name}.epochs",
        stage.epochs,
        f"above 0 (or set {name}.max_steps)",
    )
    _require(stage.max_steps >= 0, f"{name}.max_steps", stage.max_steps, "at least 0")
    for key in ("base_lr", "eps", "layer_decay"):
        _require(getattr(stage, key) > 0, f"{name}.{key}", getattr(stage, key), "above 0")
    for key in ("warmup_share", "beta1", "beta2", "ema_decay"):
        _require(0 <= getattr(stage, key) < 1, f"{name}.{key}", getattr(stage, key), "in [0, 1)")
    for key in ("weight_decay", "clip_norm", "base_min_lr"):
        _require(getattr(stage, key) >= 0, f"{name}.{key}", getattr(stage, key), "at least 0")


def _check_sharding(experiment: Experiment) -> None:
    """What does not work on weights that are cut over the ranks."""
    if experiment.runtime.shard == "none":
        return
    for name, stage in (
        ("pretrain", experiment.pretrain),
        ("finetune.train", experiment.finetune.train),
    ):
        if stage.precision == "fp16":
            raise ConfigError(
                f"{name}.precision=fp16 does not go with runtime.shard=full (its loss scale sees one shard): take bf16."
            )
        if stage.compile:
            raise ConfigError(
                f"{name}.compile=true does not go with runtime.shard=full: switch one of them off."
            )


def _check_further_figures(experiment: Experiment) -> None:
    """Of retrieval, beside the plain ones."""
    evaluate, tuning = experiment.evaluate, experiment.finetune
    _require(evaluate.rerank >= 0, "evaluate.rerank", evaluate.rerank, "at least 0")
    if evaluate.rerank and "vtm" not in experiment.losses.wanted:
        raise ConfigError(
            f"evaluate.rerank={evaluate.rerank} needs the matching head, but losses.vtm=0: set it above 0, or set evaluate.rerank=0."
        )
    retrieves = evaluate.zero_shot or (tuning.enabled and tuning.task in RETRIEVALS)
    for key, value in (("rerank", evaluate.rerank), ("dual_softmax", evaluate.dual_softmax)):
        if value and not retrieves:
            raise ConfigError(
                f"evaluate.{key}={value} is for retrieval, which this experiment does not measure: set evaluate.zero_shot=true or "
                "finetune.task=retrieval."
            )
    if tuning.encoder != "dual" and tuning.task not in RETRIEVALS:
        raise ConfigError(
            f"finetune.encoder={tuning.encoder} is for retrieval, but finetune.task={tuning.task}: leave it at dual."
        )


def _check_data(experiment: Experiment) -> None:
    data, evaluate, runtime = experiment.data, experiment.evaluate, experiment.runtime
    split_shares(data)
    for key in ("root", "protocol"):
        if data.dataset in OWN_DATASETS and getattr(data, key):
            raise ConfigError(
                f"data.{key}={getattr(data, key)} is for benchmarks, but data.dataset={data.dataset}: name the benchmark."
            )
    _require(0 < data.fraction <= 1, "data.fraction", data.fraction, "in (0, 1]")
    _require(data.stride >= 1, "data.stride", data.stride, "at least 1")
    _require(1 <= data.repeat <= 16, "data.repeat", data.repeat, "from 1 to 16")
    _require(0 <= data.flip <= 1, "data.flip", data.flip, "in [0, 1]")
    _require(
        0 <= data.max_corrupt_share <= 1,
        "data.max_corrupt_share",
        data.max_corrupt_share,
        "in [0, 1]",
    )
    _require(
        0 <= data.shapes.difficulty <= 1,
        "data.shapes.difficulty",
        data.shapes.difficulty,
        "in [0, 1]",
    )
    for key in ("train", "val", "test", "image_size", "frames"):
        _require(
            getattr(data.shapes, key) >= 1,
            f"data.shapes.{key}",
            getattr(data.shapes, key),
            "at least 1",
        )
    for key in ("segments", "crops", "batch_size"):
        _require(
            getattr(evaluate, key) >= 1, f"evaluate.{key}", getattr(evaluate, key), "at least 1"
        )
    for key in ("log_every", "checkpoint_every", "keep_checkpoints"):
        _require(getattr(runtime, key) >= 1, f"runtime.{key}", getattr(runtime, key), "at least 1")
    for key in ("workers", "micro_batch", "examples"):
        _require(getattr(runtime, key) >= 0, f"runtime.{key}", getattr(runtime, key), "at least 0")
    _require(
        experiment.finetune.evaluations >= 1,
        "finetune.evaluations",
        experiment.finetune.evaluations,
        "at least 1",
    )
    _require(
        0 <= experiment.finetune.drop_tubes < 1,
        "finetune.drop_tubes",
        experiment.finetune.drop_tubes,
        "in [0, 1)",
    )
    _check_augmentation(experiment.finetune)
    for key, least in (("answers", 0), ("candidates", 2)):
        _require(
            getattr(experiment.finetune, key) >= least,
            f"finetune.{key}",
            getattr(experiment.finetune, key),
            f"at least {least}",
        )
    if experiment.finetune.blind and experiment.finetune.baseline:
        raise ConfigError(
            "finetune.baseline=true trains a blind model beside the other, but finetune.blind=true: switch one of them off."
        )
    _require(
        experiment.finetune.temperature > 0,
        "finetune.temperature",
        experiment.finetune.temperature,
        "above 0",
    )


def _check_augmentation(tuning: FinetuneConfig) -> None:
    for key in ("flip", "random_erasing"):
        _require(
            0 <= getattr(tuning, key) <= 1, f"finetune.{key}", getattr(tuning, key), "in [0, 1]"
        )
    for key in ("rand_augment", "rand_spread"):
        _require(getattr(tuning, key) >= 0, f"finetune.{key}", getattr(tuning, key), "at least 0")
    _require(
        0 <= tuning.rand_magnitude <= 10,
        "finetune.rand_magnitude",
        tuning.rand_magnitude,
        "in [0, 10]",
    )
    _require(0 <= tuning.mixup <= 1, "finetune.mixup", tuning.mixup, "in [0, 1]")
    if tuning.mixup and tuning.task != "action":
        raise ConfigError(
            f"finetune.mixup={tuning.mixup} mixes classes, and finetune.task={tuning.task} has none: set finetune.mixup=0."
        )
