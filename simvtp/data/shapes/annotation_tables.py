"""Tables of the embedded data set: manifest, records, and annotations of the tasks."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from simvtp.config.data_config import ShapesConfig
from simvtp.data.shapes import questions as shapes_questions
from simvtp.data.shapes.plan_clips import PlannedClip, Purpose
from simvtp.data.shapes.scene import FPS, Draw

TABLES = ("records.jsonl", "questions.csv", "actions.csv", "grounding.csv", "manifest.csv")


def tables(clips: Sequence[PlannedClip], config: ShapesConfig) -> dict[str, str]:
    """Returns {file name: content}, in the order of TABLES."""
    records: list[str] = []
    questions: list[tuple[object, ...]] = []
    actions: list[tuple[object, ...]] = []
    grounding: list[tuple[object, ...]] = []
    for clip in clips:
        draw = Draw(config.seed, clip.split, clip.index, 0, Purpose.TASKS)
        records.append(json.dumps(_record(clip), sort_keys=True))
        for question in shapes_questions.questions(draw, clip.scene):
            questions.append((clip.id, *question, clip.split))
        for moment in shapes_questions.grounded(draw, clip.scene, config.difficulty):
            grounding.append((clip.id, *moment, clip.split))
        if label := shapes_questions.action(clip.scene):
            actions.append((clip.id, label, clip.split))
    manifest = [
        (clip.id, clip.path, caption, clip.split) for clip in clips for caption in clip.captions
    ]
    return {
        "records.jsonl": "\n".join(records) + "\n",
        "questions.csv": _csv(("videoid", "question", "answer", "kind", "split"), questions),
        "actions.csv": _csv(("videoid", "label", "split"), actions),
        "grounding.csv": _csv(("videoid", "sentence", "start_s", "end_s", "split"), grounding),
        "manifest.csv": _csv(("videoid", "path", "caption", "split"), manifest),
    }


def _record(clip: PlannedClip) -> dict[str, object]:
    captions = [
        {
            "caption": caption,
            "mentions": [asdict(mention) for mention in statement.mentions],
            "background": list(statement.background),
        }
        for statement, caption in zip(clip.statements, clip.captions, strict=True)
    ]
    things = [
        {**asdict(thing), "visible": list(thing.visible(clip.scene.frames))}
        for thing in clip.scene.things
    ]
    return {
        "videoid": clip.id,
        "path": clip.path,
        "split": clip.split,
        "fps": FPS,
        "frames": clip.scene.frames,
        "background": asdict(clip.scene.background),
        "objects": things,
        "captions": captions,
    }


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
