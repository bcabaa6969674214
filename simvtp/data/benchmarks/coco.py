"""COCO captions with Karpathy's splits: 123,287 photographs, five captions each."""

from __future__ import annotations

from pathlib import Path

from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader, Source
from simvtp.data.benchmarks.karpathy import open_karpathy
from simvtp.data.benchmarks.records import Benchmark

IMAGE_FOLDERS = ("images", "train2014", "val2014", "coco")


def open_coco(root: Path, protocol: str) -> Benchmark:
    return open_karpathy(root, "coco", protocol, ["dataset_coco.json"], IMAGE_FOLDERS)


COCO = BenchmarkReader(
    "coco",
    "image_text",
    ("karpathy-5k",),
    open_coco,
    Source(
        where=(
            "cocodataset.org (train2014, val2014); JSON: 'deepimagesent' page of Karpathy "
            "(caption_datasets.zip)"
        ),
        files="dataset_coco.json (restval counts as train, as is usual)",
        folders=", ".join(IMAGE_FOLDERS),
        licence="captions CC BY 4.0; images are their owners' (Flickr terms)",
        size="19 GB",
    ),
    needs_reader="pyav",
)
