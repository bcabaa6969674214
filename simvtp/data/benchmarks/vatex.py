"""VATEX retrieval: 10-second clips with ten English captions each."""

from __future__ import annotations

from pathlib import Path

from simvtp.data.benchmarks import annotation_files, video_files
from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader, Source
from simvtp.data.benchmarks.records import Benchmark

FOLDERS = ("VATEX", "vatex")
VIDEO_FOLDERS = ("videos", "vatex_videos", "train", "val", "validation", "test", "public_test")
FILES = {
    "train": ("vatex_training_v1.0.json",),
    "val": ("vatex_validation_v1.0.json",),
    "test": ("vatex_public_test_english_v1.1.json",),
}


def open_vatex(root: Path, protocol: str) -> Benchmark:
    captions: dict[str, list[str]] = {}
    splits: dict[str, list[str]] = {}
    notes = ["every English caption of a test clip is a query (ten each)"]
    for split, names in FILES.items():
        if protocol == "hgr" and split == "test":
            continue
        path = annotation_files.find(root, names, FOLDERS)
        rows = annotation_files.listed(annotation_files.read_json(path), path, "the file")
        ids = [
            annotation_files.text(
                annotation_files.get(row, "videoID", path, "a clip"), path, "a videoID"
            )
            for row in rows
        ]
        annotation_files.require_unique(ids, path, "clips")
        splits[split] = ids
        for name, row in zip(ids, rows, strict=True):
            sentences = annotation_files.listed(
                annotation_files.get(row, "enCap", path, name), path, f"'enCap' of {name}"
            )
            captions[name] = [
                annotation_files.text(sentence, path, f"a caption of {name}")
                for sentence in sentences
            ]
    if protocol == "hgr":
        for split in ("val", "test"):
            place = annotation_files.find(root, [f"{split}_list.txt"], FOLDERS)
            splits[split] = annotation_files.read_lines(place)
            annotation_files.require_unique(splits[split], place, "clips")
            annotation_files.require_known(splits[split], captions, split, place)
        notes.append(
            "val and test are the two halves of the official validation split, as listed (test is "
            "not the official one)"
        )
    annotation_files.require_apart(splits, "vatex")
    finder = video_files.VideoFinder(root, VIDEO_FOLDERS)
    videos = {
        name: finder.path(name, others=[name[:11]]) for ids in splits.values() for name in ids
    }
    clips = annotation_files.make_clips(splits, captions, videos, root)
    return Benchmark(
        "vatex",
        "retrieval",
        protocol,
        videos,
        clips=clips,
        notes=tuple(notes),
        read=annotation_files.count_splits(clips),
    )


VATEX = BenchmarkReader(
    "vatex",
    "retrieval",
    ("official", "hgr"),
    open_vatex,
    Source(
        where=(
            "VATEX page (annotations); clips are seconds of YouTube videos, named by id, start "
            "and end"
        ),
        files=(
            "; ".join(name for names in FILES.values() for name in names)
            + "; hgr (halves of the validation split): training, validation, and "
            "{val,test}_list.txt"
        ),
        folders=", ".join(VIDEO_FOLDERS),
        licence="annotations CC BY 4.0; videos are their uploaders'",
        size="—",
    ),
)
