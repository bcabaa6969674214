"""Data sets by name: each gives clips for train, val and test."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from simvtp.config import DataConfig, RuntimeConfig, split_shares
from simvtp.data.manifest import SPLITS, Clip, Manifest, assign_splits, read_manifest
from simvtp.data.progress import Check, Say, spoken, unasked
from simvtp.errors import ConfigError, DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """Clips of each split, all of them: `data.fraction` is taken by the pre-training."""

    name: str
    splits: dict[str, tuple[Clip, ...]]


def cache_dir(runtime: RuntimeConfig) -> Path:
    """Where generated and decoded data lie: `runtime.cache`, else $SIMVTP_CACHE, else the user's cache folder."""
    if runtime.cache or os.environ.get("SIMVTP_CACHE"):
        return Path(runtime.cache or os.environ["SIMVTP_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "simvtp"


def _shapes(data: DataConfig, runtime: RuntimeConfig, say: Say | None, check: Check) -> tuple[str, Manifest]:
    from simvtp.data.shapes import ensure_shapes

    report = spoken(say or log.info, check)
    path = ensure_shapes(
        data.shapes,
        cache_dir(runtime),
        workers=runtime.workers,
        say=say,
        progress=lambda done, total: report("embedded data set", done, total),
        check=check,
    )
    return "shapes", read_manifest(path)


def _manifest(data: DataConfig, runtime: RuntimeConfig, say: Say | None, check: Check) -> tuple[str, Manifest]:
    if not data.manifest:
        raise ConfigError("data.dataset=manifest needs data.manifest=PATH, a CSV or Parquet file with videoid, path, caption.")
    return Path(data.manifest).stem, read_manifest(data.manifest)


DATASETS: dict[str, Callable[[DataConfig, RuntimeConfig, Say | None, Check], tuple[str, Manifest]]] = {
    "shapes": _shapes,
    "manifest": _manifest,
}


def open_dataset(data: DataConfig, runtime: RuntimeConfig, say: Say | None = None, check: Check = unasked) -> Dataset:
    """The clips of `data.dataset`, by split. Makes the embedded data set if it is not there yet.

    `check` is asked now and then while that takes long, and may raise to end it. Splits are the manifest's own `split` column, else by hash of the id with the shares `data.splits`.

    Raises:
        ConfigError: no such data set.
        DataError: the manifest cannot be used, or a split is empty.
    """
    if data.dataset not in DATASETS:
        raise ConfigError(f"data.dataset={data.dataset}: there is no such data set; choose one of {', '.join(DATASETS)}.")
    name, manifest = DATASETS[data.dataset](data, runtime, say, check)
    if manifest.empty_captions and say:
        say(f"{manifest.path}: {manifest.empty_captions} rows without a caption left out, and {len(manifest.uncaptioned)} videos with them")
    clips = manifest.clips if manifest.has_splits else assign_splits(manifest.clips, split_shares(data))
    splits = {split: tuple(clip for clip in clips if clip.split == split) for split in SPLITS}
    for split, members in splits.items():
        if not members:
            remedy = (
                "its column `split` names no such row"
                if manifest.has_splits
                else f"data.splits={data.splits} gave it none of {len(clips)} videos; change the shares, add videos, or add a column `split`"
            )
            raise DataError(f"the {split} split of {manifest.path} is empty: {remedy}.")
    return Dataset(name, splits)
