"""Escapes text of plans, runs and users for the formats of the reports."""

from __future__ import annotations

import re
import unicodedata

from simvtp.console import without_formula

# Characters that reverse the direction of what follows, so that text reads as something else.
BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str) -> str:
    """Returns the text with control characters as escapes, such as `\\x1b` and `\\n`.

    Terminals act on control characters, and line breaks end a row of a table or a comment.
    """
    if text.isprintable():
        return text
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    if hidden or character in BIDIRECTIONAL:
        return character.encode("unicode_escape").decode()
    return character


def markdown_text(text: str) -> str:
    """Returns text for a cell, a caption or a note of Markdown.

    Pipes and line breaks would end a cell; HTML, links and images would be rendered.
    """
    text = visible(text)
    if "|" in text:  # a backslash before a pipe would free it
        text = text.replace("\\", r"\\").replace("|", r"\|")
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    return text.replace("](", r"]\(")


def csv_text(text: str) -> str:
    """Returns text for a cell of CSV, which no spreadsheet runs as a formula."""
    return without_formula(visible(text))


def file_stem(text: str) -> str:
    """Returns text as a part of a file name: letters, digits, `_`, `-` and `.`."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip(".-") or "unnamed"
