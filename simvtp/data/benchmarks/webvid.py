"""WebVid: millions of stock videos with their alt text, for pre-training."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from simvtp.data.benchmarks import annotation_files
from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader, Source
from simvtp.data.benchmarks.records import Benchmark

FOLDERS = ("WebVid", "webvid", "metadata")
VIDEO_FOLDERS = ("videos", "data/videos", "WebVid/videos")
COLUMNS = ("videoid", "name", "page_dir")
VAL_SHARE = 0.002


def open_webvid(root: Path, protocol: str) -> Benchmark:
    splits: dict[str, list[str]] = {}
    captions: dict[str, list[str]] = {}
    videos: dict[str, Path] = {}
    notes, read = [], {}
    place = _layout(root)
    for split, part in (("train", "train"), ("test", "val")):
        path = annotation_files.find(
            root, [f"results_{protocol}_{part}.csv", f"webvid_{protocol}_{part}.csv"], FOLDERS
        )
        several: dict[str, list[str]] = {}
        rows = bare = 0
        for row in annotation_files.iterate_table(path, COLUMNS):
            rows += 1
            if not row["videoid"]:
                annotation_files.refuse(path, "has rows without a videoid")
            if not row["name"]:
                bare += 1
                continue
            several.setdefault(row["videoid"], []).append(row["name"])
            videos[row["videoid"]] = place(row)
        if not several:
            annotation_files.refuse(path, "has no row with text")
        read[split] = rows
        if bare or len(several) + bare < rows:
            notes.append(
                f"{split}: {rows} rows, {bare} without text left out, {len(several)} videos (rows "
                "of one video are its captions)"
            )
        splits[split] = list(several)
        captions |= several
    annotation_files.require_apart(splits, f"webvid {protocol}")
    clips, note = annotation_files.select_from_train(
        annotation_files.make_clips(splits, captions, videos, root), VAL_SHARE
    )
    notes += [
        f"test is the official val file; {note}",
        "its videos are no longer offered by their publisher; many links are dead",
    ]
    return Benchmark(
        "webvid", "pretraining", protocol, videos, clips=clips, notes=tuple(notes), read=read
    )


def _layout(root: Path) -> Callable[[Mapping[str, str]], Path]:
    """Returns the function that gives a row's video.

    It is VIDEOS/page_dir/videoid.mp4 as in the official download, or VIDEOS/videoid.mp4. Names are
    computed, not searched for: a folder of ten million files is not listed.
    """
    folder = next(
        (root / name for name in VIDEO_FOLDERS if (root / name).is_dir()), root / VIDEO_FOLDERS[0]
    )
    flat = folder.is_dir() and not any(entry.is_dir() for entry in os.scandir(folder))
    if flat:
        return lambda row: Path(f"{folder}/{row['videoid']}.mp4")
    return lambda row: Path(f"{folder}/{row['page_dir']}/{row['videoid']}.mp4")


WEBVID = BenchmarkReader(
    "webvid",
    "pretraining",
    ("2M", "10M"),
    open_webvid,
    Source(
        where=(
            "no longer distributed; who has it, has these files (github.com/m-bain/webvid "
            "describes them)"
        ),
        files=(
            "results_2M_train.csv and results_2M_val.csv (2M), results_10M_train.csv and "
            "results_10M_val.csv (10M)"
        ),
        folders=", ".join(f"{name}/PAGE_DIR" for name in VIDEO_FOLDERS) + ", or without PAGE_DIR",
        licence="research use under the publisher's terms, which forbid passing it on",
        size="—",
    ),
)
