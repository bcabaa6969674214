"""What is hidden in a batch: masks for tubes and words, drawn on the batch's device by a
counter-based generator.

Every number is a pure function of (seed, step, number of the sample in the global batch, stream),
computed by Philox4x32-10 (Salmon et al. 2011) in integer arithmetic. So masks are the same on CPU
and GPU, need no random state in a checkpoint, do not depend on how the global batch is cut over
ranks and micro-batches, and cost no transfer and no host synchronisation.

Kinds and rules: method notes 1.2 (tube masking and Bernoulli text masking are the released
behaviour; the exact text rule and whole words are ours). Shapes are constant from step to step; see
`simvtp.batch` for the legend of sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from simvtp.batch import Batch, Masks
from simvtp.config.mask_counts import hidden_per_slot, mask_units
from simvtp.config.model_config import MaskConfig, ModelConfig
from simvtp.models.common.span_masking import run_noise

UNUSED = -100  # label of a word slot that holds no word; the value that cross-entropy ignores
RECTANGLES = 16  # drawn for a sample by the kind `block`; as many as needed are used
SMALL_SIDE, LARGE_SIDE = 0.25, 0.6  # of the frame: shortest and longest side of a rectangle
VIDEO_STREAM, TEXT_STREAM, NEGATIVE_STREAM = 0, 1, 2

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


# ---- random numbers ------------------------------------------------------------------------------


def philox(
    counter: Sequence[Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four 32-bit words for each counter.

    Args:
        counter: four int64 tensors of one shape (or broadcastable), values in [0, 2**32).
        key: two integers in [0, 2**32).

    Returns:
        Four int64 tensors with values in [0, 2**32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # A product of two 32-bit numbers wraps in int64, but keeps its 64 bits: the shift copies
        # the sign, the mask removes it.
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (((second >> 32) & _LOW) ^ c1) ^ k0,
            second & _LOW,
            (((first >> 32) & _LOW) ^ c3) ^ k1,
            first & _LOW,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return c0, c1, c2, c3


def uniforms(
    rows: int,
    columns: dict[int, int],
    *,
    seed: int,
    step: int,
    first_row: int,
    device: torch.device | str | None = None,
) -> dict[int, Tensor]:
    """Uniform noise for several streams at once (one pass of the generator, so that a GPU launches
    few kernels).

    Args:
        rows: number of samples.
        columns: stream number -> numbers per sample.
        seed: any integer; its low 64 bits are the key.
        step: training step, in [0, 2**32).
        first_row: number of the first sample within the global batch of this step.

    Returns:
        stream number -> float32 [rows, columns] in [0, 1), multiples of 2**-24.
    """
    blocks = {stream: -(-width // 4) for stream, width in columns.items()}
    stream_word = torch.cat(
        [
            torch.full((n,), stream & _LOW, dtype=torch.int64, device=device)
            for stream, n in blocks.items()
        ]
    )
    block_word = torch.cat(
        [torch.arange(n, dtype=torch.int64, device=device) for n in blocks.values()]
    )
    sample_word = (torch.arange(rows, dtype=torch.int64, device=device) + first_row) & _LOW
    counter = torch.broadcast_tensors(
        torch.full((1, 1), step & _LOW, dtype=torch.int64, device=device),
        sample_word[:, None],
        stream_word[None, :],
        block_word[None, :],
    )
    words = torch.stack(
        philox(counter, (seed & _LOW, (seed >> 32) & _LOW)), dim=-1
    )  # [rows, blocks, 4]
    noise = (words >> 8).to(torch.float32) * 2.0**-24
    parts = noise.split(list(blocks.values()), dim=1)
    return {
        stream: part.flatten(1)[:, :width]
        for (stream, width), part in zip(columns.items(), parts, strict=True)
    }


def uniform(
    rows: int,
    columns: int,
    seed: int,
    step: int,
    stream: int,
    first_row: int,
    device: torch.device | str | None = None,
) -> Tensor:
    """Uniform noise of one stream: float32 [rows, columns] in [0, 1); see `uniforms`."""
    return uniforms(
        rows, {stream: columns}, seed=seed, step=step, first_row=first_row, device=device
    )[stream]


# ---- counts --------------------------------------------------------------------------------------


def words_to_hide(ratio: float, units: int) -> int:
    """The exact rule: max(1, round(ratio * units)), halves up; 0 if there is nothing to hide or the
    ratio is 0.
    """
    return max(1, math.floor(ratio * units + 0.5)) if ratio > 0 and units > 0 else 0


def word_slots(length: int, masks: MaskConfig) -> int:
    """K, the number of slots for masked words: enough for every caption, at least 1.

    A caption of `length` positions has at most L - 2 words ([CLS] and [SEP] take two places). Single tokens
    under the exact rule need round(ratio * (L - 2)); the Bernoulli rule can hide all, and whole
    words can have more pieces than the ratio tells.
    """
    places = max(1, length - 2)
    if masks.text_rule == "exact" and masks.text_kind == "token":
        return max(1, words_to_hide(masks.text_ratio, places))
    return places


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
) -> Masks:
    """Draw the masks of one batch (or of a part of one) on the batch's device.

    Args:
        mask_id: vocabulary id of `[MASK]`.
        seed, step: with the sample number, all that the masks depend on.
        first_sample: number of the batch's first sample within the global batch of this step. Masks
            then do not depend on how the global batch is cut. Only the columns of `negative_noise`
            are local: negatives come from this batch.
    """
    b, length = batch.input_ids.shape
    noise = uniforms(
        b, {VIDEO_STREAM: _video_noise(model, masks), TEXT_STREAM: length, NEGATIVE_STREAM: b},
        seed=seed, step=step, first_row=first_sample, device=batch.input_ids.device,
    )  # fmt: skip
    visible, masked = _video_masks(noise[VIDEO_STREAM], model, masks)
    hidden = _hidden_words(noise[TEXT_STREAM], batch.word_ids, masks)
    positions, labels = _word_slots(hidden, batch.input_ids, word_slots(length, masks))
    return Masks(
        visible=visible,
        masked=masked,
        input_ids=torch.where(hidden, mask_id, batch.input_ids),
        word_positions=positions,
        word_labels=labels,
        negative_noise=_gumbel(noise[NEGATIVE_STREAM]),
    )


def full_view(batch: Batch, model: ModelConfig) -> Masks:
    """Nothing hidden: V = N, M = 0, the caption as it is, one unused word slot (as with ratio 0),
    no negative noise.
    """
    b, device = len(batch), batch.input_ids.device
    return Masks(
        visible=torch.arange(model.tubes, device=device).repeat(b, 1),
        masked=torch.zeros(b, 0, dtype=torch.int64, device=device),
        input_ids=batch.input_ids,
        word_positions=torch.zeros(b, 1, dtype=torch.int64, device=device),
        word_labels=torch.full((b, 1), UNUSED, dtype=torch.int64, device=device),
        negative_noise=torch.zeros(b, b, device=device),
    )


def video_units(model: ModelConfig, masks: MaskConfig) -> int:
    """Among how many units the video mask chooses: places (tube, per_frame, block), tubes (random)
    or time slots (frame).
    """
    return mask_units(model, masks)


def _video_noise(model: ModelConfig, masks: MaskConfig) -> int:
    """How many random numbers of a sample the video mask takes."""
    if masks.video_kind == "per_frame":
        return model.tubes
    return 4 * RECTANGLES if masks.video_kind == "block" else video_units(model, masks)


def index_mask(indices: Tensor, tubes: int) -> Tensor:
    """Boolean [B, N], True at the given tubes. `indices` is int64 [B, any]."""
    return torch.zeros(indices.shape[0], tubes, dtype=torch.bool, device=indices.device).scatter(
        1, indices, True
    )


def _video_masks(noise: Tensor, model: ModelConfig, masks: MaskConfig) -> tuple[Tensor, Tensor]:
    """Indices of visible [B, V] and masked [B, M] tubes, ascending: the units with the least noise
    are hidden.
    """
    hidden = hidden_per_slot(model, masks)
    if masks.video_kind == "per_frame":  # each slot with noise of its own
        noise = noise.unflatten(1, (model.grid[0], -1)).flatten(0, 1)
    elif masks.video_kind == "block":
        noise = _rectangle_order(noise, model.grid[1], model.grid[2])
    order = noise.argsort(
        dim=1, stable=True
    )  # stable: equal noise is ordered alike on every device
    masked, visible = order[:, :hidden].sort(dim=1).values, order[:, hidden:].sort(dim=1).values
    return _tubes_of(visible, model, masks), _tubes_of(masked, model, masks)


def _rectangle_order(noise: Tensor, height: int, width: int) -> Tensor:
    """For each place of a frame, in which turn random rectangles hide it: float32 [B, h * w], the
    smaller the earlier.

    `noise` [B, 4 * RECTANGLES] in [0, 1) gives the two sides and the place of each rectangle. The
    first rectangles are hidden as a whole and the last from its middle outwards, until the count is
    reached; what no rectangle covers comes last, nearest to the first one first.
    """
    sides, corner = (
        noise.unflatten(1, (RECTANGLES, 4))[..., :2],
        noise.unflatten(1, (RECTANGLES, 4))[..., 2:],
    )
    size = torch.tensor([height, width], dtype=noise.dtype, device=noise.device)
    extent = ((SMALL_SIDE + (LARGE_SIDE - SMALL_SIDE) * sides) * size).round().clamp(min=1)
    start = (corner * (size - extent + 1)).floor()
    places = torch.arange(height * width, device=noise.device)
    place = torch.stack([places // width, places % width], dim=-1).to(noise.dtype)  # [h * w, 2]
    away = (place + 0.5 - (start + extent / 2)[:, :, None]).abs() / (extent / 2)[
        :, :, None
    ]  # [B, R, h * w, 2]; below 1 inside
    away = away.amax(dim=-1)
    turn = torch.arange(RECTANGLES, device=noise.device, dtype=noise.dtype)[:, None] + away
    first = torch.where(away < 1, turn, float("inf")).amin(dim=1)
    return torch.where(first.isinf(), RECTANGLES + away[:, 0], first)


def _tubes_of(units: Tensor, model: ModelConfig, masks: MaskConfig) -> Tensor:
    """Tube indices, ascending, of sorted units [B, n] of the mask's kind."""
    t, h, w = model.grid
    if masks.video_kind == "per_frame":  # [B * t, n]: places of each slot
        units = units.unflatten(0, (-1, t)) + torch.arange(t, device=units.device)[:, None] * (
            h * w
        )
        return units.flatten(1)
    if masks.video_kind in ("tube", "block"):  # the same places in every time slot
        slots = torch.arange(t, device=units.device) * (h * w)
        return (slots[None, :, None] + units[:, None, :]).flatten(1)
    if masks.video_kind == "frame":  # every place of the chosen time slots
        places = torch.arange(h * w, device=units.device)
        return (units[:, :, None] * (h * w) + places).flatten(1)
    return units


