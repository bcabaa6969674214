"""Kinetics 400, 600 and 700: ten seconds of YouTube videos, a class each."""

from __future__ import annotations

from pathlib import Path

from simvtp.data.benchmarks import annotation_files, video_files
from simvtp.data.benchmarks.actions import make_benchmark
from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader, Source
from simvtp.data.benchmarks.records import Action, Benchmark

COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
VIDEO_FOLDERS = (
    "videos",
    "videos_train",
    "videos_val",
    "train",
    "val",
    "validation",
    "train_256",
    "val_256",
)


def open_kinetics(root: Path, protocol: str) -> Benchmark:
    size = protocol.removeprefix("k")
    folders = (
        f"kinetics{size}",
        f"kinetics_{size}_annotations",
        f"k{size}",
        f"kinetics{size}/annotations",
    )
    names = {
        "train": (f"kinetics-{size}_train.csv", f"kinetics_{size}_train.csv", "train.csv"),
        "test": (f"kinetics-{size}_val.csv", f"kinetics_{size}_val.csv", "validate.csv", "val.csv"),
    }
    actions: list[Action] = []
    places: dict[str, str] = {}
    for split, several in names.items():
        path = annotation_files.find(root, several, folders)
        rows = annotation_files.read_table(path, COLUMNS)
        found = [Action(_clip_name(row, path), row["label"], split) for row in rows]
        annotation_files.require_unique([action.video for action in found], path, "clips")
        if not all(action.label for action in found):
            annotation_files.refuse(path, "has rows without a label")
        places |= {
            action.video: f"{row['split'] or split}/{action.label}/{action.video}.mp4"
            for action, row in zip(found, rows, strict=True)
        }
        actions += found
    labels = sorted({action.label for action in actions})
    if len(labels) != int(size):
        annotation_files.refuse(
            path.parent, f"has lists of {len(labels)} classes; protocol {protocol} needs {size}"
        )
    finder = video_files.VideoFinder(root, VIDEO_FOLDERS)
    videos = {name: finder.path(name, place, others=[name[:11]]) for name, place in places.items()}
    notes = (
        "test is the official validation split, as is usual",
        "many of the YouTube videos are gone: figures depend on which are left",
    )
    return make_benchmark(
        "kinetics", protocol, actions, labels, videos, notes, group=lambda name: name[:11]
    )


def _clip_name(row: dict[str, str], path: Path) -> str:
    """Returns the name of the official downloads: id, start and end in six digits each."""
    start, end = (
        int(annotation_files.number(row[key], path, f"{key} of {row['youtube_id']}"))
        for key in ("time_start", "time_end")
    )
    return f"{row['youtube_id']}_{start:06d}_{end:06d}"


KINETICS = BenchmarkReader(
    "kinetics",
    "action",
    ("k400", "k600", "k700"),
    open_kinetics,
    Source(
        where=(
            "Kinetics page of Google DeepMind, or github.com/cvdfoundation/kinetics-dataset (with "
            "the clips)"
        ),
        files="train.csv and val.csv (or validate.csv), also with a prefix kinetics-400_",
        folders=", ".join(VIDEO_FOLDERS),
        licence="annotations CC BY 4.0; videos are their uploaders'",
        size="—",
    ),
)
