"""Questions, actions and moments of the embedded data set follow from its scenes."""

import csv
import json

import pytest

from simvtp.config.data_config import ShapesConfig
from simvtp.data.shapes.annotation_tables import tables
from simvtp.data.shapes.grammar import words_of
from simvtp.data.shapes.plan_clips import plan
from simvtp.data.shapes.questions import GRAMMAR_WORDS, counting
from simvtp.data.shapes.scene import (
    COLOURS,
    MOTIONS,
    SHAPES,
)
from simvtp.data.shapes.wordings import ADJECTIVES, NOUNS


@pytest.fixture(scope="module")
def many() -> tuple[dict[str, list[dict[str, str]]], dict[str, dict]]:
    """The tables of 200 clips, without the clips."""
    config = ShapesConfig(train=180, val=10, test=10, difficulty=0.7)
    texts = tables(plan(config), config)
    parsed = {
        name: list(csv.DictReader(text.splitlines()))
        for name, text in texts.items()
        if name.endswith(".csv")
    }
    return parsed, {
        record["videoid"]: record for record in map(json.loads, texts["records.jsonl"].splitlines())
    }


def answer_of(kind: str, question: str, record: dict) -> str:
    """Answers a question from the record alone, written apart from the generator."""
    objects = record["objects"]
    words = question.split()
    asked = [
        o
        for o in objects
        if all(w not in SHAPES or w == o["shape"] for w in words)
        and all(w not in COLOURS or w == o["colour"] for w in words)
    ]
    events = sorted((o["event"]["start"], o["event"]["kind"]) for o in objects if o["event"])
    verbs = {
        "enter": "enters",
        "leave": "leaves",
        "appear": "appears",
        "disappear": "disappears",
        "recolour": "changes",
        "grow": "grows",
        "shrink": "shrinks",
    }
    if kind == "count":
        return {2: "two", 3: "three"}[len(objects)]
    if kind == "count_motion":
        return ("none", "one", "two", "three")[sum(o["motion"] == "still" for o in objects)]
    if kind == "exists":
        return "yes" if asked else "no"
    if kind == "background":
        return record["background"]["kind"]
    if kind in ("first", "last"):
        return verbs[events[0 if kind == "first" else -1][1]]
    assert len(asked) == 1, question  # the question names one object
    (o,) = asked
    return {
        "colour": o["colour"],
        "first_colour": o["colour"],
        "last_colour": o["event"]["value"] if o["event"] else "",
        "shape": o["shape"],
        "texture": {"plain": "none", "striped": "stripes", "dotted": "dots", "checked": "checks"}[
            o["texture"]
        ],
        "size": o["size"],
        "motion": o["motion"],
        "direction": o["motion"],
        "event": verbs[o["event"]["kind"]] if o["event"] else "",
    }[kind]


def test_questions_are_answered_by_the_scene(many) -> None:
    tables, by_id = many
    rows = tables["questions.csv"]
    assert list(rows[0]) == ["videoid", "question", "answer", "kind", "split"]
    for row in rows:
        assert row["answer"] == answer_of(row["kind"], row["question"], by_id[row["videoid"]]), row
        assert set(words_of(row["question"])) | {row["answer"]} <= set(GRAMMAR_WORDS)
        assert row["split"] == by_id[row["videoid"]]["split"]
        assert row["kind"] != "colour" or "recolour" not in [
            o["event"]["kind"]
            for o in by_id[row["videoid"]]["objects"]
            if o["event"] and o["shape"] in row["question"].split()
        ]
        if row["kind"] == "size":
            assert not any(
                o["event"]
                and o["event"]["kind"] in ("grow", "shrink")
                and o["colour"] in row["question"].split()
                for o in by_id[row["videoid"]]["objects"]
            )
    assert len(rows) == 5 * len(by_id) == len({(row["videoid"], row["question"]) for row in rows})
    assert len({row["kind"] for row in rows}) == 15
    answers = [row["answer"] for row in rows if row["kind"] == "exists"]
    assert 0.3 < answers.count("yes") / len(answers) < 0.7


def test_counting_questions_are_answered_by_the_scene(many) -> None:
    _, by_id = many
    numbers: dict[str, set[int]] = {}
    for videoid, record in by_id.items():
        asked = list(counting(videoid, record["objects"]))
        assert asked == list(counting(videoid, record["objects"]))
        assert len({text for _, text, _ in asked}) == len(asked) and [
            kind for kind, *_ in asked[:2]
        ] == ["count", "count_motion"]
        for kind, text, number in asked:
            assert set(words_of(text)) <= set(GRAMMAR_WORDS)
            numbers.setdefault(kind, set()).add(number)
            if kind != "count_colour":
                assert ("none", "one", "two", "three")[number] == answer_of(kind, text, record)
                continue
            pair = {word for word in text.split() if word in COLOURS}
            assert len(pair) == 2 and number == sum(o["colour"] in pair for o in record["objects"])
            assert not any(o["event"] and pair & {o["event"]["value"]} for o in record["objects"])
    assert numbers["count"] == {2, 3} and numbers["count_colour"] == {0, 1, 2}


def test_actions_are_the_motion_of_the_only_large_object(many) -> None:
    tables, by_id = many
    labels = {row["videoid"]: row["label"] for row in tables["actions.csv"]}
    assert len(labels) == len(tables["actions.csv"]) > 80 and set(labels.values()) == set(MOTIONS)
    for videoid, record in by_id.items():
        sizes = [
            {
                o["size"],
                o["event"]["value"]
                if o["event"] and o["event"]["kind"] in ("grow", "shrink")
                else o["size"],
            }
            for o in record["objects"]
        ]
        ever_large = [
            o for o, size in zip(record["objects"], sizes, strict=True) if "large" in size
        ]
        clear = len(ever_large) == 1 and {"large"} in sizes
        assert labels.get(videoid) == (ever_large[0]["motion"] if clear else None)


def test_grounded_sentences_hold_in_their_span(many) -> None:
    tables, by_id = many
    meaning = {
        word: value
        for table in (NOUNS, ADJECTIVES)
        for value, words in table.items()
        for word in words
        if value
    }
    grounded = {
        videoid: [row for row in tables["grounding.csv"] if row["videoid"] == videoid]
        for videoid in by_id
    }
    for videoid, record in by_id.items():
        events = [(o, o["event"]) for o in record["objects"] if o["event"]]
        spans = {(float(row["start_s"]) * 8, float(row["end_s"]) * 8) for row in grounded[videoid]}
        assert {(e["start"], e["end"]) for _, e in events} <= spans
        for row in grounded[videoid]:
            assert 0 <= float(row["start_s"]) < float(row["end_s"]) <= 2.0
            assert set(words_of(row["sentence"])) <= set(GRAMMAR_WORDS)
            noun = [meaning[w] for w in words_of(row["sentence"])[:3] if w in meaning]
            about = [
                o
                for o in record["objects"]
                if o["colour"] in noun or (o["event"] and o["event"]["value"] in noun)
            ]
            assert any(o["shape"] in noun for o in about), row
            if row["sentence"].endswith("in view"):
                starts = {o["visible"][0] for o in about} | {o["event"]["end"] for o in about}
                assert float(row["start_s"]) * 8 in starts
        assert bool(events) == bool(grounded[videoid])


def test_records_hold_the_frames_in_which_things_are_seen(many) -> None:
    for record in many[1].values():
        assert record["fps"] == 8 and record["frames"] == 16 and 2 <= len(record["objects"]) <= 3
        assert len({o["colour"] for o in record["objects"]}) == len(record["objects"])
        for o in record["objects"]:
            event = o["event"]
            assert 0 <= o["visible"][0] < o["visible"][1] <= 16
            if event:
                assert 0 < event["start"] < event["end"] <= 16
                assert o["visible"][0] == (
                    event["start"] if event["kind"] in ("enter", "appear") else 0
                )
                assert o["visible"][1] == (
                    event["end"] if event["kind"] in ("leave", "disappear") else 16
                )
        assert any(o["visible"] == [0, 16] for o in record["objects"])
