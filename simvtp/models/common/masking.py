"""Masks for tubes and words, drawn on the batch's device by a counter-based generator.

Every mask is a pure function of (seed, step, index of the sample in the global batch): see
`philox`. So masks do not depend on how the global batch is split over ranks and micro-batches.

Kinds and rules: method notes 1.2 (tube masking and Bernoulli text masking are the released
behaviour; the exact text rule and whole words are ours). Shapes are constant from step to step, but
for ratios that change (`masks_at_step`); see `simvtp.batch` for the legend of sizes.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from simvtp.batch import Batch, Masks
from simvtp.config.mask_counts import hidden_per_slot, mask_units, ratio_steps
from simvtp.config.model_config import (
    PIECE_KINDS,
    WEIGHTED_KINDS,
    MaskConfig,
    ModelConfig,
    SimVTPConfig,
)
from simvtp.models.common.decoder_masking import select_decoded_tubes, turns_cells
from simvtp.models.common.philox import stream_uniforms
from simvtp.models.common.span_masking import ring_positions, run_noise

UNUSED = -100  # label of a word slot that holds no word; the value that cross-entropy ignores
RECTANGLES = 16  # drawn for a sample by the kind `block`; as many as needed are used
SMALL_SIDE, LARGE_SIDE = 0.25, 0.6  # of the frame: shortest and longest side of a rectangle
VIDEO_STREAM, TEXT_STREAM, NEGATIVE_STREAM, DECODER_STREAM, TEXT_NEGATIVE_STREAM = range(5)
PREDICTED_STREAM, CORRUPTION_STREAM, RATIO_STREAM = 5, 6, 7
RANDOM_WORDS, KEPT_WORDS = 0.1, 0.1  # of the hidden words, as BERT has it


# ---- counts --------------------------------------------------------------------------------------


def words_to_hide(ratio: float, units: int) -> int:
    """Returns the count of the exact rule: max(1, round(ratio * units)), halves up.

    It is 0 if there are no units or the ratio is 0.
    """
    return max(1, math.floor(ratio * units + 0.5)) if ratio > 0 and units > 0 else 0


def word_slots(length: int, masks: MaskConfig) -> int:
    """Returns K, the number of slots for masked words: enough for every caption, at least 1.

    A caption of `length` positions has at most L - 2 words ([CLS] and [SEP] take two). Single
    tokens under the exact rule need round(ratio * (L - 2)); the Bernoulli rule can hide all, and
    whole words can have more pieces than the ratio implies. Of these, `text_predicted` are asked
    for.
    """
    positions = max(1, length - 2)
    if masks.text_rule == "exact" and masks.text_kind in PIECE_KINDS:
        positions = max(1, words_to_hide(masks.text_ratio, positions))
    return max(1, words_to_hide(masks.text_predicted, positions))


def masks_at_step(masks: MaskConfig, *, seed: int, step: int, total_steps: int) -> MaskConfig:
    """Returns the settings of one step of the pre-training, with the ratios that hold in it.

    A pure function of its arguments, the same on all ranks. Within a step all samples have one
    ratio, so shapes differ between steps only.
    """
    video = ratio_steps("masks.video_ratio_steps", masks.video_ratio_steps)
    text = ratio_steps("masks.text_ratio_steps", masks.text_ratio_steps)
    if video is None and text is None:
        return masks
    drawn = stream_uniforms(1, {RATIO_STREAM: 2}, seed=seed, step=step, first_sample=0)
    of_video, of_text = drawn[RATIO_STREAM][0].tolist()  # on the host: no device waits for it
    return replace(
        masks,
        video_ratio=video.at(step, total_steps, masks.video_ratio, of_video)
        if video
        else masks.video_ratio,
        text_ratio=text.at(step, total_steps, masks.text_ratio, of_text)
        if text
        else masks.text_ratio,
        video_ratio_steps="",
        text_ratio_steps="",
    )


# ---- masks ---------------------------------------------------------------------------------------


def draw_masks(
    batch: Batch,
    model: ModelConfig,
    masks: MaskConfig,
    *,
    mask_id: int,
    seed: int,
    step: int,
    first_sample: int,
    piece_weights: Tensor | None = None,
) -> Masks:
    """Draws the masks of one batch (or of a part of one) on the batch's device.

    Args:
        mask_id: vocabulary id of `[MASK]`.
        seed: of the masks.
        step: training step, from 0.
        first_sample: index of the batch's first sample within the global batch of this step. Only
            the columns of the noise of negatives are local: negatives come from this batch.
        piece_weights: float64 [W] on that device, above 0: how much each piece is preferred; needed
            by the kinds of words `rare` and `frequent`, of no effect on others.
    """
    b, length = batch.input_ids.shape
    columns = {VIDEO_STREAM: _video_noise(model, masks), TEXT_STREAM: length, NEGATIVE_STREAM: b}
    if turns_cells(model):
        columns[DECODER_STREAM] = 1
    both = isinstance(model, SimVTPConfig) and model.vtm_directions == "both"
    if both:
        columns[TEXT_NEGATIVE_STREAM] = b
    columns |= _word_columns(length, masks)
    noise = stream_uniforms(
        b,
        columns,
        seed=seed,
        step=step,
        first_sample=first_sample,
        device=batch.input_ids.device,
    )
    visible, masked = _video_masks(noise[VIDEO_STREAM], model, masks)
    decoded = None
    if isinstance(model, SimVTPConfig) and DECODER_STREAM in noise:
        decoded = select_decoded_tubes(masked, model, noise[DECODER_STREAM])
    if masks.text_kind in WEIGHTED_KINDS:
        if piece_weights is None:
            raise ValueError(f"masks.text_kind={masks.text_kind} needs the weights of the pieces")
        noise[TEXT_STREAM] = _race(noise[TEXT_STREAM], piece_weights[batch.input_ids])
    shown, positions, labels = _word_masks(noise, batch, model, masks, mask_id)
    return Masks(
        visible=visible,
        masked=masked,
        input_ids=shown,
        word_positions=positions,
        word_labels=labels,
        negative_noise=_gumbel(noise[NEGATIVE_STREAM]),
        text_negative_noise=_gumbel(noise[TEXT_NEGATIVE_STREAM]) if both else None,
        decoded=decoded,
    )


def _video_noise(model: ModelConfig, masks: MaskConfig) -> int:
    """Returns how many random numbers of a sample the video mask takes."""
    if masks.video_kind == "per_frame":
        return model.tubes
    units = mask_units(model, masks)
    return units + 4 * RECTANGLES if masks.video_kind == "block" else units


def _video_masks(noise: Tensor, model: ModelConfig, masks: MaskConfig) -> tuple[Tensor, Tensor]:
    """Returns the indices of visible [B, V] and masked [B, M] tubes, ascending.

    The units with the least noise are hidden.
    """
    hidden = hidden_per_slot(model, masks)
    if masks.video_kind == "per_frame":  # each slot has its own noise
        noise = noise.unflatten(1, (model.grid[0], -1)).flatten(0, 1)
    # stable: equal noise has the same order on every device
    if masks.video_kind == "block":  # positions that a rectangle reaches together: by their noise
        sides, ties = noise[:, : 4 * RECTANGLES], noise[:, 4 * RECTANGLES :]
        shuffled = ties.argsort(dim=1, stable=True)
        turn = _rectangle_order(sides, model.grid[1], model.grid[2])
        order = shuffled.gather(1, turn.gather(1, shuffled).argsort(dim=1, stable=True))
    else:
        order = noise.argsort(dim=1, stable=True)
    masked, visible = order[:, :hidden].sort(dim=1).values, order[:, hidden:].sort(dim=1).values
    return _tubes_of(visible, model, masks), _tubes_of(masked, model, masks)


def _rectangle_order(noise: Tensor, height: int, width: int) -> Tensor:
    """Returns the order in which random rectangles hide the positions of a frame.

    The first rectangles are hidden completely and the last from its middle outwards, until the
    count is reached; positions that no rectangle covers come last, nearest to the first one first.

    Args:
        noise: [B, 4 * RECTANGLES] in [0, 1): the two sides and the corner of each rectangle.

    Returns:
        float32 [B, h * w], smaller is earlier.
    """
    sides, corner = noise.unflatten(1, (RECTANGLES, 4)).split(2, dim=2)
    first_axis = torch.arange(2, device=noise.device) == 0
    # [2], made on the device: a tensor of a list would be copied there, and the host would wait
    size = torch.where(first_axis, height, width).to(noise.dtype)
    extent = ((SMALL_SIDE + (LARGE_SIDE - SMALL_SIDE) * sides) * size).round().clamp(min=1)
    start = (corner * (size - extent + 1)).floor()
    index = torch.arange(height * width, device=noise.device)
    position = torch.stack([index // width, index % width], dim=-1).to(noise.dtype)  # [h * w, 2]
    centre, half = start + extent / 2, extent / 2  # [B, R, 2]
    away = ((position + 0.5 - centre[:, :, None]).abs() / half[:, :, None]).amax(dim=-1)
    # [B, R, h * w]; below 1 inside
    turn = torch.arange(RECTANGLES, device=noise.device, dtype=noise.dtype)[:, None] + away
    first = torch.where(away < 1, turn, float("inf")).amin(dim=1)
    return torch.where(first.isinf(), RECTANGLES + away[:, 0], first)


def _tubes_of(units: Tensor, model: ModelConfig, masks: MaskConfig) -> Tensor:
    """Returns tube indices, ascending, of sorted units [B, n] of the mask's kind."""
    t, h, w = model.grid
    if masks.video_kind == "per_frame":  # [B * t, n]: positions of each slot
        slots = torch.arange(t, device=units.device)[:, None] * (h * w)
        return (units.unflatten(0, (-1, t)) + slots).flatten(1)
    if masks.video_kind in ("tube", "block"):  # the same positions in every time slot
        slots = torch.arange(t, device=units.device) * (h * w)
        return (slots[None, :, None] + units[:, None, :]).flatten(1)
    if masks.video_kind == "frame":  # every position of the chosen time slots
        positions = torch.arange(h * w, device=units.device)
        return (units[:, :, None] * (h * w) + positions).flatten(1)
    return units


