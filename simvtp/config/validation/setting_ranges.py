"""The range of every number among the settings: what lies outside would fail or hang later.

Upper bounds are far above any use; they turn a slip (`1000000000000` samples a batch) into a
sentence in place of an allocation. Closer limits, and what settings need of each other, are in
`setting_checks`.
"""

from __future__ import annotations

from simvtp.config.experiment_config import Experiment
from simvtp.config.tree import flatten
from simvtp.errors import ConfigError
from simvtp.plugins import is_of_plugin

_SEED = 2**63 - 1
_RATIO = (0.0, 1.0)
_WIDTH = (0, 65_536)  # of tokens
_BLOCKS = (0, 1_024)
_SAMPLES = (0, 2**24)
_STEPS = (0, 10**9)
# By the last part of the name; a full name comes before it. Both ends belong to the range.
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("seed",), (0, _SEED)),
    **dict.fromkeys(("init", "order", "masks", "data", "finetune"), (-1, _SEED)),  # seeds.*
    **dict.fromkeys(("dim", "decoder_dim", "text_decoder_dim", "text_dim", "projection"), _WIDTH),
    **dict.fromkeys(("depth", "decoder_depth", "text_decoder_depth", "text_depth"), _BLOCKS),
    **dict.fromkeys(("fusion_blocks",), _BLOCKS),
    **dict.fromkeys(("heads", "decoder_heads", "text_heads"), (0, 4_096)),
    **dict.fromkeys(("mlp_ratio", "text_mlp_ratio"), (0.0, 64.0)),
    **dict.fromkeys(("image_size", "patch_size", "frames"), (1, 16_384)),
    **dict.fromkeys(("tubelet_size", "segment_frames"), (1, 1_024)),
    **dict.fromkeys(("vocab_size", "max_text_positions", "text_length"), (0, 2**24)),
    **dict.fromkeys(("text_span", "answers", "candidates", "rerank", "use_clips"), (0, 2**24)),
    **dict.fromkeys(("train", "val", "test", "batch_size", "micro_batch", "accumulate"), _SAMPLES),
    **dict.fromkeys(("epochs", "max_steps", "log_every", "checkpoint_every"), _STEPS),
    **dict.fromkeys(("evaluations", "use_points", "keep_checkpoints", "stride"), _STEPS),
    **dict.fromkeys(("during_pretraining",), _STEPS),
    **dict.fromkeys(("segments", "crops", "repeat", "rand_augment", "examples"), (0, 100_000)),
    **dict.fromkeys(("workers", "threads"), (0, 4_096)),
    **dict.fromkeys(("rand_magnitude", "rand_spread"), (0.0, 1_000.0)),
    **dict.fromkeys(("base_lr", "base_min_lr", "weight_decay", "eps"), (0.0, 1e6)),
    **dict.fromkeys(("clip_norm", "mvm", "mlm", "vtc", "vtm"), (0.0, 1e9)),
    **dict.fromkeys(("temperature",), (1e-6, 1e6)),
    **dict.fromkeys(("layer_decay",), (1e-6, 2.0)),
    **dict.fromkeys(("beta1", "beta2", "ema_decay", "warmup_ratio", "decay_ratio"), _RATIO),
    **dict.fromkeys(("drop_path", "text_dropout", "text_block_dropout", "drop_tubes"), _RATIO),
    **dict.fromkeys(("decoder_keep_ratio", "token_merge_ratio", "mixup"), _RATIO),
    **dict.fromkeys(("video_ratio", "text_ratio", "text_predicted", "fraction"), _RATIO),
    **dict.fromkeys(("crop_area", "flip", "random_erasing", "difficulty"), _RATIO),
    **dict.fromkeys(("max_corrupt_ratio", "max_placeholder_ratio"), _RATIO),
    **dict.fromkeys(("decode_timeout_s", "sync_every_s"), (1e-3, 1e9)),
    **dict.fromkeys(("log_every_s", "checkpoint_every_s"), (0.0, 1e9)),
}


def range_of(key: str) -> tuple[float, float]:
    """Returns the least and the largest value of a number among the settings.

    Raises:
        KeyError: no range is known: add one.
    """
    return _RANGES[key] if key in _RANGES else _RANGES[key.rpartition(".")[2]]


def check_ranges(experiment: Experiment) -> None:
    """Checks that every number is in its range.

    Raises:
        ConfigError: one is not.
    """
    parts = (experiment.model, experiment.masks, experiment.losses, experiment.finetune.task)
    has_own = any(map(is_of_plugin, parts))
    for key, value in flatten(experiment).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            if has_own and key not in _RANGES and key.rpartition(".")[2] not in _RANGES:
                continue  # a setting of a plugin
            least, most = range_of(key)
            if not least <= value <= most:
                ends = [
                    f"{end:,}" if isinstance(value, int) else f"{end:g}" for end in (least, most)
                ]
                raise ConfigError(f"{key}={value}: must be from {ends[0]} to {ends[1]}.")
