"""TGIF-QA: questions about animated GIFs.

They ask about repeated actions, transitions, single frames, and counts.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from simvtp.data.benchmarks import annotation_files, video_files
from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader, Source
from simvtp.data.benchmarks.records import Benchmark, Question, QuestionKind, videos_by_split

FOLDERS = ("TGIF-QA", "tgif_qa", "tgif-qa", "dataset")
VIDEO_FOLDERS = ("gifs", "videos", "TGIF", "tgif")
NAMES = {"action": "action", "transition": "transition", "frame": "frameqa", "count": "count"}
OPTIONS = ("a1", "a2", "a3", "a4", "a5")
FRAME_KINDS = {"0": "object", "1": "number", "2": "colour", "3": "location"}


def open_tgif_qa(root: Path, protocol: str) -> Benchmark:
    questions: list[Question] = []
    for split, name in (("train", "Train"), ("test", "Test")):
        stem = f"{name}_{NAMES[protocol]}_question"
        questions += _read(
            annotation_files.find(root, [f"{stem}.csv", f"{stem}.tsv"], FOLDERS), protocol, split
        )
    annotation_files.require_apart(videos_by_split(questions), f"tgif_qa {protocol}")
    read = annotation_files.count_splits(questions)
    train = list(dict.fromkeys(q.video for q in questions if q.split == "train"))
    held = annotation_files.hold_out(train)
    questions = [
        replace(q, split="val") if q.split == "train" and q.video in held else q for q in questions
    ]
    finder = video_files.VideoFinder(
        root,
        VIDEO_FOLDERS,
        (".gif", *(ending for ending in video_files.VIDEOS if ending != ".gif")),
    )
    videos = {video: finder.path(video) for video in dict.fromkeys(q.video for q in questions)}
    notes = (
        annotation_files.held_out_note(len(held), len(train), what="GIFs"),
        "GIF files are read by data.reader=pyav; decord does not open them",
    )
    return Benchmark(
        "tgif_qa", "qa", protocol, videos, questions=tuple(questions), notes=notes, read=read
    )


def _read(path: Path, protocol: str, split: str) -> list[Question]:
    choice = protocol in ("action", "transition")
    rows = annotation_files.read_table(
        path, ["gif_name", "question", *(OPTIONS if choice else ()), "answer", "vid_id"], tab=True
    )
    annotation_files.require_unique([row["vid_id"] for row in rows], path, "questions (vid_id)")
    questions = []
    for row in rows:
        name, answer, candidates = (
            row["vid_id"],
            row["answer"],
            tuple(row[key] for key in OPTIONS) if choice else (),
        )
        if choice:
            if answer not in ("0", "1", "2", "3", "4") or not all(candidates):
                annotation_files.refuse(
                    path,
                    f"has answer '{answer}' for {name}; it must be 0 to 4, of five answers that "
                    "are not empty",
                )
            answer = candidates[int(answer)]
        elif protocol == "count":
            annotation_files.number(answer, path, f"the answer of {name}")
        if not row["question"] or not answer:
            annotation_files.refuse(path, f"has no question or no answer for {name}")
        kind: QuestionKind = "choice" if choice else "count" if protocol == "count" else "open"
        category = FRAME_KINDS.get(row.get("type", ""), protocol)
        questions.append(
            Question(
                f"{split}:{name}",
                row["gif_name"],
                row["question"],
                answer,
                candidates,
                kind,
                split,
                category,
            )
        )
    return questions


TGIF_QA = BenchmarkReader(
    "tgif_qa",
    "qa",
    ("action", "transition", "frame", "count"),
    open_tgif_qa,
    Source(
        where="github.com/YunseokJANG/tgif-qa (annotations); GIFs: github.com/raingo/TGIF-Release",
        files="{Train,Test}_{action,transition,frameqa,count}_question.csv (TAB-separated)",
        folders=", ".join(VIDEO_FOLDERS),
        licence="not stated for the questions; GIFs are their uploaders'",
        size="—",
    ),
    needs_reader="pyav",
)
