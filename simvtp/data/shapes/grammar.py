"""Captions of the embedded data set: what a caption states, whether a scene satisfies it, and how
it is worded.

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

MIN_WORDS, MAX_WORDS = (
    10,
    22,
)  # long enough that a quarter of the words says something, short enough for 32 tokens

# Every list starts with the plain wording; the others are its paraphrases. No wording stands for
# two values of an attribute.
NOUNS = {
    "circle": ("circle", "disc"), "square": ("square", "box"), "triangle": ("triangle",), "star": ("star",), "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"), "heart": ("heart",), "moon": ("moon", "crescent"), "": ("object", "shape", "thing"),
}  # fmt: skip
ADJECTIVES = {
    "small": ("small", "little", "tiny"), "large": ("large", "big", "huge"), "plain": ("plain", "solid"), "striped": ("striped",),
    "dotted": ("dotted", "spotted"), "checked": ("checked", "checkered"), "red": ("red",), "orange": ("orange",), "yellow": ("yellow",),
    "green": ("green",), "cyan": ("cyan", "turquoise"), "blue": ("blue",), "purple": ("purple", "violet"), "pink": ("pink",),
    "white": ("white",), "grey": ("grey", "gray"), "dark": ("dark",), "brown": ("brown",), "olive": ("olive",),
}  # fmt: skip
TEXTURE_TAILS = {"striped": "with stripes", "dotted": "with dots", "checked": "with checks"}
MOTION_VERBS = {
    "left": (
        "move left",
        "move to the left",
        "glide to the left",
        "slide left",
        "drift to the left",
    ),
    "right": (
        "move right",
        "move to the right",
        "glide to the right",
        "slide right",
        "drift to the right",
    ),
    "up": ("move up", "rise", "climb", "float up"),
    "down": ("move down", "fall", "sink", "float down"),
    "circle": ("move in a circle", "circle around", "go round in circles"),
    "bounce": ("bounce up and down", "jump up and down", "hop up and down", "bounce"),
    "spin": ("spin", "rotate", "spin in place", "whirl around"),
    "still": ("stay still", "stand still", "stay in place", "rest"),
}
EVENT_VERBS = {
    "enter": ("enter {side}", "come in {side}", "arrive {side}"),
    "leave": ("leave {side}", "go out {side}", "exit {side}"),
    "appear": ("appear", "show up", "pop up"),
    "disappear": ("disappear", "vanish", "fade away"),
    "recolour": ("turn {colour}", "become {colour}", "change to {colour}"),
    "grow": ("grow", "get bigger", "become larger"),
    "shrink": ("shrink", "get smaller", "become smaller"),
}
SIDES = {
    "enter": {
        "left": "from the left",
        "right": "from the right",
        "top": "from above",
        "bottom": "from below",
    },
    "leave": {
        "left": "to the left",
        "right": "to the right",
        "top": "at the top",
        "bottom": "at the bottom",
    },
}
INFLECTED = {  # verb: (it ..., ...ing)
    "appear": ("appears", "appearing"), "arrive": ("arrives", "arriving"), "become": ("becomes", "becoming"),
    "bounce": ("bounces", "bouncing"), "change": ("changes", "changing"), "circle": ("circles", "circling"),
    "climb": ("climbs", "climbing"), "come": ("comes", "coming"), "disappear": ("disappears", "disappearing"),
    "drift": ("drifts", "drifting"), "enter": ("enters", "entering"), "exit": ("exits", "exiting"), "fade": ("fades", "fading"),
    "fall": ("falls", "falling"), "float": ("floats", "floating"), "get": ("gets", "getting"), "glide": ("glides", "gliding"),
    "go": ("goes", "going"), "grow": ("grows", "growing"), "hop": ("hops", "hopping"), "jump": ("jumps", "jumping"),
    "leave": ("leaves", "leaving"), "move": ("moves", "moving"), "pop": ("pops", "popping"), "rest": ("rests", "resting"),
    "rise": ("rises", "rising"), "rotate": ("rotates", "rotating"), "show": ("shows", "showing"), "shrink": ("shrinks", "shrinking"),
    "sink": ("sinks", "sinking"), "slide": ("slides", "sliding"), "spin": ("spins", "spinning"), "stand": ("stands", "standing"),
    "stay": ("stays", "staying"), "turn": ("turns", "turning"), "vanish": ("vanishes", "vanishing"), "whirl": ("whirls", "whirling"),
}  # fmt: skip
THEN = ("{0} and {1}", "{0} and then {1}", "{0}, then {1}")
SENTENCES_FINITE = {  # sentences that join clauses such as "a red star spins"
    1: ("{0}", "in this clip {0}"),
    2: ("{0} and {1}", "{0} while {1}", "{0} as {1}", "in this clip {0} and {1}", "while {0}, {1}"),
    3: (
        "{0}, {1} and {2}",
        "{0} and {1} while {2}",
        "while {0}, {1} and {2}",
        "in this clip {0}, {1} and {2}",
    ),
}
SENTENCES_GERUND = {  # sentences that join noun phrases such as "a red star spinning"
    1: ("there is {0}", "we see {0}"),
    2: ("there is {0} and {1}", "we see {0} and {1}", "a clip of {0} and {1}"),
    3: ("there is {0}, {1} and {2}", "we see {0}, {1} and {2}", "a clip of {0}, {1} and {2}"),
}
BEHIND = ("over {0}", "against {0}", "in front of {0}")


@dataclass(frozen=True)
class Mention:
    """What a caption says of one object; an empty attribute is left out. Colour and size are those
    at first.
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
    """The content of a caption. `background` is (kind, colour), or empty where it is not named."""

    mentions: tuple[Mention, ...]
    background: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The same text for the same content, whatever the order."""
        return repr((sorted(astuple(mention) for mention in self.mentions), self.background))

    @property
    def split(self) -> str:
        """The only split in which this may be said: 80 % of all statements are train, 10 % val, 10
        % test, by hash.
        """
        bucket = int.from_bytes(hashlib.sha256(self.key.encode()).digest()[:4], "big") % 10
        return "train" if bucket < 8 else "val" if bucket == 8 else "test"


# ---- content -------------------------------------------------------------------------------------


def draw_statement(draw: Draw, scene: Scene, omit: float) -> Statement:
    """Name the objects of a scene, leaving out attributes with a probability of about `omit`.

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
    implied = event is not None and event.kind in (
        "enter",
        "leave",
    )  # "enters from the left" says where it goes
    if implied or not (event and draw.chance(omit)):
        named["motion"] = thing.motion
    return Mention(**named, event=event.kind if event else "", value=event.value if event else "")


