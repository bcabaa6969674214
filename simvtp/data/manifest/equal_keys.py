"""Equal texts among many, found by their hashes: 8 bytes each in place of a dictionary of texts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def first_equal(hashes: np.ndarray, text_of: Callable[[int], str]) -> np.ndarray | None:
    """Returns for each text the number of the first one that equals it; None if all differ.

    Texts are compared only where their hashes are equal, so different texts with one hash stay
    apart.

    Args:
        hashes: int64 [n], of the texts.
        text_of: returns text number i.

    Returns:
        int64 [n].
    """
    order = np.argsort(hashes, kind="stable")
    sorted_hashes = hashes[order]
    same = sorted_hashes[1:] == sorted_hashes[:-1]
    if not same.any():
        return None
    first = np.arange(len(hashes))
    borders = np.flatnonzero(np.diff(np.concatenate(([False], same, [False])).astype(np.int8)))
    for begin, end in borders.reshape(-1, 2).tolist():
        seen: dict[str, int] = {}
        for number in order[begin : end + 1].tolist():  # rising, as the sort is stable
            first[number] = seen.setdefault(text_of(number), number)
    return None if np.array_equal(first, np.arange(len(hashes))) else first
