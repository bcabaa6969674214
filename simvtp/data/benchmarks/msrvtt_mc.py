"""MSR-VTT multiple choice: five sentences for each of 2,990 test videos, one describes it.

There are no training questions. A model is trained on the captions of the official training split
of MSR-VTT (its validation split selects), if they are available.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simvtp.data.benchmarks import annotation_files
from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader, Source
from simvtp.data.benchmarks.msrvtt import FOLDERS, VIDEO_FOLDERS, open_msrvtt, video_finder
from simvtp.data.benchmarks.records import Benchmark, Question
from simvtp.data.clips import Clip
from simvtp.errors import DataError

FILES = ("MSR_MC_test.csv", "msrvtt_mc_test.jsonl", "mc_test.jsonl")
OPTIONS = ("a1", "a2", "a3", "a4", "a5")


def open_msrvtt_mc(root: Path, protocol: str) -> Benchmark:
    path = annotation_files.find(root, FILES, (*FOLDERS, "msrvtt_mc", "MSRVTT-QA"))
    rows = _read_lines(path) if path.suffix == ".jsonl" else _read_table(path)
    annotation_files.require_unique([name for name, *_ in rows], path, "questions")
    questions = []
    for name, video, candidates, right in rows:
        if not right.isdigit() or int(right) >= len(candidates) or not all(candidates):
            annotation_files.refuse(
                path,
                f"has answer '{right}' and {len(candidates)} sentences for {video}; it must be 0 "
                "to 4 of five sentences",
            )
        questions.append(
            Question(name, video, "", candidates[int(right)], candidates, "choice", "test")
        )
    finder = video_finder(root)
    clips, note = _captions(root)
    annotation_files.require_apart(
        {"test": [q.video for q in questions], "train and val": [clip.id for clip in clips]},
        "msrvtt_mc",
    )
    videos = {clip.id: clip.path for clip in clips} | {
        question.video: finder.path(question.video) for question in questions
    }
    return Benchmark(
        "msrvtt_mc",
        "choice",
        protocol,
        videos,
        clips=clips,
        questions=tuple(questions),
        notes=(note,),
        read=annotation_files.count_splits(questions),
    )


def _captions(root: Path) -> tuple[tuple[Clip, ...], str]:
    """Returns captioned videos of the official training and validation splits, and a note.

    There are none if they cannot be read.
    """
    test_only = "test only: no training questions are published"
    try:
        captioned = open_msrvtt(root, "full").clips
    except DataError as error:
        return (
            (),
            f"{test_only}, and no captions of MSR-VTT to train on were found, so there is "
            f"zero-shot choice only: {error}",
        )
    clips = tuple(clip for clip in captioned if clip.split != "test")
    return (
        clips,
        f"{test_only}; training is on the captions of the official training split of MSR-VTT, its "
        "validation split selects",
    )


Row = tuple[str, str, tuple[str, ...], str]  # id, video, sentences, number of the right one from 0


def _read_table(path: Path) -> list[Row]:
    rows = annotation_files.read_table(path, ["vid_key", *OPTIONS, "answer"], tab=True)
    return [
        (
            row["vid_key"],
            row["vid_key"].replace("msr", "video", 1),
            tuple(row[key] for key in OPTIONS),
            row["answer"],
        )
        for row in rows
    ]


def _read_lines(path: Path) -> list[Row]:
    def row(number: int, entry: Any) -> Row:
        what = f"line {number}"
        options = tuple(
            annotation_files.text(option, path, f"an option in {what}")
            for option in annotation_files.listed(
                annotation_files.get(entry, "options", path, what), path, f"'options' in {what}"
            )
        )
        video = annotation_files.text(
            annotation_files.get(entry, "clip_name", path, what), path, f"the clip_name in {what}"
        )
        answer = annotation_files.text(
            annotation_files.get(entry, "answer", path, what), path, f"the answer in {what}"
        )
        return str(entry.get("qid", number)), video, options, answer

    return [
        row(number, entry)
        for number, entry in enumerate(annotation_files.read_json_lines(path), start=1)
    ]


MSRVTT_MC = BenchmarkReader(
    "msrvtt_mc",
    "choice",
    ("standard",),
    open_msrvtt_mc,
    Source(
        where=(
            "github.com/yj-yu/lsmdc (JSFusion), or the jsonl re-issue of ClipBERT; videos as msrvtt"
        ),
        files=" or ".join(FILES) + "; to train: the captions of msrvtt with the split full",
        folders=", ".join(VIDEO_FOLDERS),
        licence="as msrvtt",
        size="as msrvtt",
    ),
)
