"""Open-ended questions in the official JSON form of MSRVTT-QA and MSVD-QA.

Their CSV and JSON-lines re-issues are read too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from simvtp.data.benchmarks import annotation_files
from simvtp.data.benchmarks.records import Question

SPLITS = ("train", "val", "test")
KINDS = (
    "what",
    "who",
    "how",
    "when",
    "where",
)  # by the first word, as the benchmarks themselves report them


def read_questions(
    root: Path,
    folders: Sequence[str],
    names: Mapping[str, Sequence[str]],
    video: Callable[[str, Path], str],
) -> tuple[tuple[Question, ...], list[str]]:
    """Returns the questions of all splits, and notes.

    Args:
        names: split -> file names, in the order in which they are tried.
        video: turns the video of a file into its id.
    """
    questions: list[Question] = []
    notes: list[str] = []
    forms = set()
    for split in SPLITS:
        path = annotation_files.find(root, names[split], folders)
        forms.add(path.suffix)
        rows = _read(path)
        ids = [name for name, *_ in rows]
        annotation_files.require_unique(ids, path, "questions")
        bare = [name for name, _, text, answer in rows if not text or not answer]
        if bare:
            annotation_files.refuse(
                path,
                f"has {len(bare)} questions without words or without an answer: "
                f"{annotation_files.few(bare)}",
            )
        for name, place, text, answer in rows:
            first = text.split()[0].lower()
            category = first if first in KINDS else "other"
            questions.append(
                Question(
                    f"{split}:{name}",
                    video(place, path),
                    text,
                    answer,
                    split=split,
                    category=category,
                )
            )
    if len(forms) > 1:
        notes.append(
            f"the splits come from files of several forms ({', '.join(sorted(forms))}), which may "
            "differ in case and punctuation"
        )
    return tuple(questions), notes


def _read(path: Path) -> list[tuple[str, str, str, str]]:
    """Returns (id, video, question, answer) of each row."""
    if path.suffix == ".csv":
        rows = annotation_files.read_table(path, ["video", "question", "answer", "qid"])
        return [(row["qid"], row["video"], row["question"], row["answer"]) for row in rows]
    entries: list[Any] = (
        annotation_files.read_json_lines(path)
        if path.suffix == ".jsonl"
        else annotation_files.listed(annotation_files.read_json(path), path, "the file")
    )
    found = []
    for number, entry in enumerate(entries, start=1):
        what = f"question {number}"
        video, question, answer = (
            annotation_files.text(
                annotation_files.get(entry, key, path, what), path, f"'{key}' of {what}"
            )
            for key in ("video_id", "question", "answer")
        )
        found.append(
            (str(entry.get("id", entry.get("question_id", number))), video, question, answer)
        )
    return found
