"""Manifests and shards for the tests of shards."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any

from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.config.model_config import SimVTPConfig
from simvtp.data.clips import Clip
from simvtp.data.prepare.transcode import TranscodeTarget
from simvtp.data.prepare.write_shards import ShardingResult, write_shards

ROOT = Path(__file__).resolve().parents[2]
MODEL = SimVTPConfig(image_size=32, frames=4, patch_size=8, text_length=12)
DATA = DataConfig(stride=2, max_corrupt_ratio=0.5)
HERE = RuntimeConfig(workers=0, device="cpu")
SMALL = TranscodeTarget(short=34)
SPLITS = ("train",) * 8 + ("val", "test")


def write_manifest(clips: list[Clip], path: Path, **columns: list[Any]) -> Path:
    """A manifest next to the clips, with a row for each caption.

    `columns` hold a value for each clip.
    """
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["videoid", "path", "caption", *columns])
        for number, clip in enumerate(clips):
            for caption in clip.captions:
                writer.writerow(
                    [clip.id, clip.path, caption, *(values[number] for values in columns.values())]
                )
    return path


def shard(manifest: Path, out: Path, **changes: Any) -> ShardingResult:
    values = {
        "target": SMALL,
        "max_per_shard": 3,
        "workers": 0,
        "say": lambda line: None,
        **changes,
    }
    return write_shards(manifest, out, **values)


def content(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }
