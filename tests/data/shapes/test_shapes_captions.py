"""Captions of the embedded data set: splits share nothing, each fits its clip only."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from simvtp.config.data_config import ShapesConfig
from simvtp.data.shapes import generate, plan_clips
from simvtp.data.shapes.grammar import MAX_WORDS, MIN_WORDS, words_of
from simvtp.data.shapes.plan_clips import plan
from simvtp.data.shapes.questions import GRAMMAR_WORDS
from simvtp.data.shapes.scene import (
    Scene,
    Thing,
)
from simvtp.data.shapes.wordings import ADJECTIVES, NOUNS
from simvtp.errors import ConfigError


@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
def test_no_caption_is_shared_and_each_test_caption_fits_its_clip_only(difficulty: float) -> None:
    clips = plan(ShapesConfig(train=300, val=40, test=80, difficulty=difficulty))
    said = {
        split: {c for clip in clips if clip.split == split for c in clip.captions}
        for split in ("train", "val", "test")
    }
    content = {
        split: {s.key for clip in clips if clip.split == split for s in clip.statements}
        for split in said
    }
    for a, b in itertools.combinations(said, 2):
        assert not said[a] & said[b] and not content[a] & content[b]
    for split in ("val", "test"):
        ours = [clip for clip in clips if clip.split == split]
        for query, candidate in itertools.product(ours, ours):
            assert accepts(query.statements[0], candidate.scene) is (query is candidate)
    for clip in clips:
        assert all(accepts(statement, clip.scene) for statement in clip.statements)
        assert len(set(clip.captions)) == len(clip.captions)


def accepts(statement, scene: Scene) -> bool:
    """Written apart from the generator: does some choice of objects make every mention true?"""
    if statement.background and statement.background != (
        scene.background.kind,
        scene.background.colour,
    ):
        return False

    def fits(mention, thing: Thing) -> bool:
        happened = thing.event is not None and (thing.event.kind, thing.event.value) == (
            mention.event,
            mention.value,
        )
        colours = {thing.colour} | (
            {thing.event.value} if thing.event and thing.event.kind == "recolour" else set()
        )
        sizes = {thing.size} | (
            {thing.event.value} if thing.event and thing.event.kind in ("grow", "shrink") else set()
        )
        asked = [
            not mention.colour or mention.colour in colours,
            not mention.size or mention.size in sizes,
            not mention.shape or mention.shape == thing.shape,
            not mention.texture or mention.texture == thing.texture,
            not mention.motion or mention.motion == thing.motion,
            not mention.event or happened,
        ]
        return all(asked)

    def assign(mentions: tuple, left: tuple) -> bool:
        if not mentions:
            return True
        return any(
            fits(mentions[0], thing) and assign(mentions[1:], left[:i] + left[i + 1 :])
            for i, thing in enumerate(left)
        )

    return assign(statement.mentions, scene.things)


@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
def test_captions_use_known_words_have_the_asked_length_and_say_only_what_is_there(
    difficulty: float,
) -> None:
    meaning = {
        word: value
        for table in (NOUNS, ADJECTIVES)
        for value, words in table.items()
        for word in words
        if value
    }
    background_only = {"grey", "dark", "brown", "olive"}
    for clip in plan(ShapesConfig(train=120, val=10, test=20, difficulty=difficulty)):
        there = {
            v
            for thing in clip.scene.things
            for v in (*thing.colours, *thing.sizes, thing.shape, thing.texture)
        }
        for caption in clip.captions:
            words = words_of(caption)
            assert MIN_WORDS <= len(words) <= MAX_WORDS and set(words) <= set(GRAMMAR_WORDS)
            assert caption == caption.lower() and "  " not in caption and "{" not in caption
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", caption)
            named = {meaning[word] for word in words if word in meaning}
            named -= (
                {"large", "small"}
                if {"grow", "shrink"} & {t.event.kind for t in clip.scene.things if t.event}
                else set()
            )
            assert named - background_only - {"circle", "cross"} <= there, (
                caption,
                clip.scene,
            )  # "circle" is also a motion
            assert named & background_only <= {clip.scene.background.colour}


def test_difficulty_leaves_out_more_and_varies_more() -> None:
    named, words, objects = [], [], []
    for difficulty in (0.0, 0.5, 1.0):
        clips = plan(ShapesConfig(train=150, val=1, test=1, difficulty=difficulty))
        mentions = [
            mention
            for clip in clips
            for statement in clip.statements
            for mention in statement.mentions
        ]
        attributes = [(m.colour, m.shape, m.size, m.texture) for m in mentions]
        named.append(np.mean([sum(map(bool, values)) for values in attributes]))
        words.append(
            len({word for clip in clips for caption in clip.captions for word in words_of(caption)})
        )
        objects.append(np.mean([len(clip.scene.things) for clip in clips]))
    assert named[0] > 3.7 and named[0] > named[1] + 0.5 > named[2] + 1.0
    assert (
        words[0] + 20 < words[1]
        and words[0] + 20 < words[2]
        and objects[0] == 2 < objects[1] < objects[2]
    )


def test_more_clips_leave_the_first_ones_as_they_are() -> None:
    few, many = (
        plan(ShapesConfig(train=10, val=5, test=10)),
        plan(ShapesConfig(train=20, val=6, test=30)),
    )
    kept = {clip.id: clip for clip in many}
    assert all(kept[clip.id] == clip for clip in few)
    assert not {clip.captions for clip in few} & {
        clip.captions for clip in plan(ShapesConfig(train=10, val=5, test=10, seed=1))
    }


def test_more_test_clips_than_can_be_distinguished_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        plan_clips, "MAX_ATTEMPTS", 3
    )  # so that this comes soon; a tenth of all statements are test
    with pytest.raises(ConfigError, match=r"data\.shapes\.test=50: only \d+ clips"):
        plan(ShapesConfig(train=1, val=1, test=50))


def test_the_vocabulary_of_the_builtin_tokenizer_holds_every_word() -> None:
    path = Path(generate.__file__).parents[1] / "text" / "vocabulary.txt"
    assert not set(GRAMMAR_WORDS) - set(path.read_text(encoding="utf-8").split())
