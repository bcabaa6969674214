"""Every unit of a mask is hidden equally often, for all counts of units and all ratios."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.config.model_config import MaskConfig, SimVTPConfig
from simvtp.models.common.decoder_masking import decoded_count, select_decoded_tubes
from simvtp.models.common.masking import words_to_hide
from tests.models.test_masking import draw, hidden_pieces, make_batch, make_model
from tests.reference.masks import index_mask

CHUNK = 100
SAMPLES = 2000
LIMIT = 5.0  # standard deviations; 4e-7 of all comparisons lie beyond it


def deviations(hidden: torch.Tensor, probability: float) -> torch.Tensor:
    """Returns how far the frequency of each unit of bool [samples, units] is from expected."""
    if not 0 < probability < 1:
        assert bool((hidden.float().mean(dim=0) == probability).all())
        return torch.zeros(hidden.shape[1])
    spread = math.sqrt(probability * (1 - probability) / len(hidden))
    return (hidden.double().mean(dim=0) - probability) / spread


def draw_many(
    words: int, length: int, model: SimVTPConfig, masks: MaskConfig, samples: int, step: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws masks for `samples` samples with the same caption.

    In chunks, because the noise of the negatives grows with the square of the batch.

    Returns:
        The masked tubes int64 [samples, M], and the hidden pieces bool [samples, length].
    """
    batch = make_batch([words] * CHUNK, length=length)
    drawn = [
        draw(batch, model, masks, step=step, first_sample=first)
        for first in range(0, samples, CHUNK)
    ]
    hidden = torch.cat([hidden_pieces(batch, part) for part in drawn])
    return torch.cat([part.masked for part in drawn]), hidden


def hidden_words(words: int, masks: MaskConfig, samples: int, step: int = 0) -> torch.Tensor:
    """Returns bool [samples, words]: the words that a mask hides, one piece each."""
    model = make_model(length=words + 2)
    _, hidden = draw_many(words, words + 2, model, masks, samples, step)
    return hidden[:, 1 : 1 + words]


def masked_tubes(model: SimVTPConfig, masks: MaskConfig, samples: int) -> torch.Tensor:
    """Returns the masked tubes int64 [samples, M]."""
    return draw_many(1, 3, model, masks, samples)[0]


# grids, ratios of masked and of decoded tubes
DECODED_CELLS = {
    "slots": st.integers(1, 5),
    "side": st.integers(1, 6),
    "ratio": st.floats(0.1, 0.95),
    "keep": st.floats(0.01, 0.99),
    "kind": st.sampled_from(["tube", "random", "frame", "per_frame", "block"]),
}


@given(**DECODED_CELLS)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_each_place_of_the_circle_decodes_every_masked_tube_equally_often(
    slots: int, side: int, ratio: float, keep: float, kind: str
) -> None:
    """Exact: the M possible starts together decode each of the M masked tubes K times."""
    model = replace(make_model(grid=(slots, side)), decoder_keep_ratio=keep)
    masks = MaskConfig(video_kind=kind, video_ratio=ratio)  # type: ignore[arg-type]
    masked = draw(make_batch([1], length=3), model, masks).masked
    total = masked.shape[1]
    starts = (torch.arange(total)[:, None] + 0.5) / max(1, total)
    chosen = select_decoded_tubes(masked.expand(total, -1), model, starts)
    times = torch.bincount(chosen.flatten(), minlength=model.tubes)
    expected = torch.zeros_like(times).index_fill(0, masked[0], decoded_count(total, keep))
    assert torch.equal(times, expected if total else torch.zeros_like(times))
    assert bool((chosen.diff(dim=1) > 0).all()), "ascending, none twice"


@given(**DECODED_CELLS)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_every_masked_tube_is_decoded_equally_often_over_steps(
    slots: int, side: int, ratio: float, keep: float, kind: str
) -> None:
    sizes = make_model(grid=(slots, side))
    model = replace(sizes, decoder_keep_ratio=keep, decoder_cells="turned")
    masks = MaskConfig(video_kind=kind, video_ratio=ratio)  # type: ignore[arg-type]
    batch = make_batch([1] * CHUNK, length=3)
    drawn = [draw(batch, model, masks, step=step, first_sample=0) for step in range(10)]
    masked = torch.cat([part.masked for part in drawn])
    if not masked.shape[1]:
        return
    decoded = torch.cat([part.decoded for part in drawn if part.decoded is not None])
    hidden = torch.bincount(masked.flatten(), minlength=model.tubes).double()
    rebuilt = torch.bincount(decoded.flatten(), minlength=model.tubes).double()
    share = decoded.shape[1] / masked.shape[1]
    assert decoded.shape == (len(masked), decoded_count(masked.shape[1], keep))
    spread = (hidden * share * (1 - share)).sqrt().clamp(min=1e-9)
    assert float(((rebuilt - hidden * share).abs() / spread)[hidden > 0].max()) < LIMIT


