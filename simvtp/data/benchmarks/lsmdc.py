"""LSMDC: clips of movies with a sentence each, for retrieval and for multiple choice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from simvtp.data.benchmarks import annotation_files, video_files
from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader, Source
from simvtp.data.benchmarks.records import Benchmark, Question
from simvtp.data.clips import Clip

FOLDERS = ("LSMDC", "lsmdc", "task1", "task2", "annotations/task1", "annotations/task2")
VIDEO_FOLDERS = ("LSMDC_Videos", "videos", "avi", "clips")
RETRIEVAL = {
    "train": ("LSMDC16_annos_training.csv", "LSMDC16_annos_training_someone.csv"),
    "val": ("LSMDC16_annos_val.csv", "LSMDC16_annos_val_someone.csv"),
    "test": ("LSMDC16_challenge_1000_publictect.csv",),
}
CHOICE = {
    "train": "LSMDC16_multiple_choice_train.csv",
    "val": "LSMDC16_multiple_choice_valid.csv",
    "test": "LSMDC16_multiple_choice_test_randomized.csv",
}
TIMES = ("clip", "start aligned", "end aligned", "start extracted", "end extracted")
OPTIONS = tuple(f"sentence {i}" for i in range(1, 6))
WHERE = "LSMDC 2016 page (an account is needed for annotations and clips)"
LICENCE = "research use, by agreement with the publishers"


def open_lsmdc(root: Path, protocol: str) -> Benchmark:
    splits: dict[str, list[str]] = {}
    captions: dict[str, list[str]] = {}
    notes, read = [], {}
    for split, names in RETRIEVAL.items():
        path = annotation_files.find(root, names, FOLDERS)
        rows = annotation_files.read_bare_table(path, (*TIMES, "sentence"))
        read[split] = len(rows)
        several: defaultdict[str, list[str]] = defaultdict(list)
        for row in rows:
            several[row[0]].append(row[-1])
        if split == "test":
            annotation_files.require_unique([row[0] for row in rows], path, "clips")
        elif len(several) < len(rows):
            notes.append(
                f"{split}: {len(rows)} sentences of {len(several)} clips; a clip that comes again "
                "has several captions"
            )
        splits[split] = list(several)
        captions |= several
    annotation_files.require_apart(splits, "lsmdc")
    videos = _videos(root, [name for ids in splits.values() for name in ids])
    clips = annotation_files.make_clips(splits, captions, videos, root)
    return Benchmark(
        "lsmdc", "retrieval", protocol, videos, clips=clips, notes=tuple(notes), read=read
    )


def open_lsmdc_mc(root: Path, protocol: str) -> Benchmark:
    questions: list[Question] = []
    splits: dict[str, list[str]] = {}
    for split, name in CHOICE.items():
        path = annotation_files.find(root, [name], FOLDERS)
        # The training and validation files have the right sentence first and no index; the test
        # file is shuffled and has one (1 to 5).
        shuffled = split == "test"
        rows = annotation_files.read_bare_table(
            path, (*TIMES, *OPTIONS, "answer") if shuffled else (*TIMES, *OPTIONS)
        )
        for number, row in enumerate(rows, start=1):
            right = "1"
            if shuffled:
                right = row[-1]
                if right not in ("1", "2", "3", "4", "5"):
                    annotation_files.refuse(
                        path, f"has '{right}' in row {number} where the answer should be 1 to 5"
                    )
            candidates = tuple(row[len(TIMES) : len(TIMES) + 5])
            if not all(candidates):
                annotation_files.refuse(path, f"has an empty sentence in row {number}")
            answer = candidates[int(right) - 1]
            questions.append(
                Question(f"{split}-{number}", row[0], "", answer, candidates, "choice", split)
            )
        splits[split] = list(dict.fromkeys(row[0] for row in rows))
    annotation_files.require_apart(splits, "lsmdc_mc")
    videos = _videos(root, [name for ids in splits.values() for name in ids])
    notes = (
        "there is no question, only five sentences, of which one describes the clip; answer is "
        "the text of the right one",
        "training is on the right sentences of train as captions; val and test are the published "
        "choices",
    )
    return Benchmark(
        "lsmdc_mc",
        "choice",
        protocol,
        videos,
        clips=_captioned(questions, videos, root),
        questions=tuple(questions),
        notes=notes,
        read=annotation_files.count_splits(questions),
    )


def _captioned(
    questions: Sequence[Question], videos: Mapping[str, Path], root: Path
) -> tuple[Clip, ...]:
    """Returns the clips of train and val with their right sentences as captions."""
    captions: defaultdict[str, list[str]] = defaultdict(list)
    splits: dict[str, list[str]] = {"train": [], "val": []}
    for question in questions:
        if question.split in splits:
            if question.video not in captions:
                splits[question.split].append(question.video)
            captions[question.video].append(question.answer)
    return annotation_files.make_clips(splits, captions, videos, root)


def _videos(root: Path, clips: list[str]) -> dict[str, Path]:
    """Finds clips, which lie in a folder by movie.

    For example 1004_Juno_00.00.32.690-00.00.37.013 lies in 1004_Juno.
    """
    finder = video_files.VideoFinder(root, VIDEO_FOLDERS)
    return {clip: finder.path(clip, f"{clip.rpartition('_')[0]}/{clip}.avi") for clip in clips}


LSMDC = BenchmarkReader(
    "lsmdc",
    "retrieval",
    ("standard",),
    open_lsmdc,
    Source(
        where=WHERE,
        files="; ".join(" or ".join(names) for names in RETRIEVAL.values()),
        folders=", ".join(VIDEO_FOLDERS),
        licence=LICENCE,
        size="—",
    ),
)
LSMDC_MC = BenchmarkReader(
    "lsmdc_mc",
    "choice",
    ("standard",),
    open_lsmdc_mc,
    Source(
        where=WHERE,
        files="; ".join(CHOICE.values()),
        folders=", ".join(VIDEO_FOLDERS),
        licence=LICENCE,
        size="—",
    ),
)
