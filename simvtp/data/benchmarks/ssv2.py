"""Something-Something v2: 174 classes of what is done with things."""

from __future__ import annotations

from pathlib import Path

from simvtp.data.benchmarks import annotation_files, video_files
from simvtp.data.benchmarks.actions import make_benchmark
from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader, Source
from simvtp.data.benchmarks.records import Action, Benchmark

FOLDERS = ("labels", "ssv2", "something-something-v2")
VIDEO_FOLDERS = ("20bn-something-something-v2", "videos", "something-something-v2")
NAMES = {
    "labels": ("something-something-v2-labels.json", "labels.json"),
    "train": ("something-something-v2-train.json", "train.json"),
    "test": ("something-something-v2-validation.json", "validation.json"),
}


def open_ssv2(root: Path, protocol: str) -> Benchmark:
    path = annotation_files.find(root, NAMES["labels"], FOLDERS)
    content = annotation_files.read_json(path)
    if not isinstance(content, dict) or not content:
        annotation_files.refuse(
            path, f"holds {type(content).__name__} where numbers by class are expected"
        )
    numbers = {
        label: int(annotation_files.number(value, path, f"the number of '{label}'"))
        for label, value in content.items()
    }
    annotation_files.require_unique(numbers.values(), path, "numbers of classes")
    actions: list[Action] = []
    for split in ("train", "test"):
        path = annotation_files.find(root, NAMES[split], FOLDERS)
        rows = annotation_files.listed(annotation_files.read_json(path), path, "the file")
        found = [Action(*_read_row(row, numbers, path), split) for row in rows]
        annotation_files.require_unique([action.video for action in found], path, "videos")
        actions += found
    finder = video_files.VideoFinder(
        root,
        VIDEO_FOLDERS,
        (".webm", *(ending for ending in video_files.VIDEOS if ending != ".webm")),
    )
    videos = {action.video: finder.path(action.video) for action in actions}
    notes = (
        "test is the official validation split, as is usual: the official test split is not "
        "labelled in these files",
    )
    return make_benchmark(
        "ssv2", protocol, actions, sorted(numbers, key=lambda label: numbers[label]), videos, notes
    )


def _read_row(row: object, numbers: dict[str, int], path: Path) -> tuple[str, str]:
    name = annotation_files.text(annotation_files.get(row, "id", path, "a video"), path, "an id")
    label = (
        annotation_files.text(
            annotation_files.get(row, "template", path, f"video {name}"),
            path,
            f"the template of {name}",
        )
        .replace("[", "")
        .replace("]", "")
    )
    return (
        (name, label)
        if label in numbers
        else annotation_files.refuse(
            path, f"has class '{label}' of video {name}, which the labels file lacks"
        )
    )


SSV2 = BenchmarkReader(
    "ssv2",
    "action",
    ("standard",),
    open_ssv2,
    Source(
        where="Something-Something page of Qualcomm (registration)",
        files="; ".join(" or ".join(names) for names in NAMES.values()),
        folders=", ".join(VIDEO_FOLDERS),
        licence="research use, by agreement",
        size="19.4 GB",
    ),
)
