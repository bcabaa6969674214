"""MSRVTT-QA: open-ended questions about the MSR-VTT videos."""

from __future__ import annotations

from pathlib import Path

from simvtp.data.benchmarks import annotation_files
from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader, Source
from simvtp.data.benchmarks.msrvtt import FOLDERS, VIDEO_FOLDERS, video_finder
from simvtp.data.benchmarks.open_questions import SPLITS, read_questions
from simvtp.data.benchmarks.records import Benchmark, videos_by_split

NAMES = {
    split: (f"{split}_qa.json", f"{split}.csv", f"{split}.jsonl", f"msrvtt_qa_{split}.jsonl")
    for split in SPLITS
}


def open_msrvtt_qa(root: Path, protocol: str) -> Benchmark:
    questions, notes = read_questions(
        root, ("MSRVTT-QA", "msrvtt_qa", "qa", *FOLDERS), NAMES, _video
    )
    annotation_files.require_apart(videos_by_split(questions), "msrvtt_qa")
    finder = video_finder(root)
    videos = {name: finder.path(name) for name in dict.fromkeys(q.video for q in questions)}
    return Benchmark(
        "msrvtt_qa",
        "qa",
        protocol,
        videos,
        questions=questions,
        notes=tuple(notes),
        read=annotation_files.count_splits(questions),
    )


def _video(place: str, path: Path) -> str:
    """Returns the id; the files say 7010 or video7010."""
    number = place.removeprefix("video")
    return (
        f"video{number}"
        if number.isdigit()
        else annotation_files.refuse(
            path, f"has video '{place}'; expected a number, or video and a number"
        )
    )


MSRVTT_QA = BenchmarkReader(
    "msrvtt_qa",
    "qa",
    ("standard",),
    open_msrvtt_qa,
    Source(
        where="github.com/xudejing/video-question-answering; videos as msrvtt",
        files=(
            "{train,val,test}_qa.json, else {train,val,test}.csv (HQGA), else "
            "{train,val,test}.jsonl (ClipBERT)"
        ),
        folders=", ".join(VIDEO_FOLDERS),
        licence="as msrvtt",
        size="as msrvtt",
    ),
)
