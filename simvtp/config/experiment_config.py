"""One experiment as one tree of frozen dataclasses, and the components it can be made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from simvtp.config.data_config import (
    MANIFEST_DATASETS,
    SAME_FRAMES,
    SHAPES_VERSION,
    DataConfig,
)
from simvtp.config.finetune_config import (
    ActionTask,
    ChoiceTask,
    FinetuneConfig,
    GroundingTask,
    ImageTextTask,
    QATask,
    RetrievalTask,
    TaskConfig,
)
from simvtp.config.fingerprint import SCHEMA_VERSION, digest, identifying
from simvtp.config.model_config import (
    MACConfig,
    MACMaskConfig,
    MaskConfig,
    ModelConfig,
    SimVTPConfig,
)
from simvtp.config.train_config import ContrastiveLossConfig, LossConfig, TrainConfig
from simvtp.config.tree import added, build, flatten, setting
from simvtp.errors import ConfigError
from simvtp.plugins import extensions, load_stored

Auto = Literal["auto"]
CompileMode = Literal["default", "max-autotune-no-cudagraphs"]
SeedSource = Literal["init", "order", "masks", "data", "finetune"]


@dataclass(frozen=True)
class MethodConfigs:
    """Classes of the settings that a method decides."""

    model: type[ModelConfig]
    masks: type[MaskConfig]
    losses: type[ContrastiveLossConfig]


METHOD_CONFIGS: Mapping[str, MethodConfigs] = {
    "simvtp": MethodConfigs(SimVTPConfig, MaskConfig, LossConfig),
    "mac": MethodConfigs(MACConfig, MACMaskConfig, ContrastiveLossConfig),
}
TASK_CONFIGS: Mapping[str, type[TaskConfig]] = {
    "retrieval": RetrievalTask,
    "imagetext": ImageTextTask,
    "qa": QATask,
    "choice": ChoiceTask,
    "action": ActionTask,
    "grounding": GroundingTask,
}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of scoring: features are averaged over segments x crops (method notes 1.8)."""

    split: Literal["val", "test"] = setting("test", "split that the final weights are scored on")
    zero_shot: bool = setting(True, "score the pre-trained model as well")
    segments: int = setting(3, "temporal segments of a video")
    crops: int = setting(3, "spatial crops of a segment")
    batch_size: int = setting(16, "clips that are encoded at a time")
    precision: Literal["fp32", "bf16"] = added(
        "fp32", "of autocast while features and scores are computed; a part of the protocol"
    )
    view_merging: Literal["softmax", "logits"] = added(
        "softmax",
        "views of a clip in action, qa and choice: mean of their probabilities (as VideoMAE) or of "
        "their logits",
    )
    rerank: int = setting(
        0, "above 0: also re-rank this many candidates with the pre-trained matching head"
    )
    dual_softmax: bool = setting(
        False, "also score after dual-softmax, which looks at all queries at once"
    )
    modality_use: bool = added(
        False,
        "measure what the pre-trained model uses of the other modality, at fixed masks "
        "(docs/modality_use.md)",
    )
    use_clips: int = added(96, "modality_use: clips that are measured, the first of the split")
    use_points: int = added(
        0, "modality_use: times that pre-training measures it on the val split, evenly spread"
    )
    during_pretraining: int = added(
        0,
        "times that pre-training scores zero-shot retrieval on the val split, evenly spread "
        "(docs/curves.md)",
    )
    frame_orders: bool = added(
        False,
        "score text-to-video retrieval with frames shuffled, reversed and the middle one repeated",
    )
    motion_split: bool = added(
        False,
        "score text-to-video retrieval of the embedded data apart for captions that need motion "
        "and for the others",
    )


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """Settings of where files lie and of how a run is carried; no part of the fingerprint."""

    root: str = setting("runs", "folder of the run directories")
    cache: str = setting("", "empty: $SIMVTP_CACHE, or the user's cache folder")
    tracking_uri: str = setting(
        "", "empty: $MLFLOW_TRACKING_URI, or sqlite under `root`; off = no tracker"
    )
    tracking_experiment: str = setting("simvtp", "experiment of the tracker")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    workers: int | Auto = setting(
        "auto",
        "processes that decode clips; 0 = none; auto: 2, and on a GPU the cores of its process "
        "less two",
    )
    threads: int = setting(0, "threads of torch; 0 = torch's own choice")
    accumulate: int = setting(
        0, "micro-batches per rank and step; 0 = derived from the ranks and micro_batch"
    )
    micro_batch: int | Auto = setting(
        "auto",
        "most samples that a rank takes at a time where accumulate=0; 0 = all it has; auto: on a "
        "GPU as many as it has memory for, as counted",
    )
    compile: bool = setting(False, "torch.compile of the blocks")
    compile_mode: CompileMode = setting(
        "default", "of torch.compile; max-autotune-no-cudagraphs tries kernels, for minutes"
    )
    gradient_checkpointing: bool = setting(
        False, "keep only the input of each block for the backward pass: less memory, slower"
    )
    shard: Literal["none", "full"] = setting(
        "none", "full: weights, gradients and optimizer state are sharded over the ranks (FSDP2)"
    )
    merge_passes: bool = setting(
        False, "the encoder passes of a pre-training step in one call, with the same results"
    )
    pack_text: Literal["auto", "on", "off"] = setting(
        "auto", "leave padding out of the encoder; auto: on a CPU without torch.compile"
    )
    keep_memory: bool = setting(
        True, "on a CPU: keep the memory of a step for the next one, in place of returning it"
    )
    log_every: int = setting(10, "steps between two log lines")
    log_every_s: float = setting(
        0.0, "above 0: seconds between two log lines, in place of steps but for the first"
    )
    checkpoint_every: int = setting(100, "steps between two checkpoints")
    checkpoint_every_s: float = setting(
        0.0, "above 0: seconds between two checkpoints, in place of steps"
    )
    keep_checkpoints: int = setting(2, "checkpoints of a stage that are kept")
    decode_timeout_s: float = setting(30.0, "seconds after which a clip counts as corrupt")
    decoded_cache: bool = setting(False, "keep decoded, resized frames on disk (small data sets)")
    sync_every_s: float = setting(20.0, "seconds between two updates of the tracker")
    examples: int = setting(
        8, "test items on the example page of each task (figures/examples_*.html); 0 = no page"
    )


