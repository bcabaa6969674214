"""The two losses over large tables, chunk by chunk, with the gradient computed on the way (ours).

`masked_pixel_loss` over [B, M, P] pixels and `word_loss` over [B, K, W] scores are sums of simple
terms, but written as a chain of operations they pass through main memory a dozen times and keep
several tables of that size for the backward pass. Here a chunk that fits the cache goes through
the whole chain, and only the gradient is kept, in the precision of the prediction. Losses and
gradients are those of the plain functions in `losses.py`, against which they are tested.

On a GPU a chunk is large: there it bounds the memory, and kernel launches cost more than memory
passes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from simvtp.training.losses import IGNORED, as_full, normalise_tubes, tokens_per_rank, unit_pixels

CACHED, BOUNDED = 2**17, 2**28  # values in a chunk: 512 KiB of float32 on a CPU, 1 GiB elsewhere
_LARGE: ContextVar[bool] = ContextVar("large", default=False)


@contextlib.contextmanager
def large_chunks() -> Iterator[None]:
    """Takes the chunks of a GPU on a CPU as well, where the memory of a GPU is counted."""
    token = _LARGE.set(True)
    try:
        yield
    finally:
        _LARGE.reset(token)


def chunked_pixel_loss(prediction: Tensor, pixels: Tensor, normalised: bool) -> Tensor:
    """Returns the loss of MVM, as `losses.masked_pixel_loss`.

    Args:
        prediction: [B, M, P].
        pixels: [B, M, P], bytes or floats in [0, 1].
        normalised: normalise the pixels in each tube and channel.
    """
    tables = prediction.flatten(0, -2), pixels.flatten(0, -2)  # [B * M, P]
    return cast(Tensor, _ChunkedPixelLoss.apply(*tables, normalised))


def chunked_word_loss(
    logits: Tensor, labels: Tensor, normalizer: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Returns the loss of MLM, as `losses.word_loss`, and the number of words predicted right."""
    normalizer = tokens_per_rank([labels]) if normalizer is None else normalizer
    total, right = cast(
        tuple[Tensor, Tensor], _ChunkedWordLoss.apply(logits.flatten(0, 1), labels.flatten())
    )  # [B * K, W], [B * K]
    return total / normalizer.to(total.dtype), right


def _chunks(table: Tensor) -> Iterator[slice]:
    """Returns slices of the rows of `table` [R, C], each of a chunk that suits its device.

    A chunk has at least one row.
    """
    rows, columns = table.shape
    cached = table.device.type == "cpu" and not _LARGE.get()
    step = max(1, (CACHED if cached else BOUNDED) // max(1, columns))
    return (slice(first, first + step) for first in range(0, rows, step))


def _sum(parts: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(parts).sum() if parts else as_full(like.new_zeros(()))


class _ChunkedPixelLoss(torch.autograd.Function):
    """Mean squared error, 0-d, of prediction [R, P] and pixels [R, P], normalised or not."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, pixels: Tensor, normalised: bool) -> Tensor:
        gradient = torch.empty_like(prediction) if ctx.needs_input_grad[0] else None
        parts = []
        for rows in _chunks(prediction):
            guess = as_full(prediction[rows])
            error = guess - (normalise_tubes if normalised else unit_pixels)(
                pixels[rows], guess.dtype
            )
            parts.append(error.square().sum())
            if gradient is not None:
                gradient[rows] = error.mul_(2 / prediction.numel())
        ctx.save_for_backward(gradient)
        return _sum(parts, prediction) / prediction.numel()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None


class _ChunkedWordLoss(torch.autograd.Function):
    """Sum of the cross-entropies of the scored rows, and the number of right ones, both 0-d.

    Inputs are logits [R, W] and labels int64 [R].
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        parts, hits = [], []
        for rows in _chunks(logits):
            scores, wanted = as_full(logits[rows]), labels[rows, None]  # [r, W], [r, 1]
            scored = wanted != IGNORED
            columns = torch.where(scored, wanted, 0)
            highest, best = scores.max(dim=1, keepdim=True)
            hits.append((best == wanted).sum())  # no column is IGNORED
            exponentials = (scores - highest).exp_()
            sums = exponentials.sum(dim=1, keepdim=True)
            losses = sums.log() + highest - scores.gather(1, columns)  # [r, 1]
            parts.append(losses.where(scored, 0).sum())
            if gradient is not None:
                # softmax - 1 at the right word, and nothing in rows that are not scored
                slopes = exponentials.mul_(scored / sums).scatter_add_(
                    1, columns, -scored.to(sums.dtype)
                )
                gradient[rows] = slopes
        ctx.save_for_backward(gradient)
        right = torch.stack(hits).sum() if hits else labels.new_zeros(())
        ctx.mark_non_differentiable(right)
        return _sum(parts, logits), right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None
