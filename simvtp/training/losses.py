"""The four losses as functions of named tensors (method notes 1.5).

They know no model and no weights. Each is a mean such that the mean over ranks (which DDP takes of
the gradients) is the loss of the whole batch in one process. Legend: B batch, M masked tubes, P
values in a tube, K slots for masked words, W vocabulary, D width, R ranks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from simvtp.training.parallel.distributed import rank, sum_over_ranks, world

IGNORED = -100  # label of a word slot that is not used
FLAT = 1e-6  # added to the deviation of a tube's pixels, which may be 0 (released behaviour)


def as_full(value: Tensor) -> Tensor:
    """Returns half precision as float32; float32 and float64 stay."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


# ---- MVM -----------------------------------------------------------------------------------------


def unit_pixels(pixels: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Returns pixels in [0, 1]: bytes are divided by 255, in `dtype` (float32 by default).

    Floats are in [0, 1] already.
    """
    if pixels.dtype is torch.uint8:
        return pixels.to(dtype or torch.float32) / 255
    return as_full(pixels) if dtype is None else pixels.to(dtype)


def normalise_tubes(pixels: Tensor, dtype: torch.dtype | None = None, channels: int = 3) -> Tensor:
    """Returns pixels [..., P] with mean 0 and deviation 1 in each tube and channel.

    Released behaviour: (x - mean) / (sqrt(unbiased variance) + 1e-6) over the P / channels values
    of a channel; channels are the inner axis of P. Pixels are bytes, or floats in [0, 1].
    """
    if pixels.dtype is torch.uint8:
        values = pixels.to(dtype or torch.float32).unflatten(-1, (-1, channels))
        return _normalise_bytes(values).flatten(-2)
    values = unit_pixels(pixels, dtype).unflatten(
        -1, (-1, channels)
    )  # [..., P / channels, channels]
    variance, mean = torch.var_mean(values, dim=-2, keepdim=True, correction=1)
    return ((values - mean) / (variance.sqrt() + FLAT)).flatten(-2)


def _normalise_bytes(values: Tensor) -> Tensor:
    """Normalises whole numbers [..., P / channels, channels], in units of 1/255.

    Sums of whole numbers are exact, so that two passes of sums, several times as fast as `var_mean`
    over a strided axis on a CPU, leave a flat tube at 0.
    """
    count = values.shape[-2]
    centred = values - values.sum(dim=-2, keepdim=True) / count
    variance = centred.square().sum(dim=-2, keepdim=True) / (count - 1)
    return centred * (1 / (variance.sqrt() + 255 * FLAT))


def masked_pixel_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Returns the loss of MVM: mean squared error of prediction and target, both [B, M, P].

    Every rank has the same B and M.
    """
    full = as_full(prediction)
    return F.mse_loss(full, target.to(full.dtype))


# ---- MLM -----------------------------------------------------------------------------------------


def tokens_per_rank(labels: list[Tensor]) -> Tensor:
    """Returns the average number of scored words of a rank's micro-batch; 0-d float, above 0.

    The average is over ranks and over the given micro-batches. Captions differ in length, so ranks
    and micro-batches differ in scored words; dividing each one's sum by this average makes the mean
    over all of them the mean over all words.
    """
    counted = torch.stack([(part != IGNORED).sum() for part in labels]).sum()
    everywhere = sum_over_ranks(counted).clamp(min=1)
    return everywhere.to(torch.float32) / (world() * len(labels))


def word_loss(logits: Tensor, labels: Tensor, normalizer: Tensor | None = None) -> Tensor:
    """Returns the loss of MLM: cross-entropy, a mean over the scored words of all ranks.

    It is 0 (not NaN) if there is no scored word.

    Args:
        logits: [B, K, W].
        labels: int64 [B, K], -100 in slots that are not used.
        normalizer: `tokens_per_rank` of all micro-batches of the step; None: of this batch.
    """
    normalizer = tokens_per_rank([labels]) if normalizer is None else normalizer
    total = F.cross_entropy(
        as_full(logits).flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / normalizer.to(total.dtype)


# ---- VTC -----------------------------------------------------------------------------------------


class GatherRows(torch.autograd.Function):
    """Gathers [B, D] of each rank into [R * B, D] on all.

    The gradient of a row is summed over the ranks that used it. The backward is an all-reduce and a
    slice rather than a reduce-scatter, which gloo does not have.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = rows.shape[0]
        parts = [torch.empty_like(rows) for _ in range(world())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        gradient = grads[0].contiguous().clone()
        dist.all_reduce(gradient)
        return gradient[rank() * ctx.count : (rank() + 1) * ctx.count]


def gather_rows(rows: Tensor) -> Tensor:
    """Returns rows [B, D] of every rank as [R * B, D] in the order of the ranks, with gradient.

    For one process it returns its input.
    """
    return GatherRows.apply(rows) if world() > 1 else rows


def contrastive_logits(
    video_feature: Tensor, text_feature: Tensor, temperature: float | Tensor, gather: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes cosine similarity / temperature of this rank's rows and all columns.

    Returns:
        (video to text, text to video, true columns). The first two are [B, C], C = B, or R * B with
        `gather` (every rank has the same B); the third is int64 [B].
    """
    with torch.autocast(video_feature.device.type, enabled=False):
        video = F.normalize(as_full(video_feature), dim=-1)
        text = F.normalize(as_full(text_feature), dim=-1)
        all_video, all_text = (gather_rows(video), gather_rows(text)) if gather else (video, text)
        first = rank() * video.shape[0] if gather else 0
        right = torch.arange(first, first + video.shape[0], device=video.device)
        return video @ all_text.T / temperature, text @ all_video.T / temperature, right


def contrastive_loss(
    video_feature: Tensor, text_feature: Tensor, temperature: float, gather: bool = False
) -> Tensor:
    """Returns the loss of VTC: the *sum* of the cross-entropies of the two directions.

    Released behaviour; features [B, D] are not normalised.

    Args:
        temperature: fixed divisor of the cosine similarity; 0.05 as published.
        gather: negatives from all ranks (ours); False = from this rank only (released).
    """
    video_to_text, text_to_video, right = contrastive_logits(
        video_feature, text_feature, temperature, gather
    )
    return F.cross_entropy(video_to_text, right) + F.cross_entropy(text_to_video, right)


# ---- VTM -----------------------------------------------------------------------------------------


def matching_labels(match_logits: Tensor) -> Tensor:
    """Returns labels int64 [2B]: 1 for the first half (the true pairs), 0 for the second."""
    count = match_logits.shape[0] // 2
    return (torch.arange(2 * count, device=match_logits.device) < count).long()


def matching_loss(match_logits: Tensor, wrong_text_logits: Tensor | None = None) -> Tensor:
    """Returns the loss of VTM: two-way cross-entropy.

    True pairs count half and false ones half, however many directions have false ones. So the loss
    of a head that knows nothing, and the prior that the head learns, are the same for one direction
    and for two.

    Args:
        match_logits: [2B, 2]: B true pairs (class 1), then B texts with wrong clips (class 0).
        wrong_text_logits: [B, 2], clips with wrong texts (class 0), if there are any.
    """
    pairs, labels = as_full(match_logits), matching_labels(match_logits)
    if wrong_text_logits is None:
        return F.cross_entropy(pairs, labels)
    by_pair = F.cross_entropy(pairs, labels, reduction="none")
    logits = as_full(wrong_text_logits)
    wrong = F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))
    return _balanced(by_pair, wrong)


def matching_accuracy(match_logits: Tensor, wrong_text_logits: Tensor | None = None) -> Tensor:
    """Returns the fraction of right answers of VTM; true and false pairs count half each."""
    hits = (match_logits.argmax(dim=-1) == matching_labels(match_logits)).float()
    if wrong_text_logits is None:
        return hits.mean()
    return _balanced(hits, (wrong_text_logits.argmax(dim=-1) == 0).float().mean())


def _balanced(by_pair: Tensor, wrong_texts: Tensor) -> Tensor:
    """Returns 1/2 true pairs + 1/4 wrong clips + 1/4 wrong texts, each the mean of its pairs."""
    true, wrong_clips = by_pair.unflatten(0, (2, -1)).mean(dim=1)
    return true / 2 + (wrong_clips + wrong_texts) / 4
