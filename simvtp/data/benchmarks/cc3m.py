"""Conceptual Captions 3M: images with cleaned alt text, for pre-training.

An image is a clip of one frame.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

from simvtp.data.benchmarks import annotation_files
from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader, Source
from simvtp.data.benchmarks.karpathy import PYAV
from simvtp.data.benchmarks.records import Benchmark
from simvtp.data.clips import Clip

FOLDERS = ("cc3m", "CC3M", "conceptual_captions")
LISTED = {
    "train": ("cc3m_training_success_full.tsv",),
    "test": ("cc3m_validation_success_full.tsv",),
}
OFFICIAL = {
    "train": ("Train_GCC-training.tsv", "Train-GCC-training.tsv"),
    "test": ("Validation_GCC-1.1.0-Validation.tsv", "Validation-GCC-1.1.0-Validation.tsv"),
}
IMAGE_FOLDERS = {"train": "training", "test": "validation"}
SHARD = 10_000  # images in a folder of img2dataset
TRIED = 200  # rows after which a way of naming files is given up
VAL_SHARE = 0.002
Place = Callable[[int, str], Path]  # (number of the row, URL) -> where the image should lie


def open_cc3m(root: Path, protocol: str) -> Benchmark:
    clips: list[Clip] = []
    notes = []
    for split in ("train", "test"):
        listed = annotation_files.find_if_there(root, LISTED[split], FOLDERS)
        found, note = (
            _read_listed(root, listed, split)
            if listed
            else _read_official(root, annotation_files.find(root, OFFICIAL[split], FOLDERS), split)
        )
        clips += found
        notes.append(note)
    read = annotation_files.count_splits(clips)
    ids: dict[str, list[str]] = {"train": [], "test": []}
    for clip in clips:
        ids[clip.split].append(clip.id)
    annotation_files.require_apart(ids, "cc3m")
    moved, note = annotation_files.select_from_train(clips, VAL_SHARE)
    notes += [f"test is the official validation file; {note}", PYAV]
    videos = {clip.id: clip.path for clip in moved}
    return Benchmark(
        "cc3m", "pretraining", protocol, videos, clips=moved, notes=tuple(notes), read=read
    )


def _read_listed(root: Path, path: Path, split: str) -> tuple[list[Clip], str]:
    """Reads the list of what was downloaded: a header, then the caption and the file's name."""
    rows = annotation_files.read_text(path).split("\n")
    folder = _folder(root, split)
    clips = []
    for number, line in enumerate(rows[1:], start=2):
        cells = line.rstrip("\r").split("\t")
        if not line.strip():
            continue
        if len(cells) < 2 or not cells[0].strip() or not cells[1].strip():
            annotation_files.refuse(
                path,
                "has no caption and file name in its first two TAB-separated columns in line "
                f"{number}",
            )
        name = cells[1].strip()
        clips.append(Clip(f"{split}/{name}", folder / name, (cells[0].strip(),), split))
    annotation_files.require_unique([clip.id for clip in clips], path, "images")
    return clips, f"{split}: the images that {path.name} lists"


def _read_official(root: Path, path: Path, split: str) -> tuple[list[Clip], str]:
    rows = annotation_files.read_bare_table(path, ("caption", "url"))
    empty = sum(not caption or not url for caption, url in rows)
    if empty:
        annotation_files.refuse(path, f"has {empty} rows without a caption or without a URL")
    name, place = _naming(root, split, [url for _, url in rows[:TRIED]])
    clips = [
        Clip(f"{split}/{number}", place(number, url), (caption,), split)
        for number, (caption, url) in enumerate(rows)
    ]
    return clips, f"{split}: files are expected as {name}"


def _naming(root: Path, split: str, urls: list[str]) -> tuple[str, Place]:
    """Returns how the images are named: the first way that finds one of the first rows.

    If there is none, it is the first way. Names are computed, not searched for: a folder of three
    million files is not listed.
    """
    folder = _folder(root, split)
    inner = (
        ""
        if split == "train" and not (root / IMAGE_FOLDERS["train"]).is_dir()
        else IMAGE_FOLDERS[split]
    )

    def checksum(number: int, url: str) -> Path:
        return folder / f"{number}_{zlib.crc32(url.encode())}"

    def shards(number: int, url: str) -> Path:
        shard = f"{number // SHARD:05d}"
        return root / inner / shard / f"{shard}{number % SHARD:04d}.jpg"

    ways: dict[str, Place] = {
        f"{folder.name}/ROW_CRC32(URL)": checksum,
        f"{folder.name}/ROW_CRC32(URL).jpg": lambda number, url: checksum(number, url).with_name(
            checksum(number, url).name + ".jpg"
        ),
        "SHARD/SHARDROW.jpg (img2dataset)": shards,
    }
    for name, place in ways.items():
        if any(place(number, url).is_file() for number, url in enumerate(urls)):
            return name, place
    return next(iter(ways.items()))


def _folder(root: Path, split: str) -> Path:
    for inner in ("", "images", *FOLDERS):
        if (root / inner / IMAGE_FOLDERS[split]).is_dir():
            return root / inner / IMAGE_FOLDERS[split]
    return root / IMAGE_FOLDERS[split]


CC3M = BenchmarkReader(
    "cc3m",
    "pretraining",
    ("standard",),
    open_cc3m,
    Source(
        where=(
            "Conceptual Captions page of Google AI (captions and URLs; the images have to be "
            "fetched)"
        ),
        files=(
            "Train_GCC-training.tsv and Validation_GCC-1.1.0-Validation.tsv, or the lists of a "
            "download: "
            "cc3m_training_success_full.tsv and cc3m_validation_success_full.tsv"
        ),
        folders=(
            "training, validation (files ROW_CRC32(URL), or as listed), or the folders of "
            "img2dataset"
        ),
        licence="annotations: free use, as stated by Google; images are their owners'",
        size="—",
    ),
    needs_reader="pyav",
)
