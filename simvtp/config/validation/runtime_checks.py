"""Refuses settings of `runtime` that are impossible or contradict others."""

from __future__ import annotations

from simvtp.config.experiment_config import Experiment
from simvtp.config.validation.requirements import require_all
from simvtp.errors import ConfigError


def check_runtime(experiment: Experiment) -> None:
    """Checks `runtime`.

    Raises:
        ConfigError: one sentence about the first setting that is wrong.
    """
    runtime = experiment.runtime
    require_all(runtime, "runtime", ("log_every", "checkpoint_every", "keep_checkpoints"), least=1)
    require_all(runtime, "runtime", ("accumulate", "examples"))
    require_all(runtime, "runtime", ("log_every_s", "checkpoint_every_s"))
    for name in ("workers", "micro_batch"):
        if getattr(runtime, name) != "auto":
            require_all(runtime, "runtime", (name,))
    stages = {"pretrain": experiment.pretrain, "finetune.train": experiment.finetune.train}
    for name, stage in stages.items():
        if runtime.accumulate and stage.batch_size % runtime.accumulate:
            raise ConfigError(
                f"{name}.batch_size={stage.batch_size} is not divisible by "
                f"runtime.accumulate={runtime.accumulate}; runtime.accumulate=0 derives it."
            )
        if runtime.shard == "full" and stage.precision == "fp16":
            raise ConfigError(
                f"{name}.precision=fp16 does not go with runtime.shard=full (its loss scale sees "
                "one shard): set it to bf16."
            )
    if runtime.shard == "full" and runtime.compile:
        raise ConfigError(
            "runtime.compile=true does not go with runtime.shard=full: switch one of them off."
        )
    if runtime.pack_text == "on" and runtime.compile:
        raise ConfigError(
            "runtime.pack_text=on gives each step another shape, for which runtime.compile=true "
            "would compile again: switch one of them off."
        )
