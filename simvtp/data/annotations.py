"""Opens the questions, moments and actions of a benchmark or of the embedded data set."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.data.benchmarks import BENCHMARKS, open_benchmark
from simvtp.data.benchmarks.records import (
    Action,
    Benchmark,
    Moment,
    Question,
    QuestionKind,
    Span,
    TaskName,
)
from simvtp.data.datasets import cache_dir
from simvtp.data.manifest import hash_unit, read_manifest
from simvtp.data.shapes.generate import shapes_folder
from simvtp.data.shapes.questions import counting
from simvtp.data.shapes.scene import FPS, MOTIONS
from simvtp.errors import DataError

# of a multiple-choice question of the embedded data set, where its category has so many answers
CANDIDATES = 4
CHOICE_TASKS = ("qa", "choice")  # benchmarks that hold questions


def open_annotations(
    data: DataConfig, runtime: RuntimeConfig, task: TaskName, kind: QuestionKind = "open"
) -> Benchmark:
    """Returns what `data.dataset` holds for a task.

    Args:
        task: qa, choice, action or grounding.
        kind: which form the questions of the embedded data set take; a benchmark's questions have
            the form that they have.

    Raises:
        DataError: the data set holds nothing for the task, or a file is missing.
    """
    if data.dataset == "shapes":
        return _shapes(shapes_folder(data.shapes, cache_dir(runtime)), task, kind)
    if data.dataset not in BENCHMARKS:
        raise DataError(
            f"data.dataset={data.dataset} has captions only: for {task} name a benchmark "
            "(`python -m simvtp data list`) or shapes."
        )
    benchmark = open_benchmark(data.dataset, data.root, data.protocol)
    found = {
        "qa": benchmark.questions,
        "choice": benchmark.questions,
        "action": benchmark.actions,
        "grounding": benchmark.moments,
    }[task]
    if not found:
        fitting = [
            name
            for name, reader in BENCHMARKS.items()
            if reader.task == task or {reader.task, task} == set(CHOICE_TASKS)
        ]
        raise DataError(
            f"{data.dataset} is annotated for {benchmark.task}, not for {task}; choose from "
            f"shapes, {', '.join(fitting)}."
        )
    return benchmark


# ---- the embedded data set -----------------------------------------------------------------------


def _shapes(folder: Path, task: TaskName, kind: QuestionKind) -> Benchmark:
    clips = read_manifest(folder / "manifest.csv").clips
    common = {
        "name": "shapes",
        "task": task,
        "protocol": kind if task == "qa" else "",
        "videos": {clip.id: clip.path for clip in clips},
    }
    if task == "action":
        rows = _rows(folder / "actions.csv")
        return Benchmark(
            **common,  # type: ignore[arg-type]
            actions=tuple(Action(r["videoid"], r["label"], r["split"]) for r in rows),
            labels=MOTIONS,
        )
    if task == "grounding":
        lengths = {record["videoid"]: record["frames"] / FPS for record in _records(folder)}
        moments = (
            Moment(
                f"{row['videoid']}#{number}",
                row["videoid"],
                row["sentence"],
                Span(float(row["start_s"]), float(row["end_s"])),
                lengths[row["videoid"]],
                row["split"],
            )
            for number, row in enumerate(_rows(folder / "grounding.csv"))
        )
        return Benchmark(**common, moments=tuple(moments))  # type: ignore[arg-type]
    if task == "qa" and kind == "count":
        return Benchmark(**common, questions=_counting(_records(folder)))  # type: ignore[arg-type]
    if task == "qa":
        return Benchmark(**common, questions=_questions(_rows(folder / "questions.csv"), kind))  # type: ignore[arg-type]
    raise DataError(f"the embedded data set has no annotations for {task}.")


def _questions(rows: list[dict[str, str]], kind: QuestionKind) -> tuple[Question, ...]:
    """Returns the questions in the form asked for.

    A candidate is any answer that its category has in the training split.
    """
    answers: dict[str, list[str]] = {}
    for row in rows:
        if row["split"] == "train" and row["answer"] not in answers.setdefault(row["kind"], []):
            answers[row["kind"]].append(row["answer"])
    found = []
    for number, row in enumerate(rows):
        name, answer, category = f"{row['videoid']}#{number}", row["answer"], row["kind"]
        candidates = (
            _candidates(name, answer, answers.get(category, [])) if kind == "choice" else ()
        )
        found.append(
            Question(
                name,
                row["videoid"],
                row["question"],
                answer,
                candidates,
                kind,
                row["split"],
                category,
            )
        )
    return tuple(found)


def _counting(records: list[dict[str, Any]]) -> tuple[Question, ...]:
    """Returns all counting questions about each clip.

    They are read off the scenes: questions.csv has too few to learn from.
    """
    return tuple(
        Question(
            f"{record['videoid']}#{number}",
            record["videoid"],
            text,
            str(answer),
            (),
            "count",
            record["split"],
            category,
        )
        for record in records
        for number, (category, text, answer) in enumerate(
            counting(record["videoid"], record["objects"])
        )
    )


def _candidates(name: str, answer: str, known: list[str]) -> tuple[str, ...]:
    """Returns the answer and others of its category, ordered by a hash of the question's name."""

    def draw(text: str) -> float:
        return hash_unit(f"candidate {text}", name)

    wrong = sorted((other for other in known if other != answer), key=draw)[: CANDIDATES - 1]
    return tuple(sorted((answer, *wrong), key=lambda text: hash_unit(f"place {text}", name)))


def _records(folder: Path) -> list[dict[str, Any]]:
    """Returns the scenes, a dictionary for each clip."""
    path = folder / "records.jsonl"
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): remove its folder, and it is made again."
        ) from error


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): remove its folder, and it is made again."
        ) from error


def order_of(texts: Mapping[str, int]) -> tuple[str, ...]:
    """Returns texts from the most to the least frequent, equal ones by alphabet."""
    return tuple(sorted(texts, key=lambda text: (-texts[text], text)))
