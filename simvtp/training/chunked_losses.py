"""The two losses over large tables, piece by piece, with their gradient made on the way (ours).

`masked_pixel_loss` over [B, M, P] pixels and `word_loss` over [B, K, W] scores are sums of simple
terms, but written as a chain of operations they walk through main memory a dozen times and keep
several tables of that size for the backward pass. Here a piece that the cache holds goes through
the whole chain, and what is kept is the gradient alone, in the precision of the prediction. Losses
and gradients are those of the plain functions in `losses.py`, which remain as what these are
compared with.

On a GPU a piece is large: there it bounds the memory, and launches cost more than walks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from simvtp.training.losses import IGNORED, as_full, as_share, normalise_tubes, word_share

CACHED, BOUNDED = 2**17, 2**28  # values in a piece: 512 KiB of float32 on a CPU, 1 GiB elsewhere


def pixel_loss_in_pieces(prediction: Tensor, pixels: Tensor, normalised: bool) -> Tensor:
    """MVM of prediction [B, M, P] and pixels [B, M, P] (bytes, or shares of 1), `normalised` in
    each tube and channel or as they are.
    """
    return cast(
        Tensor, _PixelLoss.apply(prediction.flatten(0, -2), pixels.flatten(0, -2), normalised)
    )  # [B * M, P]


def word_loss_in_pieces(
    logits: Tensor, labels: Tensor, share: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(MLM as `losses.word_loss` of the same arguments, how many scored words were guessed right, a
    0-d integer).
    """
    share = word_share([labels]) if share is None else share
    total, right = cast(
        tuple[Tensor, Tensor], _WordLoss.apply(logits.flatten(0, 1), labels.flatten())
    )  # [B * K, W], [B * K]
    return total / share.to(total.dtype), right


def _pieces(table: Tensor) -> Iterator[slice]:
    """Slices of the rows of `table` [R, C], each of about as many values as suit its device, and of
    at least one row.
    """
    rows, columns = table.shape
    step = max(1, (CACHED if table.device.type == "cpu" else BOUNDED) // max(1, columns))
    return (slice(first, first + step) for first in range(0, rows, step))


def _sum(parts: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(parts).sum() if parts else as_full(like.new_zeros(()))


class _PixelLoss(torch.autograd.Function):
    """(prediction [R, P], pixels [R, P], whether to normalise them) -> mean squared error, 0-d."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, pixels: Tensor, normalised: bool) -> Tensor:
        gradient = torch.empty_like(prediction) if ctx.needs_input_grad[0] else None
        parts = []
        for rows in _pieces(prediction):
            guess = as_full(prediction[rows])
            error = guess - (normalise_tubes if normalised else as_share)(pixels[rows], guess.dtype)
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


class _WordLoss(torch.autograd.Function):
    """(logits [R, W], labels int64 [R]) -> (sum of the cross-entropies of the scored rows, how many
    of them are right), both 0-d.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        parts, hits = [], []
        for rows in _pieces(logits):
            scores, wanted = as_full(logits[rows]), labels[rows, None]  # [r, W], [r, 1]
            scored = wanted != IGNORED
            places = torch.where(scored, wanted, 0)
            highest, best = scores.max(dim=1, keepdim=True)
            hits.append((best == wanted).sum())  # no place is IGNORED
            exponentials = (scores - highest).exp_()
            sums = exponentials.sum(dim=1, keepdim=True)
            losses = sums.log() + highest - scores.gather(1, places)  # [r, 1]
            parts.append(losses.where(scored, 0).sum())
            if gradient is not None:
                # softmax - 1 at the right word, and nothing in rows that are not scored
                slopes = exponentials.mul_(scored / sums).scatter_add_(
                    1, places, -scored.to(sums.dtype)
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
