"""Runs of neighbouring words, for masks that hide spans.

Ours, after SpanBERT (arXiv 1907.10529), whose lengths are drawn and ours are not.
"""

from __future__ import annotations

import torch
from torch import Tensor


def run_noise(noise: Tensor, present: Tensor, span: int) -> Tensor:
    """Returns noise that is equal for all words of a run, so that words are chosen run by run.

    The words of a caption, as a ring, are cut into runs of `span` words from a random word on; the
    last run may be shorter, and the run across the ring's end lies at both ends of the caption. So
    every word is chosen equally often.

    Args:
        noise: float32 [B, L], uniform; its last number, which belongs to no word ([CLS] and [SEP]
            take two positions), turns the ring.
        present: bool [B, L], True at the numbers of words that the caption has.

    Returns:
        float32 [B, L].
    """
    words = present.sum(dim=1, keepdim=True).clamp(min=1)
    turn = (noise[:, -1:] * words).to(torch.int64)
    numbers = torch.arange(noise.shape[1], device=noise.device)
    return noise.gather(1, (numbers + turn) % words // span)
