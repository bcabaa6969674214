"""One experiment as one tree of frozen dataclasses: settings, overrides, checks and the
fingerprint.

The fingerprint is the sha256 of the *whole resolved* tree plus a schema version, without `runtime`
(where things lie and how many workers carry them does not change what is computed) and with the
content of a manifest in place of its path. It names the run directory and tags the tracked run, so
the same experiment is found again on any machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from simvtp.errors import ConfigError

SCHEMA_VERSION = 1
# of the generator of the embedded data set: another version makes other clips or captions from the
# same settings
SHAPES_VERSION = 1
MANIFEST_DATASETS = (
    "manifest",
    "shards",
)  # data sets that are read from a file which the user names
SAME_FRAMES = {
    "fast": "decord"
}  # data.reader -> the reader whose frames it gives, bit for bit: to the fingerprint they are one
OWN_DATASETS = (
    "shapes",
    *MANIFEST_DATASETS,
)  # any other name is that of a benchmark, which is read from a folder


def added(default: Any) -> Any:
    """A setting that is younger than SCHEMA_VERSION: while it has its default value it is no part
    of the fingerprint, so that experiments from before it was there are found again; stored
    experiments may lack it."""
    return field(default=default, metadata={"added": True})


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and wiring of the model. Defaults: ViT-B as published (method notes 1.1, 1.3, 1.4)."""

    method: str = "simvtp"
    image_size: int = 224
    frames: int = 16
    patch_size: int = 16
    tubelet_size: int = 2
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    decoder_dim: int = 384
    decoder_depth: int = 4
    decoder_heads: int = 6
    text_decoder_depth: int = 0  # 0 = the released linear word head
    vocab_size: int = 30522
    text_length: int = 32
    max_text_positions: int = 512
    text_dropout: float = 0.1
    drop_path: float = 0.0
    pooling: Literal["content", "with_pads", "cls"] = (
        "content"  # with_pads = released: padding counts in the text mean; cls: [CLS] alone
    )
    contrastive_text: Literal["masked", "clean"] = (
        "masked"  # the text that VTC and VTM see; masked = released
    )
    reuse_pair_pass: bool = (
        True  # VTM positives from the MVM/MLM pass; False = released (a second pass)
    )
    vtm_negatives: Literal["random", "hard"] = "random"  # random = released
    init_video: str = (
        ""  # folder or hub name of a VideoMAE checkpoint, or a released-style checkpoint file
    )
    init_text: str = ""  # folder or hub name of a BERT checkpoint (only its embeddings are used)
    contrastive_video: Literal["masked", "clean"] = added(
        "masked"
    )  # the tubes that VTC and VTM see; clean = all; masked = released
    learned_temperature: bool = added(
        False
    )  # VTC: losses.temperature is where it begins; False = released
    text_decoder_dim: int = added(0)  # width of a text decoder that has depth; 0 = decoder_dim
    decoded_share: float = added(
        1.0
    )  # of the masked tubes, chosen in running cells, that the video decoder rebuilds while training
    encoders: Literal["one", "two"] = added(
        "one"
    )  # two: video and text have weights of their own in every block; one = released
    text_depth: int = added(6)  # mac: blocks of the text tower
    projection: int = added(256)  # mac: width of the two features
    time_attention: Literal["rank", "nearest", "all"] = added(
        "rank"
    )  # mac: whom a patch sees over time where masks differ by frame
    cls_counts: Literal["per_frame", "once"] = added(
        "per_frame"
    )  # mac: how often CLS counts itself over space; once = Frozen's
    more_frames: Literal["zero", "interpolate"] = added(
        "zero"
    )  # mac: positions in time of weights that were trained on fewer frames
    merged_share: float = added(
        0.0
    )  # of the visible tubes, that share a token with a similar one in pre-training's encoder; 0 = released
    fusion_blocks: int = added(
        0
    )  # encoders=two: in how many blocks, the last ones, a pair's two sides attend to one another; 0 = all

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tubes along time, height and width."""
        side = self.image_size // self.patch_size
        return self.frames // self.tubelet_size, side, side

    @property
    def tubes(self) -> int:
        t, h, w = self.grid
        return t * h * w

    @property
    def tube_values(self) -> int:
        """Values in one tube: tubelet * patch * patch * 3."""
        return self.tubelet_size * self.patch_size**2 * 3


@dataclass(frozen=True)
class MaskConfig:
    """What is hidden during pre-training (method notes 1.2)."""

    video_ratio: float = 0.9
    video_kind: Literal["tube", "random", "frame", "per_frame", "block"] = (
        "tube"  # per_frame, block: docs/mac.md
    )
    text_ratio: float = 0.75
    text_kind: Literal["token", "word", "span"] = (
        "token"  # word = whole words; span = runs of text_span whole words
    )
    text_rule: Literal["exact", "bernoulli"] = (
        "exact"  # bernoulli = released; exact hides round(ratio * words), at least one
    )
    text_mask: Literal["replace", "drop"] = added(
        "replace"
    )  # mac: hidden words become [MASK], or are left out
    frames: str = added(
        ""
    )  # mac: frames of a clip that are seen, with the number of steps: 1:2000,2:1000; afterwards all of model.frames
    text_span: int = added(3)  # words in a run, where text_kind is span


@dataclass(frozen=True)
class LossConfig:
    """Weights of the four objectives (0 = off, at no cost) and their settings (method notes 1.5)."""

    mvm: float = 1.0
    mlm: float = 1.0
    vtc: float = 1.0
    vtm: float = 1.0
    temperature: float = 0.05
    vtc_negatives: Literal["global", "local"] = (
        "global"  # local = released: this rank's samples only
    )
    mvm_target: Literal["normalized", "raw"] = "normalized"

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of the objectives with a weight above zero."""
        return tuple(name for name in ("mvm", "mlm", "vtc", "vtm") if getattr(self, name) > 0)


