"""Records that go from the loader to the model: names, shapes, dtypes.

Legend used in every model file: B batch, T frames, H W pixels, N tubes (space-time tokens), V
visible tubes, M masked tubes (N = V + M), L text length, K slots for masked words, P values in one
tube (tubelet * patch * patch * 3), D width, W vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Clips with their captions, as integers: normalisation and masking happen on the device.

    Attributes:
        clips: uint8 [B, T, H, W, 3], RGB.
        input_ids: int64 [B, L], WordPiece ids with [CLS] first and [SEP] after the last word, then
            padding.
        attention_mask: bool [B, L], True where there is a token, False where there is padding.
        word_ids: int64 [B, L], index of the word that a piece belongs to; -1 for [CLS], [SEP] and
            padding.
        sample_ids: the B names of the samples (`videoid`), for messages.
        targets: [B, ...] of a downstream task, as the task defines them; None in pre-training and
            retrieval.

    A task may have several texts for each clip: then the three text tensors are [B, C, L].
    """

    clips: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    word_ids: Tensor
    sample_ids: tuple[str, ...]
    targets: Tensor | None = None

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """Returns the batch on `device`."""
        return self._with(
            {name: tensor.to(device, non_blocking=non_blocking) for name, tensor in self._tensors()}
        )

    def pin_memory(self) -> Batch:
        """Returns the batch in page-locked memory, so that the copy to a GPU overlaps with work."""
        return self._with({name: tensor.pin_memory() for name, tensor in self._tensors()})

    def part(self, start: int, stop: int) -> Batch:
        """Returns samples start..stop-1 (a micro-batch)."""
        part = self._with({name: tensor[start:stop] for name, tensor in self._tensors()})
        return replace(part, sample_ids=self.sample_ids[start:stop])

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Iterates over the fields that hold tensors."""
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                yield f.name, value

    def _with(self, tensors: dict[str, Any]) -> Batch:
        return replace(self, **tensors)


@dataclass(frozen=True)
class Masks:
    """Masks of one batch. All shapes are constant from step to step.

    Attributes:
        visible: int64 [B, V], indices of the visible tubes in (t, h, w) order, ascending.
        masked: int64 [B, M], indices of the masked tubes, ascending; V + M = N.
        input_ids: int64 [B, L], the caption with `[MASK]` at the masked words (or as
            `masks.text_corruption` says).
        word_positions: int64 [B, K], positions in the caption of the masked words that MLM is asked
            for; 0 in unused slots.
        word_labels: int64 [B, K], the original ids at these positions; -100 in unused slots.
        negative_noise: float32 [B, B], standard Gumbel noise that picks the VTM negatives.
        negative_index: int64 [B] or None; a given choice of negatives (parity files), which
            overrides the noise.
        text_negative_noise: float32 [B, B], that picks the wrong texts of the clips (rows: clips),
            with `model.vtm_directions` = both.
        text_negative_index: int64 [B] or None; a given choice of them.
        decoded: int64 [B, K'], the masked tubes that the decoder rebuilds in training, ascending,
            where they are drawn (`model.decoder_cells`); None where they follow from `masked`.
    """

    visible: Tensor
    masked: Tensor
    input_ids: Tensor
    word_positions: Tensor
    word_labels: Tensor
    negative_noise: Tensor
    negative_index: Tensor | None = None
    text_negative_noise: Tensor | None = None
    text_negative_index: Tensor | None = None
    decoded: Tensor | None = None
