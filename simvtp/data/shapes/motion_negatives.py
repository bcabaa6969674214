"""Captions of the embedded data set with another motion, for tests of the use of motion."""

from __future__ import annotations

import functools
import hashlib
import re

from simvtp.data.shapes.grammar import inflect
from simvtp.data.shapes.wordings import MOTION_VERBS

ALIKE = {"still", "spin"}  # nobody sees whether a flat ring spins


def motion_negative(caption: str) -> str | None:
    """Returns the caption with one motion replaced by another one; None if it names no motion.

    The first motion is replaced, in the same form of the verb, by the plain wording of another
    motion, which is a pure function of the caption. Nothing else changes, so only a viewer who sees
    the motion can tell the two captions apart.
    """
    phrases = _phrases()
    found = _pattern().search(caption)
    if found is None:
        return None
    motion, gerund = phrases[found[0]]
    others = [name for name in MOTION_VERBS if name != motion and {name, motion} != ALIKE]
    number = int.from_bytes(hashlib.sha256(caption.encode()).digest()[:4], "big") % len(others)
    changed = inflect(MOTION_VERBS[others[number]][0], gerund)
    return f"{caption[: found.start()]}{changed}{caption[found.end() :]}"


@functools.cache
def _phrases() -> dict[str, tuple[str, bool]]:
    """Returns {phrase: (motion, is it a gerund)} of all wordings."""
    return {
        inflect(phrase, gerund): (motion, gerund)
        for motion, phrases in MOTION_VERBS.items()
        for phrase in phrases
        for gerund in (False, True)
    }


@functools.cache
def _pattern() -> re.Pattern[str]:
    longest_first = sorted(_phrases(), key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")