def _race(noise: Tensor, weights: Tensor) -> Tensor:
    """Returns float64 [B, L] by which pieces are drawn by weight, one after another.

    Each is the time of an event with rate `weight`, so the first k are k draws without replacement,
    each by the weights of those that are left (Efraimidis and Spirakis 2006). Equal weights keep
    the order of the noise.

    Args:
        noise: float32 [B, L] in [0, 1).
        weights: float64 [B, L], above 0.
    """
    return -torch.log1p(-noise.double()) / weights


def _hidden_words(noise: Tensor, word_ids: Tensor, masks: MaskConfig) -> Tensor:
    """Returns bool [B, L], True at the pieces to hide.

    `noise` is [B, L], one number per unit (piece or word).
    """
    maskable = word_ids >= 0
    if masks.text_kind in PIECE_KINDS:
        return _hidden_units(noise, maskable, masks)
    numbers = torch.arange(word_ids.shape[1], device=word_ids.device)
    # [B, L]: the caption has a word of that number
    present = (word_ids[:, :, None] == numbers).any(dim=1)
    if masks.text_kind == "span":
        on_ring = numbers < present.sum(dim=1, keepdim=True)
        hidden = _hidden_units(run_noise(noise, masks.text_span), on_ring, masks)
        hidden = hidden.gather(1, ring_positions(noise, present)) & present
    else:
        hidden = _hidden_units(noise, present, masks)
    return hidden.gather(1, word_ids.clamp(min=0)) & maskable


