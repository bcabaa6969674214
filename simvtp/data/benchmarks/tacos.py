"""TACoS: sentences and their spans in long cooking videos, in the JSON form of 2D-TAN."""

from __future__ import annotations

from pathlib import Path

from simvtp.data.benchmarks import annotation_files, video_files
from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader, Source
from simvtp.data.benchmarks.moments import MomentCollector
from simvtp.data.benchmarks.records import Benchmark

FOLDERS = ("TACoS", "tacos")
VIDEO_FOLDERS = ("videos", "MPII-Cooking-2", "TACoS_Videos")


def open_tacos(root: Path, protocol: str) -> Benchmark:
    collector = MomentCollector()
    for split in ("train", "val", "test"):
        path = annotation_files.find(root, [f"{split}.json"], FOLDERS)
        content = annotation_files.read_json(path)
        if not isinstance(content, dict) or not content:
            annotation_files.refuse(
                path,
                f"holds {type(content).__name__} where videos with their sentences are expected",
            )
        for video, entry in content.items():
            _add(collector, split, video, entry, path)
    annotation_files.require_apart(collector.videos, "tacos")
    finder = video_files.VideoFinder(root, VIDEO_FOLDERS)
    videos = {video: finder.path(video) for ids in collector.videos.values() for video in ids}
    return collector.benchmark("tacos", protocol, videos)


def _add(collector: MomentCollector, split: str, video: str, entry: object, path: Path) -> None:
    sentences = annotation_files.listed(
        annotation_files.get(entry, "sentences", path, video), path, f"'sentences' of {video}"
    )
    spans = annotation_files.listed(
        annotation_files.get(entry, "timestamps", path, video), path, f"'timestamps' of {video}"
    )
    fps = annotation_files.number(
        annotation_files.get(entry, "fps", path, video), path, f"the fps of {video}"
    )
    frames = annotation_files.number(
        annotation_files.get(entry, "num_frames", path, video), path, f"the num_frames of {video}"
    )
    if (
        fps <= 0
        or len(sentences) != len(spans)
        or any(not isinstance(span, list) or len(span) != 2 for span in spans)
    ):
        annotation_files.refuse(
            path,
            f"has {len(sentences)} sentences, {len(spans)} timestamps and fps {fps} of {video}; "
            "each sentence needs [first, last]",
        )
    for sentence, span in zip(sentences, spans, strict=True):
        first, last = (
            annotation_files.number(value, path, f"a timestamp of {video}") for value in span
        )
        collector.add(
            split,
            video,
            annotation_files.text(sentence, path, f"a sentence of {video}"),
            first / fps,
            last / fps,
            frames / fps,
        )


TACOS = BenchmarkReader(
    "tacos",
    "grounding",
    ("2d-tan",),
    open_tacos,
    Source(
        where=(
            "JSON files: github.com/microsoft/VideoX (2D-TAN/data/TACoS); videos: MPII Cooking 2 "
            "page"
        ),
        files="{train,val,test}.json (timestamps in frames; turned into seconds by fps)",
        folders=", ".join(VIDEO_FOLDERS),
        licence="research use (MPII); JSON files MIT",
        size="—",
    ),
)
