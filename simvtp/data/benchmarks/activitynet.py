"""ActivityNet Captions: paragraph-to-video retrieval, and grounding of its sentences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simvtp.data.benchmarks import annotation_files, video_files
from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader, Source
from simvtp.data.benchmarks.moments import MomentCollector
from simvtp.data.benchmarks.records import Benchmark

FOLDERS = ("captions", "ActivityNet", "activitynet", "activitynet_captions", "activity-net")
VIDEO_FOLDERS = (
    "videos",
    "Activity_Videos",
    "v1-3",
    "v1-2",
    "v1-3/train_val",
    "ActivityNet_Videos",
    "train",
    "val",
    "test",
)
FILES = {
    "train": ("train.json",),
    "val_1": ("val_1.json", "val.json"),
    "val_2": ("val_2.json", "test.json"),
}
SOURCE_WHERE = (
    "ActivityNet Captions page of Stanford (captions.zip); videos from activity-net.org or YouTube"
)
SAME_VIDEOS = "val_1 and val_2 are captions of the same videos by other annotators"


def open_activitynet(root: Path, protocol: str) -> Benchmark:
    splits: dict[str, list[str]] = {}
    paragraphs: dict[str, list[str]] = {}
    read = {}
    for split, part in (("train", "train"), ("test", protocol)):
        content, _ = _read(root, part)
        splits[split] = list(content)
        paragraphs |= {
            video: [" ".join(s.strip() for s in entry["sentences"] if s.strip())]
            for video, entry in content.items()
        }
        read[split] = sum(len(entry["sentences"]) for entry in content.values())
    annotation_files.require_apart(splits, "activitynet")
    videos = _videos(root, splits)
    clips, note = annotation_files.select_from_train(
        annotation_files.make_clips(splits, paragraphs, videos, root)
    )
    notes = (
        "the sentences of a video are joined to one paragraph; long ones are cut at "
        "model.text_length",
        f"{note} ({SAME_VIDEOS}, so neither can select for the other)",
    )
    return Benchmark(
        "activitynet", "retrieval", protocol, videos, clips=clips, notes=notes, read=read
    )


def open_activitynet_grounding(root: Path, protocol: str) -> Benchmark:
    collector = MomentCollector()
    parts = (
        {"train": "train", "val": "val_1", "test": "val_2"}
        if protocol == "val_2"
        else {"train": "train", "test": "val_1"}
    )
    for split, part in parts.items():
        content, path = _read(root, part)
        for video, entry in content.items():
            for sentence, span in zip(entry["sentences"], entry["timestamps"], strict=True):
                start, end = (
                    annotation_files.number(value, path, f"a timestamp of {video}")
                    for value in span
                )
                collector.add(split, video, sentence, start, end, entry["duration"])
    annotation_files.require_apart(
        collector.videos,
        "activitynet_grounding",
        [("train", split) for split in parts if split != "train"],
    )
    notes: tuple[str, ...] = (
        (f"val is val_1 and test is val_2, as published; {SAME_VIDEOS}",)
        if protocol == "val_2"
        else ()
    )
    return collector.benchmark(
        "activitynet_grounding", protocol, _videos(root, collector.videos), notes
    )


def _videos(root: Path, splits: Mapping[str, Any]) -> dict[str, Path]:
    finder = video_files.VideoFinder(root, VIDEO_FOLDERS)
    return {
        video: finder.path(video, others=[video.removeprefix("v_")])
        for ids in splits.values()
        for video in ids
    }


def _read(root: Path, part: str) -> tuple[dict[str, dict[str, Any]], Path]:
    """Returns {video: {duration, timestamps, sentences}}, checked."""
    path = annotation_files.find(root, FILES[part], FOLDERS)
    content = annotation_files.read_json(path)
    if not isinstance(content, dict) or not content:
        annotation_files.refuse(
            path, f"holds {type(content).__name__} where videos with their captions are expected"
        )
    for video, entry in content.items():
        sentences = annotation_files.listed(
            annotation_files.get(entry, "sentences", path, video), path, f"'sentences' of {video}"
        )
        spans = annotation_files.listed(
            annotation_files.get(entry, "timestamps", path, video), path, f"'timestamps' of {video}"
        )
        entry["duration"] = annotation_files.number(
            annotation_files.get(entry, "duration", path, video), path, f"the duration of {video}"
        )
        if len(sentences) != len(spans) or any(
            not isinstance(span, list) or len(span) != 2 for span in spans
        ):
            annotation_files.refuse(
                path,
                f"has {len(sentences)} sentences and {len(spans)} timestamps of {video}; each "
                "sentence needs [start, end]",
            )
        entry["sentences"] = [
            annotation_files.text(sentence, path, f"a sentence of {video}")
            for sentence in sentences
        ]
    return content, path


ACTIVITYNET = BenchmarkReader(
    "activitynet",
    "retrieval",
    ("val_1", "val_2"),
    open_activitynet,
    Source(
        where=SOURCE_WHERE,
        files="train.json; val_1: val_1.json (or val.json); val_2: val_2.json (or test.json)",
        folders=", ".join(VIDEO_FOLDERS),
        licence="captions: stated on their page; videos are their uploaders'",
        size="—",
    ),
)
ACTIVITYNET_GROUNDING = BenchmarkReader(
    "activitynet_grounding",
    "grounding",
    ("val_2", "val_1"),
    open_activitynet_grounding,
    Source(
        where=SOURCE_WHERE,
        files="train.json, val_1.json (or val.json), val_2.json (or test.json)",
        folders=", ".join(VIDEO_FOLDERS),
        licence="as activitynet",
        size="—",
    ),
)
