"""DiDeMo as paragraph-to-video retrieval: all sentences of a video, joined."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from simvtp.data.benchmarks import annotation_files, video_files
from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader, Source
from simvtp.data.benchmarks.records import Benchmark

FOLDERS = ("DiDeMo", "didemo", "LocalizingMoments/data")
LIST_FOLDERS = ("ce_lists", "DiDeMo", "didemo")
VIDEO_FOLDERS = ("videos", "video", "didemo_videos", "DiDeMo_Videos")
ANNOTATED_S = 30.0
SPLITS = ("train", "val", "test")


def open_didemo(root: Path, protocol: str) -> Benchmark:
    splits: dict[str, list[str]] = {}
    paragraphs: dict[str, list[str]] = {}
    read, notes = (
        {},
        [
            "the sentences of a video are joined to one paragraph, in the order of the file; long "
            "ones are cut at model.text_length"
        ],
    )
    for split in SPLITS:
        path = annotation_files.find(root, [f"{split}_data.json"], FOLDERS)
        sentences = _read_sentences(path)
        read[split] = sum(map(len, sentences.values()))
        splits[split] = list(sentences)
        if protocol == "paragraph-ce":
            place = annotation_files.find(root, [f"{split}_list.txt"], LIST_FOLDERS)
            splits[split] = annotation_files.read_lines(place)
            annotation_files.require_unique(splits[split], place, "videos")
            annotation_files.require_known(splits[split], sentences, split, path)
            notes.append(
                f"{split}: {len(splits[split])} of {len(sentences)} annotated videos are in "
                f"{place.name}"
            )
        paragraphs |= {video: [" ".join(several)] for video, several in sentences.items()}
    annotation_files.require_apart(splits, "didemo")
    finder = video_files.VideoFinder(root, VIDEO_FOLDERS)
    videos = {video: finder.path(video) for ids in splits.values() for video in ids}
    clips = tuple(
        replace(clip, end_s=ANNOTATED_S)
        for clip in annotation_files.make_clips(splits, paragraphs, videos, root)
    )
    notes.append(
        f"the sentences speak of the first {ANNOTATED_S:g} s of a video; longer ones are cut there"
    )
    return Benchmark(
        "didemo", "retrieval", protocol, videos, clips=clips, notes=tuple(notes), read=read
    )


def _read_sentences(path: Path) -> dict[str, list[str]]:
    rows = annotation_files.listed(annotation_files.read_json(path), path, "the file")
    annotation_files.require_unique(
        [annotation_files.get(row, "annotation_id", path, "an annotation") for row in rows],
        path,
        "annotation_ids",
    )
    sentences: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        video = annotation_files.text(
            annotation_files.get(row, "video", path, "an annotation"), path, "a video"
        )
        sentences[video].append(
            annotation_files.text(
                annotation_files.get(row, "description", path, "an annotation"),
                path,
                "a description",
            )
        )
    return dict(sentences)


DIDEMO = BenchmarkReader(
    "didemo",
    "retrieval",
    ("paragraph", "paragraph-ce"),
    open_didemo,
    Source(
        where=(
            "github.com/LisaAnne/LocalizingMoments (annotations, links to the videos); lists for "
            "paragraph-ce: Collaborative Experts"
        ),
        files=(
            "{train,val,test}_data.json; paragraph-ce (videos that could still be had; 1,004 in "
            "test): also {train,val,test}_list.txt"
        ),
        folders=", ".join(VIDEO_FOLDERS),
        licence="annotations BSD 2-Clause; videos YFCC100M (Creative Commons, each its own)",
        size="—",
    ),
)