@given(
    words=st.integers(1, 30),
    ratio=st.floats(0.01, 0.99),
    span=st.integers(1, 6),
    kind=st.sampled_from(["token", "word", "span"]),
    step=st.integers(0, 1000),
)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_every_word_is_hidden_equally_often_under_the_exact_rule(
    words: int, ratio: float, span: int, kind: str, step: int
) -> None:
    masks = MaskConfig(text_ratio=ratio, text_kind=kind, text_span=span)  # type: ignore[arg-type]
    hidden = hidden_words(words, masks, SAMPLES, step)
    count = words_to_hide(ratio, words)
    assert bool((hidden.sum(dim=1) == count).all())
    assert float(deviations(hidden, count / words).abs().max()) < LIMIT


@pytest.mark.parametrize(("words", "ratio", "span"), [(10, 0.15, 3), (7, 0.4, 3), (11, 0.3, 4)])
def test_span_masks_pass_a_chi_square_test(words: int, ratio: float, span: int) -> None:
    """Compares with the mean and the variance of the statistic over all starts of the ring.

    The statistic is the sum of the squared deviations. A sample hides one set of ring positions,
    turned by a uniform number of words, so its covariance is that of all turns of all sets.
    """
    masks = MaskConfig(text_ratio=ratio, text_kind="span", text_span=span)
    hidden = hidden_words(words, masks, 6000)
    z = deviations(hidden, words_to_hide(ratio, words) / words)
    turned = torch.cat([hidden.roll(turn, dims=1) for turn in range(words)]).double()
    correlation = torch.corrcoef(turned.T)
    mean, deviation = float(words), math.sqrt(2 * float(correlation.square().sum()))
    assert abs(float(z.square().sum()) - mean) < 4 * deviation


def test_ten_words_at_the_published_ratio() -> None:
    """The case in which some words were hidden thirteen times as often as others."""
    masks = MaskConfig(text_ratio=0.15, text_kind="span")
    frequency = hidden_words(10, masks, 6000).double().mean(dim=0)
    torch.testing.assert_close(frequency, torch.full_like(frequency, 0.2), atol=0.025, rtol=0)


@pytest.mark.parametrize("kind", ["tube", "random", "frame", "per_frame"])
@pytest.mark.parametrize(("slots", "side", "ratio"), [(1, 3, 0.3), (3, 2, 0.5), (4, 5, 0.9)])
def test_every_tube_is_hidden_equally_often_on_any_grid(
    kind: str, slots: int, side: int, ratio: float
) -> None:
    model = make_model(grid=(slots, side))
    masks = MaskConfig(video_kind=kind, video_ratio=ratio)  # type: ignore[arg-type]
    shown = index_mask(masked_tubes(model, masks, SAMPLES), model.tubes)
    units = {"random": model.tubes, "frame": slots}.get(kind, side * side)
    assert float(deviations(shown, int(ratio * units) / units).abs().max()) < LIMIT


@pytest.mark.parametrize(("side", "ratio"), [(4, 0.3), (5, 0.5), (6, 0.8)])
def test_block_masks_prefer_no_side_of_the_frame(side: int, ratio: float) -> None:
    """Rectangles lie inside the frame, so its middle is hidden more often; its sides are alike."""
    model, samples = make_model(grid=(1, side)), 4000
    masks = MaskConfig(video_kind="block", video_ratio=ratio)
    hidden = index_mask(masked_tubes(model, masks, samples), side * side).double()
    frames = hidden.view(samples, side, side)
    for mirrored in (frames.flip(1), frames.flip(2), frames.transpose(1, 2)):
        difference = frames - mirrored
        spread = difference.std(dim=0) / math.sqrt(samples)
        unequal = difference.mean(dim=0).abs() / spread.clamp(min=1e-9)
        assert float(unequal.max()) < LIMIT
