"""Flickr30k: 31,014 photographs, five captions each."""

from __future__ import annotations

from pathlib import Path

from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader, Source
from simvtp.data.benchmarks.karpathy import open_karpathy
from simvtp.data.benchmarks.records import Benchmark

IMAGE_FOLDERS = ("flickr30k-images", "flickr30k_images", "images")


def open_flickr30k(root: Path, protocol: str) -> Benchmark:
    return open_karpathy(root, "flickr30k", protocol, ["dataset_flickr30k.json"], IMAGE_FOLDERS)


FLICKR30K = BenchmarkReader(
    "flickr30k",
    "image_text",
    ("karpathy-1k",),
    open_flickr30k,
    Source(
        where=(
            "Flickr30k page of the University of Illinois (images, by form); JSON: "
            "'deepimagesent' page of Karpathy (caption_datasets.zip)"
        ),
        files="dataset_flickr30k.json",
        folders=", ".join(IMAGE_FOLDERS),
        licence="research and education; images are their owners' (Flickr terms)",
        size="—",
    ),
    needs_reader="pyav",
)
