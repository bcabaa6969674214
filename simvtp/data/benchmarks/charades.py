"""Charades-STA: sentences and their spans in videos of daily life."""

from __future__ import annotations

from pathlib import Path

from simvtp.data.benchmarks import annotation_files, video_files
from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader, Source
from simvtp.data.benchmarks.moments import MomentCollector
from simvtp.data.benchmarks.records import Benchmark

FOLDERS = ("Charades", "charades", "charades_sta", "Charades-STA")
VIDEO_FOLDERS = ("Charades_v1_480", "Charades_v1", "videos")


def open_charades_sta(root: Path, protocol: str) -> Benchmark:
    collector = MomentCollector()
    notes: list[str] = []
    for split in ("train", "test"):
        path = annotation_files.find(root, [f"charades_sta_{split}.txt"], FOLDERS)
        lengths = _read_lengths(root, split)
        if not lengths:
            notes.append(
                f"{split}: no Charades_v1_{split}.csv, so the lengths of the videos are not known "
                "and spans are not cut at their end"
            )
        for number, line in enumerate(annotation_files.read_lines(path), start=1):
            head, marks, sentence = line.partition("##")
            words = head.split()
            if not marks or len(words) != 3:
                annotation_files.refuse(
                    path,
                    f"has a line {number} that is not 'VIDEO START END##SENTENCE': '{line[:60]}'",
                )
            start, end = (
                annotation_files.number(word, path, f"a time in line {number}")
                for word in words[1:]
            )
            collector.add(split, words[0], sentence, start, end, lengths.get(words[0]))
    annotation_files.require_apart(collector.videos, "charades_sta")
    finder = video_files.VideoFinder(root, VIDEO_FOLDERS)
    videos = {video: finder.path(video) for ids in collector.videos.values() for video in ids}
    return collector.benchmark("charades_sta", protocol, videos, tuple(notes))


def _read_lengths(root: Path, split: str) -> dict[str, float]:
    """Returns seconds by video, from the table of Charades itself if it exists."""
    path = annotation_files.find_if_there(root, [f"Charades_v1_{split}.csv"], FOLDERS)
    if path is None:
        return {}
    return {
        row["id"]: annotation_files.number(row["length"], path, f"the length of {row['id']}")
        for row in annotation_files.read_table(path, ["id", "length"])
    }


CHARADES_STA = BenchmarkReader(
    "charades_sta",
    "grounding",
    ("standard",),
    open_charades_sta,
    Source(
        where=(
            "github.com/jiyanggao/TALL (sentences); videos and Charades_v1_{train,test}.csv: "
            "Charades page of the Allen Institute for AI"
        ),
        files=(
            "charades_sta_{train,test}.txt; if there, Charades_v1_{train,test}.csv (lengths of "
            "the videos)"
        ),
        folders=", ".join(VIDEO_FOLDERS),
        licence="Charades: non-commercial use",
        size="13 GB (480p)",
    ),
)