@dataclass(frozen=True)
class ShapesConfig:
    """The embedded data set: moving textured objects, rendered and encoded as H.264."""

    train: int = 2000
    val: int = 200
    test: int = 256
    image_size: int = 64
    frames: int = 16
    difficulty: float = (
        0.5  # 0 = plain background and full captions; 1 = busy background, sparse captions
    )
    seed: int = 0


@dataclass(frozen=True)
class DataConfig:
    """Which clips and captions, and how they are read."""

    dataset: str = "shapes"
    manifest: str = ""  # for dataset=manifest: CSV or Parquet with videoid, path, caption
    root: str = added(
        ""
    )  # for the name of a benchmark (`python -m simvtp data list`): the folder with its annotation files and videos
    protocol: str = added("")  # of the benchmark; empty = its first
    # filled in by `finalise`: sha256 of the manifest or annotations, so that their content is the
    # identity
    manifest_digest: str = ""
    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    # train/val/test shares by hash of the id, where the manifest has no `split` column
    splits: str = "0.8/0.1/0.1"
    # nested share of the training videos that pre-training sees, by hash of the id; steps are those
    # of all videos
    fraction: float = 1.0
    stride: int = 4  # frames between two sampled frames
    train_crop: Literal["multiscale", "center", "random_resized"] = (
        "multiscale"  # multiscale = released pre-training
    )
    flip: float = 0.0
    reader: Literal["fast", "decord", "pyav", "torchcodec"] = (
        "fast"  # fast = the frames of decord, bit for bit (see `SAME_FRAMES`)
    )
    repeat: int = added(
        1
    )  # training: batches in a row that are made of the same decoded clips, each with its own crops, masks, captions
    tokenizer: str = "builtin"  # builtin, a folder, or a hub name such as bert-base-uncased
    on_corrupt: Literal["replace", "raise"] = (
        "replace"  # raise = released: one bad clip ends the run
    )
    max_corrupt_share: float = 0.05


@dataclass(frozen=True)
class TrainConfig:
    """One training stage. `batch_size` is global (over all ranks and accumulation steps); lr =
    base_lr * batch_size / 256.
    """

    epochs: float = 200.0
    max_steps: int = 0  # above 0: exactly so many steps, whatever the epochs
    batch_size: int = 1024
    accumulate: int = (
        1  # micro-batches per rank and step; 0 = derived from the ranks and runtime.micro_batch
    )
    base_lr: float = 1.5e-4
    base_min_lr: float = 1e-5
    warmup_share: float = 0.2  # of all steps, linear from 0
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip_norm: float = 0.0  # 0 = off
    layer_decay: float = 1.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    gradient_checkpointing: bool = False
    ema_decay: float = 0.0  # 0 = off

    @property
    def lr(self) -> float:
        return self.base_lr * self.batch_size / 256

    @property
    def min_lr(self) -> float:
        return self.base_min_lr * self.batch_size / 256


