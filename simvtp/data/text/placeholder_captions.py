"""Captions that say nothing: what a spreadsheet or a data frame writes where there is none."""

from __future__ import annotations

PLACEHOLDERS = {"nan", "none", "null", "n/a", "#n/a", "<na>", "nil", "undefined", "missing"}


def says_nothing(caption: str) -> bool:
    """Returns whether a caption that is not empty is a placeholder, or has no letter or digit."""
    return caption.casefold() in PLACEHOLDERS or not any(letter.isalnum() for letter in caption)