def _hidden_words(noise: Tensor, word_ids: Tensor, masks: MaskConfig) -> Tensor:
    """Boolean [B, L], True at the pieces to hide. `noise` float32 [B, L], one number per unit
    (piece or word).
    """
    maskable = word_ids >= 0
    if masks.text_kind == "token":
        return _hidden_units(noise, maskable, masks)
    numbers = torch.arange(word_ids.shape[1], device=word_ids.device)
    present = (word_ids[:, :, None] == numbers).any(
        dim=1
    )  # [B, L]: is there a word of that number in the caption
    hidden = _hidden_units(
        run_noise(noise, present, masks.text_span) if masks.text_kind == "span" else noise,
        present,
        masks,
    )
    return hidden.gather(1, word_ids.clamp(min=0)) & maskable


def _hidden_units(noise: Tensor, present: Tensor, masks: MaskConfig) -> Tensor:
    """Boolean [B, U], True at the units to hide among those present."""
    if masks.text_rule == "bernoulli":
        return (noise < masks.text_ratio) & present
    units = present.sum(dim=1, keepdim=True)
    # The same float64 arithmetic as `words_to_hide`, so that K slots always suffice.
    count = (
        (units.to(torch.float64) * masks.text_ratio + 0.5)
        .floor()
        .to(torch.int64)
        .clamp(min=1 if masks.text_ratio > 0 else 0)
    )
    rank = torch.where(present, noise, 2.0).argsort(dim=1, stable=True).argsort(dim=1)
    return (rank < count) & present


def _word_slots(hidden: Tensor, input_ids: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """Positions and labels [B, K] of the hidden pieces in order; unused slots hold position 0 and
    label -100.
    """
    length = hidden.shape[1]
    places = torch.arange(length, device=hidden.device)
    first = torch.where(hidden, places, length).sort(dim=1).values[:, :slots]
    used = first < length
    positions = torch.where(used, first, 0)
    return positions, torch.where(used, input_ids.gather(1, positions), UNUSED)


def _gumbel(noise: Tensor) -> Tensor:
    """Standard Gumbel noise, always finite, from uniform noise in [0, 1)."""
    return -torch.log(-torch.log(noise.clamp(min=2.0**-25)))
