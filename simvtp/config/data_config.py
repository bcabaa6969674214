"""Settings of the data: the clips and captions, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from simvtp.config.tree import added, setting
from simvtp.errors import ConfigError

# of the generator of the embedded data set: another version makes other clips or captions from the
# same settings
SHAPES_VERSION = 1
MANIFEST_DATASETS = ("manifest", "shards")  # read from a file that the user names
# any other name is that of a benchmark, which is read from a folder
OWN_DATASETS = ("shapes", *MANIFEST_DATASETS)
# data.reader -> the reader whose frames it gives, bit for bit: to the fingerprint they are one
SAME_FRAMES = {"fast": "decord"}

Crop = Literal["multiscale", "center", "random_resized"]


Level = Literal["object", "pair", "motion", "natural", "scenes"]  # by difficulty


@dataclass(frozen=True, kw_only=True)
class ShapesConfig:
    """Settings of the embedded data set: moving textured objects, encoded as H.264."""

    train: int = setting(2000, "videos of the training split")
    val: int = setting(200, "videos of the validation split")
    test: int = setting(256, "videos of the test split")
    image_size: int = setting(64, "height and width of a video, in pixels")
    frames: int = setting(16, "frames of a video")
    difficulty: float = setting(
        0.5, "0 = plain background and full captions; 1 = busy background, sparse captions"
    )
    seed: int = setting(0, "of the generator")
    level: Level = added(
        "scenes",
        "what the scenes contain, from one flat object to many textured ones with events; "
        "difficulty counts in `scenes` alone",
    )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Settings of the clips and captions, and of how they are read."""

    dataset: str = setting("shapes", "shapes, manifest, shards, or the name of a benchmark")
    manifest: str = setting(
        "", "dataset=manifest: CSV or Parquet with videoid, path, caption; dataset=shards: folder"
    )
    root: str = setting("", "of a benchmark: the folder with its annotation files and videos")
    protocol: str = setting("", "of a benchmark; empty = its first")
    manifest_digest: str = setting(
        "", "filled in: sha256 of the manifest or annotations; their content is the identity"
    )
    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    splits: str = setting(
        "0.8/0.1/0.1",
        "train/val/test by hash of the id (of the file, if clips share it), where the "
        "manifest has no `split` column",
    )
    fraction: float = setting(
        1.0,
        "nested part of the training videos that pre-training sees, by hash of the id; the "
        "number of steps is that of all videos",
    )
    pairing: Literal["own", "shuffled"] = added(
        "own",
        "captions in pre-training; shuffled = of another training clip each, a fixed choice by the "
        "seed (a control)",
    )
    subset: Literal["nested", "drawn"] = added(
        "nested",
        "how data.fraction chooses: nested = by the ids alone; drawn = by the seed as well",
    )
    stride: int = setting(4, "frames between two sampled frames")
    frame_window: Literal["tight", "whole", "parts"] = added(
        "tight",
        "from the first to the last sampled frame; whole = released: frames * stride frames, over "
        "which fine-tuning spreads its frames evenly; parts = Frozen's: no window, a random frame "
        "of each of model.frames equal parts of the clip, in tests the middle one",
    )
    train_crop: Crop = setting("multiscale", "of pre-training; multiscale = released")
    crop_area: float = added(
        0.08, "random_resized: smallest box, of the area of a frame; Frozen's: 0.5"
    )
    flip: float = setting(0.0, "probability of a mirrored clip in pre-training")
    reader: Literal["fast", "decord", "pyav", "torchcodec"] = setting(
        "fast", "decoder; fast gives the frames of decord, bit for bit"
    )
    repeat: int = setting(
        1,
        "batches in a row that are made of the same decoded clips, each with its own crops, "
        "masks and captions",
    )
    tokenizer: str = setting("builtin", "builtin, a folder, or a hub name: bert-base-uncased")
    on_corrupt: Literal["replace", "raise"] = setting(
        "replace", "clips that do not decode; raise = released: one of them ends the run"
    )
    max_corrupt_ratio: float = setting(0.05, "of the clips, that may not decode")
    max_placeholder_ratio: float = added(
        0.1, "of the rows of a manifest, whose captions may say nothing (nan, None, N/A)"
    )


def split_ratios(data: DataConfig) -> tuple[float, float, float]:
    """Returns `data.splits` as numbers.

    Raises:
        ConfigError: they are not three ratios with sum 1.
    """
    try:
        ratios = tuple(float(part) for part in data.splits.split("/"))
    except ValueError:
        ratios = ()
    if len(ratios) != 3 or any(r < 0 for r in ratios) or not abs(sum(ratios) - 1) <= 1e-6:
        raise ConfigError(
            f"data.splits={data.splits}: must be three ratios of train/val/test with sum 1, for "
            "example 0.8/0.1/0.1."
        )
    return ratios[0], ratios[1], ratios[2]
