"""Content words: the word pieces in which captions differ from one another.

A model that has learnt only the grammar of captions already fills in `a`, `and` or `the`. So the
masked words are scored a second time without the pieces that most captions hold anyway. The rule
looks at the training captions alone; it knows no language and no data set.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

COMMON = 0.5  # a piece that more than this fraction of the captions holds is no content word


def content_pieces(input_ids: Iterable[Tensor], word_ids: Iterable[Tensor], size: int) -> Tensor:
    """Returns bool [size]: True for the pieces that at most half of the captions hold.

    Pieces that no caption holds are content words too: they tell captions apart if they occur.

    Args:
        input_ids: batches int64 [n, L] of captions.
        word_ids: the same batches, -1 for [CLS], [SEP] and padding.
        size: number of pieces of the vocabulary.
    """
    held = torch.zeros(size, dtype=torch.int64)
    captions = 0
    for ids, words in zip(input_ids, word_ids, strict=True):
        rows = torch.arange(len(ids))[:, None].expand_as(ids)
        inside = words >= 0
        pairs = torch.unique(torch.stack([rows[inside], ids[inside]]), dim=1)
        held += pairs[1].bincount(minlength=size)
        captions += len(ids)
    return held <= COMMON * captions
