"""Captions of the embedded data set: content, truth in a scene, and wording.

A caption is made in two steps. A *statement* is the content: which attributes of which objects are
named, which are left out. The wording then chooses among synonyms and sentence patterns. Only the
content decides to which split a caption belongs and which clips satisfy it, so a paraphrase can
neither leak a training caption into the test split nor make two test clips look different.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass

from simvtp.data.shapes.scene import Draw, Scene, Thing
from simvtp.data.shapes.wordings import (
    ADJECTIVES,
    BEHIND,
    EVENT_VERBS,
    INFLECTED,
    MOTION_VERBS,
    NOUNS,
    SENTENCES_FINITE,
    SENTENCES_GERUND,
    SIDES,
    TEXTURE_TAILS,
    THEN,
)

# Long enough that a quarter of the words says something, short enough for 32 tokens.
MIN_WORDS, MAX_WORDS = 10, 22


@dataclass(frozen=True)
class Mention:
    """Content of a caption about one object; an empty attribute is left out.

    Colour and size are those at first.
    """

    colour: str = ""
    shape: str = ""
    size: str = ""
    texture: str = ""
    motion: str = ""
    event: str = ""
    value: str = ""  # of the event: new colour or size, or side


@dataclass(frozen=True)
class Statement:
    """Content of a caption.

    Attributes:
        background: (kind, colour), or empty where it is not named.
    """

    mentions: tuple[Mention, ...]
    background: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Text that is the same for the same content in any order."""
        return repr((sorted(astuple(mention) for mention in self.mentions), self.background))

    @property
    def split(self) -> str:
        """The only split in which this may be said.

        Of all statements 80 % are train, 10 % val, 10 % test, by hash.
        """
        bucket = int.from_bytes(hashlib.sha256(self.key.encode()).digest()[:4], "big") % 10
        return "train" if bucket < 8 else "val" if bucket == 8 else "test"


# ---- content -------------------------------------------------------------------------------------


def draw_statement(draw: Draw, scene: Scene, omit: float) -> Statement:
    """Names the objects of a scene, leaving out attributes with a probability of about `omit`.

    Always named: two objects at least, colour or shape of each, and what each does.
    """
    things = list(scene.things)
    if len(things) > 2 and draw.chance(omit):
        things.pop(draw.pick(range(len(things))))
    background = (
        (scene.background.kind, scene.background.colour) if draw.chance(0.6 * (1 - omit)) else ()
    )
    return Statement(tuple(_mention(draw, thing, omit) for thing in things), background)


def _mention(draw: Draw, thing: Thing, omit: float) -> Mention:
    hidden = {name for name in ("size", "texture") if draw.chance(omit)}
    if draw.chance(omit):
        hidden.add(draw.pick(("colour", "shape", "shape")))
    named = {
        name: getattr(thing, name)
        for name in ("colour", "shape", "size", "texture")
        if name not in hidden
    }
    event = thing.event if thing.event and not draw.chance(omit / 2) else None
    # "enters from the left" says where it goes.
    implied = event is not None and event.kind in ("enter", "leave")
    if implied or not (event and draw.chance(omit)):
        named["motion"] = thing.motion
    return Mention(**named, event=event.kind if event else "", value=event.value if event else "")


def satisfies(statement: Statement, scene: Scene) -> bool:
    """Returns True if a viewer could accept the caption for this scene.

    Each mention must fit another object. This is judged generously (an object that turns from red
    to green may be called either), because it serves to rule out that a caption fits a second clip.
    """
    if statement.background and statement.background != (
        scene.background.kind,
        scene.background.colour,
    ):
        return False
    groups = itertools.permutations(scene.things, len(statement.mentions))
    return any(all(map(_fits, statement.mentions, group)) for group in groups)


def _fits(mention: Mention, thing: Thing) -> bool:
    event = (thing.event.kind, thing.event.value) if thing.event else ("", "")
    return (
        mention.colour in ("", *thing.colours)
        and mention.shape in ("", thing.shape)
        and mention.size in ("", *thing.sizes)
        and mention.texture in ("", thing.texture)
        and mention.motion in ("", thing.motion)
        and (mention.event, mention.value) in (("", ""), event)
    )


# ---- wording -------------------------------------------------------------------------------------


