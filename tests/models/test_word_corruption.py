"""Tests of what MLM is asked for, and of what hidden words become."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp.config.model_config import MaskConfig
from simvtp.models.common.masking import UNUSED, word_slots, words_to_hide
from tests.models.test_masking import MASK_ID, PROPERTY, draw, hidden_pieces, make_batch, make_model

RATIOS = st.floats(0.05, 0.95)


@PROPERTY
@given(
    words=st.lists(st.integers(0, 14), min_size=1, max_size=5),
    ratio=RATIOS,
    predicted=st.floats(0.01, 1),
    kind=st.sampled_from(["token", "word", "span"]),
    step=st.integers(0, 2**31),
)
def test_the_exact_part_of_the_hidden_words_is_asked_for(
    words: list[int], ratio: float, predicted: float, kind: str, step: int
) -> None:
    model, batch = make_model(), make_batch(words)
    whole = MaskConfig(text_ratio=ratio, text_kind=kind)  # type: ignore[arg-type]
    part = replace(whole, text_predicted=predicted)
    every, some = (draw(batch, model, masks, step=step) for masks in (whole, part))
    assert torch.equal(every.input_ids, some.input_ids), "the same words are hidden"
    assert torch.equal(every.visible, some.visible)
    assert some.word_labels.shape[1] == word_slots(16, part)
    hidden, asked = (masks.word_labels != UNUSED for masks in (every, some))
    for row in range(len(words)):
        count = int(hidden[row].sum())
        assert int(asked[row].sum()) == words_to_hide(predicted, count)
        left = set(every.word_positions[row][hidden[row]].tolist())
        positions = some.word_positions[row][asked[row]]
        assert set(positions.tolist()) <= left
        assert torch.equal(some.word_labels[row][asked[row]], batch.input_ids[row][positions])


@PROPERTY
@given(
    cut=st.integers(1, 5), step=st.integers(0, 2**31), seed=st.integers(0, 2**63 - 1), ratio=RATIOS
)
def test_a_sample_draws_the_same_in_every_split_of_the_batch(
    cut: int, step: int, seed: int, ratio: float
) -> None:
    model, batch = make_model(), make_batch([3, 14, 7, 1, 9, 12])
    masks = MaskConfig(text_ratio=ratio, text_predicted=0.4, text_corruption="bert")
    whole = draw(batch, model, masks, step=step, seed=seed)
    for start, stop in ((0, cut), (cut, 6)):
        part = draw(batch.part(start, stop), model, masks, step=step, seed=seed, first_sample=start)
        for name in ("input_ids", "word_positions", "word_labels"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[start:stop]), name


def test_eight_of_ten_are_masked_one_is_random_and_one_stays() -> None:
    model, batch = replace(make_model(), vocab_size=2000), make_batch([14] * 3000)
    plain = MaskConfig(text_ratio=0.5)
    hidden = hidden_pieces(batch, draw(batch, model, plain))
    drawn = draw(batch, model, replace(plain, text_corruption="bert"))
    assert torch.equal(drawn.word_labels, draw(batch, model, plain).word_labels)
    before, after = batch.input_ids[hidden], drawn.input_ids[hidden]
    assert torch.equal(batch.input_ids[~hidden], drawn.input_ids[~hidden])
    masked, kept = after == MASK_ID, after == before
    shares = [float(one.float().mean()) for one in (masked, kept, ~masked & ~kept)]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    random = after[~masked & ~kept].double()
    assert random.min() < 20 and random.max() > 1980, "any piece of the vocabulary"
    assert float(random.mean()) == pytest.approx(1000, abs=40)
