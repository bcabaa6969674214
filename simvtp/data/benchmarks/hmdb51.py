"""HMDB51: 51 classes, three official splits."""

from __future__ import annotations

import re
from pathlib import Path

from simvtp.data.benchmarks import annotation_files, video_files
from simvtp.data.benchmarks.actions import make_benchmark
from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader, Source
from simvtp.data.benchmarks.records import Action, Benchmark

FOLDERS = (
    "testTrainMulti_7030_splits",
    "test_train_splits",
    "test_train_splits/testTrainMulti_7030_splits",
    "hmdb51_splits",
    "hmdb51",
)
VIDEO_FOLDERS = ("hmdb51_org", "HMDB51", "videos")
CLASSES = 51
MEANING = {"0": "", "1": "train", "2": "test"}  # 0: in neither list of this split


def open_hmdb51(root: Path, protocol: str) -> Benchmark:
    rows = _read_table(root, protocol) or _read_lists(root, protocol[-1])
    finder = video_files.VideoFinder(root, VIDEO_FOLDERS)
    actions = [
        Action(video_files.bare_name(file, video_files.VIDEOS), label, split)
        for file, label, split in rows
        if split
    ]
    videos = {a.video: finder.path(a.video, f"{a.label}/{a.video}.avi") for a in actions}
    labels = sorted({label for _, label, _ in rows})
    if len(labels) != CLASSES:
        annotation_files.refuse(root, f"has lists of {len(labels)} classes; HMDB51 has {CLASSES}")
    notes = (
        f"{len(rows) - len(actions)} of {len(rows)} videos are in neither list of this split, as "
        "published",
    )
    return make_benchmark(
        "hmdb51",
        protocol,
        actions,
        labels,
        videos,
        notes,
        group=lambda name: name.rpartition("_")[0] or name,
    )


Row = tuple[str, str, str]  # file, class, split


def _read_lists(root: Path, number: str) -> list[Row]:
    """Reads the official form: a file for each class."""
    ending = f"_test_split{number}.txt"
    folder = next(
        (
            root / f
            for f in (*FOLDERS, *annotation_files.FOLDERS)
            if any((root / f).glob(f"*{ending}"))
        ),
        None,
    )
    if folder is None:
        annotation_files.refuse(
            root,
            f"has neither CLASS{ending} nor hmdb51.csv; looked in "
            f"{', '.join((*FOLDERS, *(f or '.' for f in annotation_files.FOLDERS)))}",
        )
    rows: list[Row] = []
    for path in sorted(folder.glob(f"*{ending}")):
        label = path.name.removesuffix(ending)
        for line in annotation_files.read_lines(path):
            file, _, mark = line.rpartition(" ")
            rows.append((file.strip(), label, _split(mark, path)))
    annotation_files.require_unique([file for file, *_ in rows], folder, "videos")
    return rows


def _read_table(root: Path, protocol: str) -> list[Row]:
    """Reads one table of all lists, as some collections have it.

    Returns:
        Nothing if there is no table.
    """
    path = annotation_files.find_if_there(root, ["hmdb51.csv"], FOLDERS)
    if path is None:
        return []
    rows = annotation_files.read_table(path, ["video_id", "label", protocol])
    annotation_files.require_unique([row["video_id"] for row in rows], path, "videos")
    return [
        (row["video_id"], re.sub("_test$", "", row["label"]), _split(row[protocol], path))
        for row in rows
    ]


def _split(mark: str, path: Path) -> str:
    return (
        MEANING[mark]
        if mark in MEANING
        else annotation_files.refuse(
            path, f"has mark '{mark}'; it must be 0, 1 (train) or 2 (test)"
        )
    )


HMDB51 = BenchmarkReader(
    "hmdb51",
    "action",
    ("split1", "split2", "split3"),
    open_hmdb51,
    Source(
        where="HMDB51 page of the Serre lab, Brown University",
        files=(
            "hmdb51.csv (all splits in one table) if it is there, else CLASS_test_splitN.txt of "
            "all classes"
        ),
        folders=", ".join(VIDEO_FOLDERS),
        licence="CC BY 4.0 as stated on its page; videos are their owners'",
        size="2 GB",
    ),
)