class Wording:
    """Chooses among synonyms and patterns.

    Args:
        variation: probability of any of them; else it is the plain one.
    """

    def __init__(self, draw: Draw, variation: float) -> None:
        self._draw, self._variation = draw, variation

    def caption(self, statement: Statement) -> str:
        """Returns the statement as one lower-case sentence without a full stop."""
        mentions = list(statement.mentions)
        if self._varied():
            mentions = self._draw.sample(mentions, len(mentions))
        gerund = self._varied() and self._draw.chance(0.5)
        parts = [
            f"{self.noun_phrase(mention)} {self.verb_phrase(mention, gerund)}"
            for mention in mentions
        ]
        text = self._choose((SENTENCES_GERUND if gerund else SENTENCES_FINITE)[len(parts)]).format(
            *parts
        )
        return f"{text} {self._behind(*statement.background)}" if statement.background else text

    def noun_phrase(self, mention: Mention) -> str:
        """Returns a phrase such as `a large striped red star`."""
        texture, behind = self._word(mention.texture), ""
        if mention.texture in TEXTURE_TAILS and self._varied() and self._draw.chance(0.4):
            texture, behind = "", TEXTURE_TAILS[mention.texture]
        words = (
            self._word(mention.size),
            texture,
            self._word(mention.colour),
            self._choose(NOUNS[mention.shape]),
            behind,
        )
        return with_article(" ".join(word for word in words if word))

    def verb_phrase(self, mention: Mention, gerund: bool = False) -> str:
        """Returns a phrase such as `moves left and turns green`, or with `gerund` `moving left`."""
        event = self.event_phrase(mention.event, mention.value, gerund) if mention.event else ""
        if mention.event in ("enter", "leave"):
            return event
        motion = (
            inflect(self._choose(MOTION_VERBS[mention.motion]), gerund) if mention.motion else ""
        )
        if not (motion and event):
            return motion or event
        first, second = (event, motion) if mention.event == "appear" else (motion, event)
        return self._choose(THEN).format(first, second)

    def event_phrase(self, kind: str, value: str, gerund: bool = False) -> str:
        """Returns a phrase such as `turns green` or `enters from the left`."""
        side = SIDES[kind][value] if kind in SIDES else ""
        phrase = self._choose(EVENT_VERBS[kind])
        return inflect(
            phrase.format(side=side, colour=self._word(value) if kind == "recolour" else ""), gerund
        )

    def _behind(self, kind: str, colour: str) -> str:
        what = (
            f"a {self._word(colour)} background"
            if kind in ("plain", "soft")
            else f"{self._word(colour)} {kind}"
        )
        article = kind in ("plain", "soft")
        return self._choose(BEHIND).format(with_article(what[2:]) if article else what)

    def _word(self, value: str) -> str:
        return self._choose(ADJECTIVES[value]) if value else ""

    def _choose(self, choices: tuple[str, ...]) -> str:
        return self._draw.pick(choices) if len(choices) > 1 and self._varied() else choices[0]

    def _varied(self) -> bool:
        return self._draw.chance(self._variation)


def inflect(phrase: str, gerund: bool) -> str:
    """Returns `move to the left` as `moves to the left` or `moving to the left`."""
    verb, _, rest = phrase.partition(" ")
    return f"{INFLECTED[verb][gerund]} {rest}".rstrip()


def with_article(noun_phrase: str) -> str:
    """Returns `a red star`, `an orange ring`."""
    return f"{'an' if noun_phrase[0] in 'aeiou' else 'a'} {noun_phrase}"


def words_of(text: str) -> list[str]:
    """Returns the words of a sentence, without placeholders and punctuation."""
    return re.findall(r"[a-z]+", re.sub(r"{\w*}", " ", text.lower()))


def draw_caption(draw: Draw, scene: Scene, difficulty: float) -> tuple[Statement, str]:
    """Returns a caption of MIN_WORDS to MAX_WORDS words with its content.

    Args:
        difficulty: probability of a free wording; 0.7 of it is the probability to leave an
            attribute out.
    """
    omit = 0.7 * difficulty
    for _ in range(200):
        statement = draw_statement(draw, scene, omit)
        text = Wording(draw, difficulty).caption(statement)
        length = len(words_of(text))
        if MIN_WORDS <= length <= MAX_WORDS:
            return statement, text
        omit = min(0.9, max(0.0, omit + (0.05 if length > MAX_WORDS else -0.05)))
    raise RuntimeError(f"no caption of {MIN_WORDS} to {MAX_WORDS} words was found for {scene}")


def wording_strings() -> Iterator[str]:
    """Yields every piece of text that a caption can be built of."""
    tables: tuple[Mapping[str, tuple[str, ...]], ...] = (
        NOUNS,
        ADJECTIVES,
        MOTION_VERBS,
        EVENT_VERBS,
        INFLECTED,
    )
    for table in tables:
        for choices in table.values():
            yield from choices
    for numbered in (SENTENCES_FINITE, SENTENCES_GERUND):
        yield from itertools.chain.from_iterable(numbered.values())
    yield from (
        *THEN,
        *BEHIND,
        *TEXTURE_TAILS.values(),
        "a an background clouds waves tiles ripples",
    )
    for sides in SIDES.values():
        yield from sides.values()
