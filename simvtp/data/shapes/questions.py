"""Questions, action labels and temporally grounded sentences of the embedded data set.

All are read off the scene.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from simvtp.data.manifest import hash_unit
from simvtp.data.shapes.grammar import Mention, Wording, wording_strings, words_of
from simvtp.data.shapes.scene import (
    BACKGROUNDS,
    COLOURS,
    DIRECTIONS,
    EVENTS,
    FPS,
    MOTIONS,
    SHAPES,
    TEXTURES,
    Draw,
    Scene,
    Thing,
)

QUESTIONS_PER_CLIP = 5
NUMBERS = ("none", "one", "two", "three")
PATTERN_ANSWERS = {"plain": "none", "striped": "stripes", "dotted": "dots", "checked": "checks"}
EVENT_ANSWERS = {**{kind: kind + "s" for kind in EVENTS}, "recolour": "changes"}
TEMPLATES = {
    "colour": "what colour is the {shape}",
    "first_colour": "what colour is the {shape} at first",
    "last_colour": "what colour is the {shape} at the end",
    "shape": "what shape is the {colour} object",
    "texture": "what pattern does the {colour} {shape} have",
    "size": "how big is the {colour} {shape}",
    "motion": "how does the {colour} {shape} move",
    "direction": "in which direction does the {colour} {shape} move",
    "event": "what does the {colour} {shape} do half way",
    "first": "what happens first",
    "last": "what happens last",
    "count": "how many objects are in the clip",
    "count_motion": "how many objects stay still",
    "exists": "is there a {colour} {shape}",
    "background": "what is in the background",
}
COUNT_COLOURS = "how many objects are {} or {}"
IN_VIEW = "{0} is in view"


class ShapesQuestion(NamedTuple):
    """A question; `answer` is one word, to be chosen among the answers of training."""

    question: str
    answer: str
    kind: str


class Grounded(NamedTuple):
    """A sentence that holds from `start_s` to `end_s` (seconds) and not before or after."""

    sentence: str
    start_s: float
    end_s: float


def questions(draw: Draw, scene: Scene) -> list[ShapesQuestion]:
    """Returns QUESTIONS_PER_CLIP questions of different content.

    There are fewer only if the scene does not give so many.
    """
    return draw.sample(list(_all_questions(draw, scene)), QUESTIONS_PER_CLIP)


def _all_questions(draw: Draw, scene: Scene) -> Iterator[ShapesQuestion]:
    shapes = Counter(thing.shape for thing in scene.things)
    for thing in scene.things:
        yield from _about(thing, alone=shapes[thing.shape] == 1)
    yield _ask("count", NUMBERS[len(scene.things)])
    yield _ask("count_motion", NUMBERS[sum(thing.motion == "still" for thing in scene.things)])
    if scene.background.kind != "plain":
        yield _ask("background", scene.background.kind)
    kinds = [EVENT_ANSWERS[event.kind] for _, event in scene.events]
    if len(set(kinds)) > 1:
        yield _ask("first", kinds[0])
        yield _ask("last", kinds[-1])
    shown = draw.pick(scene.things)
    if draw.chance(0.5):
        yield _ask("exists", "yes", colour=shown.colour, shape=shown.shape)
    else:
        # Colour and shape are there, but not together; or there is no such shape at all.
        of_colour = {thing.shape for thing in scene.things if shown.colour in thing.colours}
        absent = draw.pick([shape for shape in SHAPES if shape not in of_colour])
        yield _ask("exists", "no", colour=shown.colour, shape=absent)


def _about(thing: Thing, alone: bool) -> Iterator[ShapesQuestion]:
    # Colours differ within a scene, so this names one object.
    name = {"colour": thing.colour, "shape": thing.shape}
    if alone and len(thing.colours) == 1:
        yield _ask("colour", thing.colour, shape=thing.shape)
    elif alone:
        yield _ask("first_colour", thing.colours[0], shape=thing.shape)
        yield _ask("last_colour", thing.colours[1], shape=thing.shape)
    yield _ask("shape", thing.shape, colour=thing.colour)
    yield _ask("texture", PATTERN_ANSWERS[thing.texture], **name)
    if len(thing.sizes) == 1:
        yield _ask("size", thing.size, **name)
    if thing.motion in DIRECTIONS:
        yield _ask("direction", thing.motion, **name)
    else:
        yield _ask("motion", thing.motion, **name)
    if thing.event:
        yield _ask("event", EVENT_ANSWERS[thing.event.kind], **name)


def _ask(kind: str, answer: str, **slots: str) -> ShapesQuestion:
    return ShapesQuestion(TEMPLATES[kind].format(**slots), answer, kind)


def counting(name: str, objects: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, int]]:
    """Yields (kind, question, number) of the counting questions about the objects of a clip.

    They count all objects, those that stay still, and those of one of two colours, for pairs of
    colours by a hash of the clip's name. There is no question about a colour that an object has for
    a part of the clip only.

    Args:
        name: of the clip.
        objects: of a line of records.jsonl.
    """
    yield "count", TEMPLATES["count"], len(objects)
    still = sum(thing["motion"] == "still" for thing in objects)
    yield "count_motion", TEMPLATES["count_motion"], still
    recoloured = [thing for thing in objects if _recolours(thing)]
    changing = {thing["colour"] for thing in recoloured}
    changing |= {thing["event"]["value"] for thing in recoloured}
    order = sorted(COLOURS, key=lambda colour: hash_unit(f"counted {colour}", name))
    for pair in zip(order[::2], order[1::2], strict=False):
        if not changing & set(pair):
            number = sum(thing["colour"] in pair for thing in objects)
            yield "count_colour", COUNT_COLOURS.format(*pair), number


def _recolours(thing: Mapping[str, Any]) -> bool:
    return bool(thing["event"]) and thing["event"]["kind"] == "recolour"


def action(scene: Scene) -> str:
    """Returns the motion of the one large object.

    It is "" (no label) where none or several are large or one changes its size.
    """
    large = [thing for thing in scene.things if "large" in thing.sizes]
    return large[0].motion if len(large) == 1 and len(large[0].sizes) == 1 else ""


def grounded(draw: Draw, scene: Scene, difficulty: float) -> list[Grounded]:
    """Returns a sentence for each event, and one for each object that is not always seen."""
    wording, found = Wording(draw, difficulty), []
    for thing, event in scene.events:
        phrase = wording.noun_phrase(Mention(colour=thing.colour, shape=thing.shape))
        sentence = f"{phrase} {wording.event_phrase(event.kind, event.value)}"
        found.append(_from_frames(sentence, event.start, event.end))
        span = thing.visible(scene.frames)
        if span != (0, scene.frames):
            found.append(_from_frames(IN_VIEW.format(phrase), *span))
        if event.kind == "recolour":
            after = wording.noun_phrase(Mention(colour=event.value, shape=thing.shape))
            found.append(_from_frames(IN_VIEW.format(after), event.end, scene.frames))
    return [sentence for sentence in found if sentence.start_s < sentence.end_s]


def _from_frames(sentence: str, start: int, stop: int) -> Grounded:
    return Grounded(sentence, start / FPS, stop / FPS)


def _grammar_words() -> tuple[str, ...]:
    texts = [
        *wording_strings(),
        *TEMPLATES.values(),
        COUNT_COLOURS,
        IN_VIEW,
        *NUMBERS,
        *PATTERN_ANSWERS.values(),
        *EVENT_ANSWERS.values(),
    ]
    texts += [*SHAPES, *COLOURS, *TEXTURES, *MOTIONS, *BACKGROUNDS, "yes no"]
    return tuple(sorted({word for text in texts for word in words_of(text)}))


# Every word of captions, questions, answers and grounded sentences; a vocabulary must hold them.
GRAMMAR_WORDS = _grammar_words()
