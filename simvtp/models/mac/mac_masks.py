"""Masks of MAC: the visible patches of each frame, and the caption with `[MASK]` or fewer words.

The masks are drawn by `masking.draw_masks`. Here they are put into the shape that the towers take:
visible patches slot by slot, of the first frames only while `masks.frame_schedule` says so, and
captions from which hidden words are left out where `masks.text_mask` is `drop`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from simvtp.batch import Batch, Masks
from simvtp.config.mask_counts import frame_curriculum
from simvtp.config.model_config import MACConfig, MACMaskConfig
from simvtp.models.common.layers import gather_tokens
from simvtp.models.common.masking import draw_masks, words_to_hide


@dataclass(frozen=True, kw_only=True)
class FrameMasks(Masks):
    """Masks with the number of frames that are used.

    `visible` is [B, slots * n], slot by slot; `input_ids` is [B, L'].

    Attributes:
        slots: number of frames of the clip that are visible.
        attention_mask: bool [B, L'], False at padding.
        positions: int64 [B, L'], positions of the pieces in the whole caption; None if unchanged.
        aligned: every slot shows the same positions.
    """

    slots: int
    attention_mask: Tensor
    positions: Tensor | None = None
    aligned: bool = False


def slots_at(step: int, frames: int, schedule: str) -> int:
    """Returns how many frames step `step` (from 0) sees, by `masks.frame_schedule`."""
    for stage_frames, until in frame_curriculum(schedule):
        if step < until:
            return stage_frames
    return frames


def draw_frame_masks(
    batch: Batch,
    model: MACConfig,
    masks: MACMaskConfig,
    *,
    mask_id: int,
    seed: int,
    step: int,
    first_sample: int,
    piece_weights: Tensor | None = None,
) -> FrameMasks:
    """Draws masks as `masking.draw_masks` does, for the frames that this step sees.

    Of T frames, a step that sees fewer takes every (T / fewer)-th from the first on.
    """
    drawn = draw_masks(
        batch,
        model,
        masks,
        mask_id=mask_id,
        seed=seed,
        step=step,
        first_sample=first_sample,
        piece_weights=piece_weights,
    )
    total = model.grid[0]
    slots = slots_at(step, total, masks.frame_schedule)
    visible = drawn.visible
    if slots < total:
        # made on the device: a tensor of a list would be copied there, and the host would wait
        chosen = torch.arange(slots, device=visible.device) * total // slots
        visible = visible.unflatten(1, (total, -1)).index_select(1, chosen).flatten(1)
    ids, attention_mask, positions = drawn.input_ids, batch.attention_mask, None
    if masks.text_mask == "drop":
        ids, attention_mask, positions = _without_hidden(drawn, batch, masks)
    return FrameMasks(
        visible=visible,
        masked=drawn.masked,
        input_ids=ids,
        word_positions=drawn.word_positions,
        word_labels=drawn.word_labels,
        negative_noise=drawn.negative_noise,
        slots=slots,
        attention_mask=attention_mask,
        positions=positions,
        aligned=masks.video_kind != "per_frame" or drawn.masked.shape[1] == 0,
    )


def kept_length(length: int, masks: MACMaskConfig) -> int:
    """Returns the pieces of the longest caption after hidden words are dropped.

    [CLS] and [SEP] are included.
    """
    if masks.text_mask == "replace":
        return length
    return 2 + max(words - words_to_hide(masks.text_ratio, words) for words in range(length - 1))


def _without_hidden(
    drawn: Masks, batch: Batch, masks: MACMaskConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Drops the hidden pieces.

    Returns:
        (ids, attention mask, positions in the whole caption), each [B, L'], in caption order.
    """
    length = batch.input_ids.shape[1]
    hidden = torch.zeros_like(batch.attention_mask)
    used = drawn.word_labels >= 0
    # unused slots write False at 0, which is [CLS]
    hidden.scatter_(1, torch.where(used, drawn.word_positions, 0), used)
    positions = torch.arange(length, device=hidden.device)
    stay = batch.attention_mask & ~hidden
    order = torch.where(stay, positions, length).argsort(dim=1, stable=True)
    order = order[:, : kept_length(length, masks)]
    attention_mask = gather_tokens(stay, order)
    ids = torch.where(attention_mask, gather_tokens(batch.input_ids, order), 0)
    return ids, attention_mask, order
