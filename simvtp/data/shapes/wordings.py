"""Words and sentence patterns of the captions of the embedded data set."""

from __future__ import annotations

# Every list starts with the plain wording; the others are its paraphrases. No wording stands for
# two values of an attribute.
NOUNS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
    "heart": ("heart",),
    "moon": ("moon", "crescent"),
    "": ("object", "shape", "thing"),
}
ADJECTIVES = {
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    "plain": ("plain", "solid"),
    "striped": ("striped",),
    "dotted": ("dotted", "spotted"),
    "checked": ("checked", "checkered"),
    "red": ("red",),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "green": ("green",),
    "cyan": ("cyan", "turquoise"),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
    "white": ("white",),
    "grey": ("grey", "gray"),
    "dark": ("dark",),
    "brown": ("brown",),
    "olive": ("olive",),
}
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
# Verb: (it ..., ...ing).
INFLECTED = {
    "appear": ("appears", "appearing"),
    "arrive": ("arrives", "arriving"),
    "become": ("becomes", "becoming"),
    "bounce": ("bounces", "bouncing"),
    "change": ("changes", "changing"),
    "circle": ("circles", "circling"),
    "climb": ("climbs", "climbing"),
    "come": ("comes", "coming"),
    "disappear": ("disappears", "disappearing"),
    "drift": ("drifts", "drifting"),
    "enter": ("enters", "entering"),
    "exit": ("exits", "exiting"),
    "fade": ("fades", "fading"),
    "fall": ("falls", "falling"),
    "float": ("floats", "floating"),
    "get": ("gets", "getting"),
    "glide": ("glides", "gliding"),
    "go": ("goes", "going"),
    "grow": ("grows", "growing"),
    "hop": ("hops", "hopping"),
    "jump": ("jumps", "jumping"),
    "leave": ("leaves", "leaving"),
    "move": ("moves", "moving"),
    "pop": ("pops", "popping"),
    "rest": ("rests", "resting"),
    "rise": ("rises", "rising"),
    "rotate": ("rotates", "rotating"),
    "show": ("shows", "showing"),
    "shrink": ("shrinks", "shrinking"),
    "sink": ("sinks", "sinking"),
    "slide": ("slides", "sliding"),
    "spin": ("spins", "spinning"),
    "stand": ("stands", "standing"),
    "stay": ("stays", "staying"),
    "turn": ("turns", "turning"),
    "vanish": ("vanishes", "vanishing"),
    "whirl": ("whirls", "whirling"),
}
THEN = ("{0} and {1}", "{0} and then {1}", "{0}, then {1}")
# Sentences that join clauses such as "a red star spins".
SENTENCES_FINITE = {
    1: ("{0}", "in this clip {0}"),
    2: ("{0} and {1}", "{0} while {1}", "{0} as {1}", "in this clip {0} and {1}", "while {0}, {1}"),
    3: (
        "{0}, {1} and {2}",
        "{0} and {1} while {2}",
        "while {0}, {1} and {2}",
        "in this clip {0}, {1} and {2}",
    ),
}
# Sentences that join noun phrases such as "a red star spinning".
SENTENCES_GERUND = {
    1: ("there is {0}", "we see {0}"),
    2: ("there is {0} and {1}", "we see {0} and {1}", "a clip of {0} and {1}"),
    3: ("there is {0}, {1} and {2}", "we see {0}, {1} and {2}", "a clip of {0}, {1} and {2}"),
}
BEHIND = ("over {0}", "against {0}", "in front of {0}")
