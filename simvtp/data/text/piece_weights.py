"""Weights by which word masks prefer pieces: from how often the training captions hold each piece.

Ours. `rare` hides the words in which captions differ more often than `a` or `is`, which MLM fills
in without the video; `frequent` is the opposite, the direction of CLIPF (arXiv 2412.16148). The
square root is that of word2vec's subsampling (arXiv 1310.4546), which CLIPF takes over. It makes a
piece that occurs a hundred times as often ten times as likely to be hidden first, or last.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from simvtp.config.model_config import ModelConfig
from simvtp.data.clips import Clip
from simvtp.data.text.tokenizer import TokenBatch, Tokenizer, encode_captions

COUNTED_CAPTIONS = 20_000  # training captions, the first, that say how often a piece occurs
CAPTIONS_PER_BATCH = 1000


def counted_captions(
    clips: Iterable[Clip], tokenizer: Tokenizer, model: ModelConfig
) -> Iterator[TokenBatch]:
    """Yields the first captions of a split, at most 20,000, in batches of word pieces."""
    captions = (caption for clip in clips for caption in clip.captions)
    counted = itertools.islice(captions, COUNTED_CAPTIONS)
    while part := list(itertools.islice(counted, CAPTIONS_PER_BATCH)):
        yield encode_captions(tokenizer, part, model)


def piece_weights(batches: Iterable[TokenBatch], size: int, kind: str) -> Tensor:
    """Returns the weight of each piece of the vocabulary, float64 [W], for `masks.text_kind`.

    It is (occurrences + 1) ^ -1/2 for `rare` and ^ 1/2 for `frequent`. The one keeps pieces that no
    counted caption holds at a finite weight.

    Args:
        batches: the counted captions.
        size: W.
        kind: rare or frequent.
    """
    occurrences = torch.zeros(size, dtype=torch.int64)
    for tokens in batches:
        occurrences += tokens.input_ids[tokens.word_ids >= 0].bincount(minlength=size)
    return (occurrences.double() + 1) ** {"rare": -0.5, "frequent": 0.5}[kind]