def _hidden_units(noise: Tensor, present: Tensor, masks: MaskConfig) -> Tensor:
    """Returns bool [B, U], True at the units to hide among those present."""
    if masks.text_rule == "bernoulli":
        return (noise < masks.text_ratio) & present
    return _least(noise, present, masks.text_ratio)


def _least(noise: Tensor, present: Tensor, ratio: float) -> Tensor:
    """Returns bool [B, U], True at those present with the least noise, by the exact rule."""
    units = present.sum(dim=1, keepdim=True)
    # The same float64 arithmetic as `words_to_hide`, so that K slots always suffice.
    count = (units.to(torch.float64) * ratio + 0.5).floor().to(torch.int64)
    count = count.clamp(min=1 if ratio > 0 else 0)
    rank = torch.where(present, noise, float("inf")).argsort(dim=1, stable=True).argsort(dim=1)
    return (rank < count) & present


def _word_columns(length: int, masks: MaskConfig) -> dict[int, int]:
    """Returns the random numbers that a caption of L positions takes for what MLM is asked."""
    columns = {}
    if masks.text_predicted < 1:
        columns[PREDICTED_STREAM] = length
    if masks.text_corruption == "bert":
        columns[CORRUPTION_STREAM] = 2 * length
    return columns


def _word_masks(
    noise: dict[int, Tensor], batch: Batch, model: ModelConfig, masks: MaskConfig, mask_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the caption as it is shown [B, L], and positions and labels [B, K] of the words."""
    ids = batch.input_ids
    hidden = _hidden_words(noise[TEXT_STREAM], batch.word_ids, masks)
    asked, shown = hidden, torch.where(hidden, mask_id, ids)
    if PREDICTED_STREAM in noise:
        asked = _least(noise[PREDICTED_STREAM], hidden, masks.text_predicted) & hidden
    if CORRUPTION_STREAM in noise:
        shown = _corrupt(noise[CORRUPTION_STREAM], ids, shown, hidden, model.vocab_size)
    return shown, *_word_slots(asked, ids, word_slots(ids.shape[1], masks))


def _corrupt(
    noise: Tensor, input_ids: Tensor, masked_ids: Tensor, hidden: Tensor, vocab_size: int
) -> Tensor:
    """Returns ids [B, L] in which some hidden pieces are random ones, or themselves.

    Args:
        noise: float32 [B, 2 * L]: the kind of each piece, and which random one; any piece of the
            vocabulary is as likely, as in BERT.
        masked_ids: the caption with [MASK] at the hidden pieces.
    """
    kind, which = noise.chunk(2, dim=1)
    word = (which.to(torch.float64) * vocab_size).to(torch.int64)
    shown = torch.where(hidden & (kind < RANDOM_WORDS), word, masked_ids)
    kept = hidden & (kind >= 1 - KEPT_WORDS)
    return torch.where(kept, input_ids, shown)


def _word_slots(hidden: Tensor, input_ids: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """Returns positions and labels [B, K] of the hidden pieces, in order.

    Unused slots hold position 0 and label -100.
    """
    length = hidden.shape[1]
    index = torch.arange(length, device=hidden.device)
    first = torch.where(hidden, index, length).sort(dim=1).values[:, :slots]
    used = first < length
    positions = torch.where(used, first, 0)
    return positions, torch.where(used, input_ids.gather(1, positions), UNUSED)


def _gumbel(noise: Tensor) -> Tensor:
    """Returns standard Gumbel noise, always finite, from uniform noise in [0, 1)."""
    return -torch.log(-torch.log(noise.clamp(min=2.0**-25)))
