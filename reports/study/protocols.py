"""Decides which values may share a column or be compared, and puts protocols into words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from simvtp.runs.results import FRAME_ORDERS, NEEDS_MOTION, USE, Result, direction_name

# Fields of a protocol that may differ within a column.
IGNORED_FIELDS = ("seed", "checkpoint")
NO_TEST_ITEMS = ("data.shapes.train", "data.shapes.val")


@dataclass(frozen=True)
class TaskWords:
    """Words for a task in captions: its name, what is asked, and what the answer is among."""

    name: str
    queries: str
    candidates: str


TASKS: Mapping[str, TaskWords] = {  # by `Protocol.task`
    "retrieval": TaskWords("retrieval", "queries", "candidates"),
    "image_text": TaskWords("retrieval", "queries", "candidates"),
    "qa": TaskWords("question answering", "questions", "candidates"),
    "choice": TaskWords("video-text multiple choice", "clips", "captions each"),
    "action": TaskWords("action recognition", "videos", "classes"),
    "use": TaskWords("use of the other modality", "clips", ""),
    "grounding": TaskWords("temporal grounding", "sentences", "candidates"),
}


def task_words(task: str) -> TaskWords:
    """Returns the words for `Protocol.task`; an unknown task is called by its own name."""
    return TASKS.get(task, TaskWords(task, "queries", "candidates"))


def comparable_fields(result: Result, varied: Iterable[str] = ()) -> dict[str, Any]:
    """Returns what must agree before two values may be compared.

    Args:
        result: the measured result.
        varied: fields of the protocol that the sweep itself varies.
    """
    ignored = {*IGNORED_FIELDS, *varied}
    fields = {name: value for name, value in vars(result.protocol).items() if name not in ignored}
    return fields | {"queries": result.queries, "gallery": result.gallery}


def identify_test_set(settings: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Returns the settings that decide which test items a run is scored on.

    Two runs have the same test items exactly if these are equal. Sizes of the other splits do not
    count, and every other `data.shapes.*` setting does, so that a new one is never forgotten.

    Args:
        settings: flat settings `{"data.dataset": ...}`, of one source (the tracker's texts, or an
            experiment.json); values are compared as text.
    """
    named = ("data.dataset", "data.manifest_digest", "data.protocol", "data.splits")
    drawn = sorted(
        name for name in settings if name.startswith("data.shapes.") and name not in NO_TEST_ITEMS
    )
    return tuple((name, str(settings.get(name, ""))) for name in (*named, *drawn))


def frame_order(result: Result) -> str:
    """Returns the order that the frames of the clips were put into; "" for their own."""
    order = result.protocol.setting.rpartition(", ")[2]
    return order if order in FRAME_ORDERS else ""


def asked_queries(result: Result) -> str:
    """Returns which queries were asked, by their need of motion; "" for all."""
    part = result.protocol.setting.rpartition(", ")[2]
    return part if part in NEEDS_MOTION else ""


def is_check(result: Result) -> bool:
    """Returns True for figures of a manipulation check, which have tables of their own.

    They say what a model uses (`use`, retrieval with frames in another order, or by the queries'
    need of motion), not how good it is.
    """
    return result.protocol.task == USE or bool(frame_order(result) or asked_queries(result))


def protocol_text(*results: Result) -> str:
    """Returns a protocol in words, for captions.

    Several results must differ in their direction only; the directions are then named together.
    """
    protocol, first = results[0].protocol, results[0]
    words = task_words(protocol.task)
    directions = " and ".join(
        direction_name(result.protocol.direction).replace(" ", "-") for result in results
    )
    size = f"{first.queries} {words.queries}"
    if first.gallery:
        size += f" against {first.gallery} {words.candidates}"
    frames = f"{protocol.frames} frame{'s' if protocol.frames > 1 else ''}"
    views = f"{frames}, {protocol.segments} × {protocol.crops} views (segments × crops)"
    views += f" merged by {protocol.merging}" if protocol.merging else ""
    views += f" in {protocol.precision}" if protocol.precision else ""
    variant = f" ({protocol.variant})" if protocol.variant else ""
    data = f"{protocol.dataset} ({protocol.split} split, {size})"
    text = f"{directions} {words.name}{variant} on {data}, {protocol.setting}, {views}"
    return f"{text}, ties {protocol.ties}".strip() if protocol.ties else text.strip()
