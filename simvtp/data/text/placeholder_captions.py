"""Captions that say nothing: what a spreadsheet or a data frame writes where there is none."""

from __future__ import annotations

import re
import unicodedata

PLACEHOLDERS = {
    *("nan", "nat", "none", "null", "nil", "undefined", "missing"),
    *("na", "n/a", "#n/a", "<na>"),
    *("#ref!", "#name?", "#value!", "#div/0!", "#num!", "#null!", "#spill!", "#calc!"),
}
LONGEST = 200  # letters; a list of more placeholders is none
# Letters and digits to Unicode, but nothing to see: fillers of Hangul.
INVISIBLE = re.compile("[\u115f\u1160\u3164\uffa0]")
BETWEEN = re.compile(r"[\s,;|]+")
MARKS = "\"'`.,:!?()[]{}<>-_"


def says_nothing(caption: str) -> bool:
    """Returns whether a caption that is not empty is a placeholder, or has no letter or digit.

    Placeholders count in quotes and brackets, repeated (`[nan, nan]`), with a full stop, in wide
    letters, and with characters that nobody sees.
    """
    text = INVISIBLE.sub("", caption)
    if not any(letter.isalnum() for letter in text):
        return True
    return len(text) <= LONGEST and all(map(_is_placeholder, BETWEEN.split(text)))


def _is_placeholder(word: str) -> bool:
    word = unicodedata.normalize("NFKC", word).casefold()
    word = "".join(letter for letter in word if unicodedata.category(letter) != "Cf")
    stripped = word.strip(MARKS)
    return not stripped or stripped in PLACEHOLDERS or word.strip("\"'") in PLACEHOLDERS
