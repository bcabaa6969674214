"""Records of annotation files in one form for all benchmarks.

They are captions, questions, moments and actions; `Clip` (a video with its captions) is in
`simvtp.data.clips`. A reader of `simvtp.data.benchmarks` turns the official files of one benchmark
into one `Benchmark`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from simvtp.data.clips import Clip
from simvtp.data.manifest import SPLITS
from simvtp.errors import DataError

TaskName = Literal["pretraining", "retrieval", "choice", "qa", "grounding", "action", "image_text"]
QuestionKind = Literal["open", "choice", "count"]


@dataclass(frozen=True)
class Span:
    """A part of a video, in seconds; it ends after it starts."""

    start_s: float
    end_s: float

    def __post_init__(self) -> None:
        if not 0 <= self.start_s < self.end_s < float("inf"):
            raise DataError(
                f"a span from {self.start_s} s to {self.end_s} s: it must start at 0 or later and "
                "end after its start."
            )


@dataclass(frozen=True)
class Question:
    """A question about a video.

    Kinds: `choice`: the answer is one of the candidates; `count`: it is a number, as text; `open`:
    any words.
    """

    id: str
    video: str
    text: str
    answer: str
    candidates: tuple[str, ...] = ()
    kind: QuestionKind = "open"
    split: str = ""  # train | val | test
    category: str = ""  # what the benchmark sorts its questions by, for example what, who, how

    def __post_init__(self) -> None:
        if self.kind == "choice" and self.answer not in self.candidates:
            raise DataError(
                f"question {self.id}: its answer '{self.answer}' is none of its "
                f"{len(self.candidates)} candidates."
            )
        if self.kind == "count" and not _is_number(self.answer):
            raise DataError(f"question {self.id}: its answer '{self.answer}' must be a number.")


@dataclass(frozen=True)
class Moment:
    """A sentence and the span of the video that it describes."""

    id: str
    video: str
    sentence: str
    span: Span
    duration_s: float | None  # of the whole video; None if the files do not say
    split: str = ""  # train | val | test


@dataclass(frozen=True)
class Action:
    """A video and its class."""

    video: str
    label: str
    split: str = ""  # train | val | test


@dataclass(frozen=True)
class Benchmark:
    """Annotations of one benchmark under one protocol.

    Only the records of its task are filled in; for choice, also those of training.
    """

    name: str
    task: TaskName
    protocol: str
    videos: Mapping[str, Path]  # id -> where the file lies, or should lie if it was not found
    clips: tuple[
        Clip, ...
    ] = ()  # pretraining, retrieval, image_text; choice: captioned videos of train and val
    questions: tuple[Question, ...] = ()  # qa, choice
    moments: tuple[Moment, ...] = ()  # grounding
    actions: tuple[Action, ...] = ()  # action
    labels: tuple[str, ...] = ()  # the classes, in the benchmark's order
    notes: tuple[str, ...] = ()  # what a reader of the figures should know
    read: Mapping[str, int] = field(
        default_factory=dict
    )  # split -> annotations in the files, with those that a note says were left out

    @property
    def digest(self) -> str:
        """Digest (sha256) of all annotations; it does not depend on the layout of the files."""
        sha = hashlib.sha256()
        for row in self._content():
            line = json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"
            sha.update(line.encode("utf-8", "surrogatepass"))
        return sha.hexdigest()

    def split(self, name: str) -> Benchmark:
        """Returns the benchmark with the records of one split."""
        if name not in SPLITS:
            raise DataError(f"split '{name}': choose one of {', '.join(SPLITS)}.")
        kept: dict[str, Any] = {
            kind: tuple(r for r in getattr(self, kind) if r.split == name) for kind in _RECORDS
        }
        ids = {clip.id for clip in kept["clips"]} | {
            r.video for kind in _RECORDS[1:] for r in kept[kind]
        }
        return Benchmark(
            self.name,
            self.task,
            self.protocol,
            {video: path for video, path in self.videos.items() if video in ids},
            labels=self.labels,
            notes=self.notes,
            read={key: value for key, value in self.read.items() if key == name},
            **kept,
        )

    def _content(self) -> Iterator[list[Any]]:
        yield [self.name, self.task, self.protocol, list(self.labels)]
        for c in self.clips:
            yield [c.id, list(c.captions), c.split, c.start_s, c.end_s]
        for q in self.questions:
            yield [q.id, q.video, q.text, q.answer, list(q.candidates), q.kind, q.split, q.category]
        for m in self.moments:
            yield [m.id, m.video, m.sentence, m.span.start_s, m.span.end_s, m.duration_s, m.split]
        for a in self.actions:
            yield [a.video, a.label, a.split]


_RECORDS = ("clips", "questions", "moments", "actions")


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False


def videos_by_split(questions: Sequence[Question]) -> dict[str, list[str]]:
    """Returns {split: videos of its questions} for the splits that have some."""
    videos: dict[str, list[str]] = {}
    for question in questions:
        videos.setdefault(question.split, []).append(question.video)
    return videos
