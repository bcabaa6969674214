"""Runs of neighbouring words, for masks that hide spans.

Ours, after SpanBERT (arXiv 1907.10529), whose lengths are drawn and ours are not. The words of a
caption form a ring, which starts at a random word and is split into runs; the last run may be
shorter. Everything else is decided by positions on the ring, so that every word is hidden equally
often, whatever the number of words, the ratio and the length of the runs.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ring_positions(noise: Tensor, present: Tensor) -> Tensor:
    """Returns the position on the ring of each word: int64 [B, L].

    Args:
        noise: float32 [B, L], uniform; its last number, which belongs to no word ([CLS] and [SEP]
            take two positions), turns the ring.
        present: bool [B, L], True at the numbers of words that the caption has.
    """
    words = present.sum(dim=1, keepdim=True).clamp(min=1)
    turn = (noise[:, -1:] * words).to(torch.int64)
    return ((present.cumsum(dim=1) - 1).clamp(min=0) + turn) % words


def run_noise(noise: Tensor, span: int) -> Tensor:
    """Returns noise by position on the ring that is equal within a run of `span`: float32 [B, L].

    Positions with the least noise are then chosen run by run, and within a run from its start.
    """
    numbers = torch.arange(noise.shape[1], device=noise.device)
    return noise.index_select(1, numbers // span)