def _published_finetuning() -> TrainConfig:
    """Method notes 1.8: MSR-VTT retrieval fine-tuning."""
    return TrainConfig(
        epochs=100, batch_size=64, base_lr=3e-4, base_min_lr=1e-6, warmup_share=0.05, beta2=0.999
    )


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tuning on a task (`simvtp.tasks`). Defaults: retrieval with two copies of the encoder as
    published (method notes 1.8).
    """

    enabled: bool = True
    train: TrainConfig = field(default_factory=_published_finetuning)
    selection: Literal["val", "test"] = (
        "val"  # split on which the best epoch is chosen; test = released protocol
    )
    evaluations: int = 5  # how often, evenly spread, the selection split is scored
    drop_path: float = 0.1
    train_crop: Literal["multiscale", "center", "random_resized"] = "random_resized"
    flip: float = 0.5
    temperature: float = 0.05
    vtc_negatives: Literal["global", "local"] = "global"
    pooling: Literal["content", "with_pads", "cls"] = "content"
    task: str = added("retrieval")  # a name in simvtp/tasks
    init: str = added(
        ""
    )  # "": this experiment's pre-training; else none is done here: initial (model.init_*), a run directory or weights
    init_digest: str = added(
        ""
    )  # filled in by `finalise`: sha256 of the weights of `init`, so that their content is the identity
    blind: bool = added(False)  # the video is hidden: what the text alone gives
    questions: Literal["open", "choice", "count"] = added(
        "open"
    )  # form of the embedded data set's questions; a benchmark has its own
    answers: int = added(
        0
    )  # size of the answer vocabulary, the most frequent of training; 0 = all of them
    candidates: int = added(
        5
    )  # captions among which the task choice chooses where the data set does not give them
    drop_tubes: float = added(
        0.0
    )  # qa, choice, grounding: share of tubes left out of a training sample; scoring sees all
    rand_augment: int = added(
        0
    )  # RandAugment: operations drawn for a clip, each done with probability 0.5; 0 = off, released: 4
    rand_magnitude: float = added(7.0)  # mean strength of these operations, 0 to 10
    rand_spread: float = added(0.5)  # standard deviation of that strength
    random_erasing: float = added(
        0.0
    )  # probability that a box of the clip is filled with noise; 0 = off, released: 0.25
    mixup: float = added(
        0.0
    )  # action recognition: alpha of the mixtures of two clips, up to 1; 0 = off
    segments: int = added(
        16
    )  # grounding: equal parts into which a video is cut, 2 to 64; a span is as fine as they are
    segment_frames: int = added(2)  # grounding: frames that are seen of each part
    masks: bool = added(
        False
    )  # retrieval: the masks of the pre-training stay on while fine-tuning; tests always see everything
    spans: Literal["nms", "coverage"] = added(
        "nms"
    )  # grounding, from the second span on: by suppression, or what the others miss
    probe: Literal["none", "linear", "attentive"] = added(
        "none"
    )  # action recognition: train a head on the frozen encoder only
    encoder: Literal["dual", "shared"] = added(
        "dual"
    )  # retrieval: two copies of the encoder as published, or one for both sides
    baseline: bool = added(
        False
    )  # train a second, blind model and put its figures beside the others


@dataclass(frozen=True)
class EvaluateConfig:
    """How retrieval is measured: features averaged over temporal segments x spatial crops (method
    notes 1.8).
    """

    split: Literal["val", "test"] = "test"
    zero_shot: bool = True
    segments: int = 3
    crops: int = 3
    batch_size: int = 16
    rerank: int = added(
        0
    )  # above 0: also figures after the pre-trained matching head has re-ranked the first so many candidates
    dual_softmax: bool = added(
        False
    )  # also figures after dual-softmax, which looks at all queries at once


@dataclass(frozen=True)
class RuntimeConfig:
    """Where things lie and who carries them. Not part of the fingerprint."""

    root: str = "runs"
    cache: str = ""  # empty: $SIMVTP_CACHE, or the user's cache folder
    tracking_uri: str = ""  # empty: $MLFLOW_TRACKING_URI, or sqlite under `root`; "off": no tracker
    tracking_experiment: str = "simvtp"
    device: str = "auto"
    workers: int = 2
    threads: int = 0  # torch threads; 0 = torch's own choice
    # most samples a rank takes at a time where accumulate=0; 0 = its whole share of the batch
    micro_batch: int = 0
    shard: Literal["none", "full"] = (
        "none"  # full: weights, gradients and optimizer state are cut over the ranks (FSDP2)
    )
    log_every: int = 10
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    decode_timeout_s: float = 30.0
    decoded_cache: bool = False  # keep decoded, resized frames on disk (small data sets)
    sync_every_s: float = 20.0
    keep_memory: bool = added(
        True
    )  # on a CPU: keep what a step frees for the next one, instead of giving it back to the system
    merge_passes: bool = added(
        False
    )  # the encoder passes of a pre-training step in one call: fewer, larger operations, the same results
    pack_text: Literal["auto", "on", "off"] = added(
        "auto"
    )  # leave padding out of the encoder; auto: on a CPU without torch.compile
    examples: int = added(
        8
    )  # test items on the example page of each task (figures/examples_*.html); 0 = no page


@dataclass(frozen=True)
class Experiment:
    """Everything that one experiment needs: pre-train, zero-shot, fine-tune, evaluate."""

    name: str = "experiment"
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    pretrain: TrainConfig = field(default_factory=TrainConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    @property
    def fingerprint(self) -> str:
        """64 hex digits; the run directory uses the first 12."""
        return _digest(identity(self))

    @property
    def cell_fingerprint(self) -> str:
        """The same without the seed: runs that differ only by seed share it."""
        return _digest({key: value for key, value in identity(self).items() if key != "seed"})

    @property
    def run_dir(self) -> Path:
        return Path(self.runtime.root) / self.fingerprint[:12]


# ---- trees, names, values ------------------------------------------------------------------------


def to_dict(config: Any) -> dict[str, Any]:
    """The nested dictionary of a config dataclass (plain JSON values)."""
    return dataclasses.asdict(config)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """`{"masks.video_ratio": 0.9, ...}` in the order of the fields."""
    flat: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            flat.update(flatten(value, f"{prefix}{f.name}."))
        else:
            flat[prefix + f.name] = value
    return flat


def from_dict(values: Mapping[str, Any], kind: type = Experiment) -> Any:
    """Rebuild a config from `to_dict`; unknown or missing keys raise ConfigError.

    Except in `runtime`: what carried a run is no part of it, so there another version's keys are
    passed over and missing ones take their defaults. So do settings that came later and by their
    default change no fingerprint (`added`).
    """
    known = typing.get_type_hints(kind)
    values = {**{f.name: f.default for f in dataclasses.fields(kind) if _is_added(f)}, **values}
    if kind is RuntimeConfig:
        values = {
            **dataclasses.asdict(RuntimeConfig()),
            **{key: value for key, value in values.items() if key in known},
        }
    unknown, missing = set(values) - set(known), set(known) - set(values)
    if unknown or missing:
        raise ConfigError(
            f"stored {kind.__name__} does not fit this version: unknown keys {sorted(unknown)}, missing keys {sorted(missing)}; "
            "it was written by another version of simvtp, run the experiment again or use that version."
        )
    built = {
        key: from_dict(values[key], typing.cast(type, hint))
        if dataclasses.is_dataclass(hint)
        else values[key]
        for key, hint in known.items()
    }
    return kind(**built)


def identity(experiment: Experiment) -> dict[str, Any]:
    """What the fingerprint is taken of."""
    tree = _identifying(experiment)
    del tree["runtime"], tree["name"]
    tree["finetune"].pop(
        "init" if experiment.finetune.init_digest else "", None
    )  # its content counts, not where it lies
    data = tree["data"]
    data.pop("root", None)
    data["reader"] = SAME_FRAMES.get(data["reader"], data["reader"])
    if data["dataset"] != "shapes":
        del data["manifest"], data["shapes"]
    else:
        data["shapes"]["version"] = SHAPES_VERSION
    return {"schema": SCHEMA_VERSION, **tree}


def _identifying(config: Any) -> dict[str, Any]:
    """As `to_dict`, without added settings that have their default value."""
    tree: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            tree[f.name] = _identifying(value)
        elif not (_is_added(f) and value == f.default):
            tree[f.name] = value
    return tree


def _is_added(f: dataclasses.Field[Any]) -> bool:
    return bool(f.metadata.get("added"))


def differences(a: Experiment, b: Experiment) -> dict[str, tuple[Any, Any]]:
    """Settings that matter and differ: `{"model.depth": (4, 12)}`."""
    left, right = flatten(a), flatten(b)
    return {
        k: (left[k], right[k])
        for k in left
        if left[k] != right[k] and not k.startswith("runtime.") and k != "name"
    }


def _digest(tree: Mapping[str, Any]) -> str:
    text = json.dumps(_canonical(tree), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    """1 and 1.0 are the same setting: whole floats become integers."""
    if isinstance(value, Mapping):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


# ---- what follows from settings ------------------------------------------------------------------


def split_shares(data: DataConfig) -> tuple[float, float, float]:
    """`data.splits` as numbers; raises ConfigError if they are not three shares with sum 1."""
    try:
        shares = tuple(float(part) for part in data.splits.split("/"))
    except ValueError:
        shares = ()
    if len(shares) != 3 or any(s < 0 for s in shares) or abs(sum(shares) - 1) > 1e-6:
        raise ConfigError(
            f"data.splits={data.splits}: must be three shares of train/val/test with sum 1, for example 0.8/0.1/0.1."
        )
    return shares[0], shares[1], shares[2]