def satisfies(statement: Statement, scene: Scene) -> bool:
    """Whether a viewer could accept the caption for this scene: each mention fits another object.

    Judged generously (an object that turns from red to green may be called either), because this is
    used to rule out that a caption fits a second clip.
    """
    if statement.background and statement.background != (
        scene.background.kind,
        scene.background.colour,
    ):
        return False
    groups = itertools.permutations(scene.things, len(statement.mentions))
    return any(
        all(_fits(mention, thing) for mention, thing in zip(statement.mentions, group, strict=True))
        for group in groups
    )


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
    """Chooses among synonyms and patterns: each time with probability `share` any of them, else the
    plain one.
    """

    def __init__(self, draw: Draw, share: float) -> None:
        self._draw, self._share = draw, share

    def caption(self, statement: Statement) -> str:
        """The statement as one lower-case sentence without a full stop."""
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
        """Such as `a large striped red star`."""
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
        """Such as `moves left and turns green`; with `gerund`, `moving left and turning green`."""
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
        """Such as `turns green` or `enters from the left`."""
        side = SIDES[kind][value] if kind in SIDES else ""
        phrase = self._choose(EVENT_VERBS[kind])
        return inflect(
            phrase.format(side=side, colour=self._word(value) if kind == "recolour" else ""), gerund
        )

    def _behind(self, kind: str, colour: str) -> str:
        what = (
            f"a {self._word(colour)} background"
            if kind == "plain"
            else f"{self._word(colour)} {kind}"
        )
        return self._choose(BEHIND).format(with_article(what[2:]) if kind == "plain" else what)

    def _word(self, value: str) -> str:
        return self._choose(ADJECTIVES[value]) if value else ""

    def _choose(self, choices: tuple[str, ...]) -> str:
        return self._draw.pick(choices) if len(choices) > 1 and self._varied() else choices[0]

    def _varied(self) -> bool:
        return self._draw.chance(self._share)


def inflect(phrase: str, gerund: bool) -> str:
    """`move to the left` as `moves to the left` or `moving to the left`."""
    verb, _, rest = phrase.partition(" ")
    return f"{INFLECTED[verb][gerund]} {rest}".rstrip()


def with_article(noun_phrase: str) -> str:
    """`a red star`, `an orange ring`."""
    return f"{'an' if noun_phrase[0] in 'aeiou' else 'a'} {noun_phrase}"


def words_of(text: str) -> list[str]:
    """The words of a sentence, without placeholders and marks."""
    return re.findall(r"[a-z]+", re.sub(r"{\w*}", " ", text.lower()))


def draw_caption(draw: Draw, scene: Scene, difficulty: float) -> tuple[Statement, str]:
    """A caption of MIN_WORDS to MAX_WORDS words. `difficulty` is the share of free wording, and 0.7
    of it the share left out.
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
    """Every piece of text that a caption can be built of."""
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