@dataclass(frozen=True, kw_only=True)
class SeedConfig:
    """Seeds of the single sources of chance, to vary one and hold the others; -1 = `seed`."""

    init: int = added(-1, "of the initial weights; -1 = seed")
    order: int = added(-1, "of order, crops, captions and dropout of pre-training; -1 = seed")
    masks: int = added(-1, "of masks and negatives of pre-training; -1 = seed")
    data: int = added(-1, "of a drawn data.subset, and of shuffled pairs; -1 = seed")
    finetune: int = added(-1, "of fine-tuning: new layers, order, crops, dropout; -1 = seed")


@dataclass(frozen=True, kw_only=True)
class PluginConfig:
    """Plugins that give the experiment its data set, method or task."""

    files: str = added("", "Python files, with : between (docs/extend.md)")
    digests: str = added("", "filled in: sha256 of each file, with commas between")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that one experiment needs: pre-train, zero-shot, fine-tune, evaluate."""

    name: str = setting("experiment", "for people; no part of the fingerprint")
    seed: int = setting(0, "of weights, order, crops, captions, masks and dropout")
    seeds: SeedConfig = field(default_factory=SeedConfig, metadata={"added": True})
    model: ModelConfig = field(default_factory=SimVTPConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    losses: ContrastiveLossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    pretrain: TrainConfig = field(default_factory=TrainConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    plugins: PluginConfig = field(default_factory=PluginConfig, metadata={"added": True})

    @property
    def fingerprint(self) -> str:
        """64 hex digits; the run directory uses the first 12."""
        return digest(identity(self))

    @property
    def cell_fingerprint(self) -> str:
        """The fingerprint without seeds: runs that differ only by seed share it."""
        return digest({k: v for k, v in identity(self).items() if k not in ("seed", "seeds")})

    def seed_of(self, source: SeedSource) -> int:
        """Returns the seed of one source of chance."""
        own: int = getattr(self.seeds, source)
        return self.seed if own < 0 else own

    @property
    def run_dir(self) -> Path:
        return Path(self.runtime.root) / self.fingerprint[:12]


def identity(experiment: Experiment) -> dict[str, Any]:
    """Returns the tree that the fingerprint is taken of.

    It is the whole resolved tree with the schema version, without `runtime` and `name`, and without
    what the experiment does not use: settings of other data sets, paths whose content counts. Of
    the reader only the frames that it gives count.
    """
    tree = identifying(experiment)
    del tree["runtime"], tree["name"]
    tree.get("plugins", {}).pop("files", None)  # their content counts
    if not tree.get("plugins", True):
        del tree["plugins"]
    if experiment.finetune.init_digest:
        del tree["finetune"]["init"]
    data, dataset = tree["data"], experiment.data.dataset
    data["reader"] = SAME_FRAMES.get(experiment.data.reader, experiment.data.reader)
    for key in ("root", "manifest"):
        del data[key]
    if dataset not in MANIFEST_DATASETS:
        del data["splits"]
    if dataset == "shapes":
        data["shapes"]["version"] = SHAPES_VERSION
        del data["manifest_digest"]
    else:
        del data["shapes"]
    return {"schema": SCHEMA_VERSION, **tree}


def differences(a: Experiment, b: Experiment) -> dict[str, tuple[Any, Any]]:
    """Returns the settings that matter and differ: `{"model.depth": (4, 12)}`.

    Of two methods or tasks only what both have is compared, and the name tells them apart.
    """
    left, right = flatten(a), flatten(b)
    return {
        key: (value, right[key])
        for key, value in left.items()
        if right.get(key, value) != value and not key.startswith("runtime.") and key != "name"
    }


def method_configs(method: Any) -> MethodConfigs:
    """Returns the classes of a method's settings.

    Raises:
        ConfigError: there is no such method.
    """
    if method in METHOD_CONFIGS:
        return METHOD_CONFIGS[method]
    known: dict[str, MethodConfigs] = {**METHOD_CONFIGS, **extensions("METHOD_CONFIGS")}
    if method not in known:
        raise ConfigError(f"model.method={method}: choose from {', '.join(known)}.")
    return known[method]


def task_config(task: Any) -> type[TaskConfig]:
    """Returns the class of a task's settings.

    Raises:
        ConfigError: there is no such task.
    """
    if task in TASK_CONFIGS:
        return TASK_CONFIGS[task]
    known: dict[str, type[TaskConfig]] = {**TASK_CONFIGS, **extensions("TASK_CONFIGS")}
    if task not in known:
        raise ConfigError(f"finetune.task={task}: choose from {', '.join(known)}.")
    return known[task]


def from_dict(values: Mapping[str, Any], plugin_folders: Sequence[Path] = ()) -> Experiment:
    """Returns the experiment that `to_dict` gave the dictionary of.

    In `runtime`, keys of another version are ignored and missing ones take their defaults: how a
    run was carried is no part of it. Settings declared by `added` may be missing. Plugins of the
    experiment are loaded, from copies in `plugin_folders` if they are there.

    Raises:
        ConfigError: unknown or missing keys, an unknown method or task, a plugin that is gone.
    """
    plugins = values.get("plugins") or {}
    load_stored(plugins.get("files", ""), plugins.get("digests", ""), plugin_folders)
    try:
        chosen = method_configs(values["model"]["method"])
        task = task_config(values["finetune"]["task"]["name"])
    except (KeyError, TypeError):
        raise ConfigError(
            "the stored experiment names no method or no task, so it was written by another "
            "version of simvtp: run the experiment again or use that version."
        ) from None
    known = {f.name for f in dataclasses.fields(RuntimeConfig)}
    stored = {key: value for key, value in values.get("runtime", {}).items() if key in known}
    values = {**values, "runtime": {**dataclasses.asdict(RuntimeConfig()), **stored}}
    components: dict[str, type] = {
        "model": chosen.model,
        "masks": chosen.masks,
        "losses": chosen.losses,
        "finetune.task": task,
    }
    return build(Experiment, values, components)


def model_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """Returns the model settings that `to_dict` gave the dictionary of.

    Raises:
        ConfigError: unknown or missing keys, or an unknown method.
    """
    return build(method_configs(values.get("method")).model, values, {})
