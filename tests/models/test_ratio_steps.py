"""Mask ratios that change from step to step."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp.config.model_config import MaskConfig
from simvtp.models.common.masking import masks_at_step, words_to_hide
from tests.models.test_masking import PROPERTY, draw, hidden_pieces, make_batch, make_model

RATIOS = st.floats(0.1, 0.9)
AT = partial(masks_at_step, seed=5, total_steps=100)


@PROPERTY
@given(low=RATIOS, high=RATIOS, step=st.integers(0, 2**31), seed=st.integers(0, 2**63 - 1))
def test_a_drawn_ratio_lies_in_its_range_and_follows_from_seed_and_step(
    low: float, high: float, step: int, seed: int
) -> None:
    masks = MaskConfig(video_ratio_steps=f"uniform:{low}:{high}")
    first, again = (masks_at_step(masks, seed=seed, step=step, total_steps=9) for _ in range(2))
    assert first == again
    assert min(low, high) <= first.video_ratio <= max(low, high)
    assert first.text_ratio == masks.text_ratio and first.video_ratio_steps == ""


def test_drawn_ratios_are_uniform_and_independent_of_each_other() -> None:
    masks = MaskConfig(video_ratio_steps="uniform:0.2:0.8", text_ratio_steps="uniform:0.1:0.5")
    found = [AT(masks, step=step) for step in range(500)]
    video = torch.tensor([one.video_ratio for one in found])
    text = torch.tensor([one.text_ratio for one in found])
    for drawn, low, high in ((video, 0.2, 0.8), (text, 0.1, 0.5)):
        levels = torch.quantile(drawn, torch.tensor([0.1, 0.5, 0.9]))
        expected = low + (high - low) * torch.tensor([0.1, 0.5, 0.9])
        torch.testing.assert_close(levels, expected, atol=0.07 * (high - low), rtol=0)
    assert abs(float(torch.corrcoef(torch.stack([video, text]))[0, 1])) < 0.12


def test_schedules_begin_and_end_where_they_say() -> None:
    linear = MaskConfig(video_ratio_steps="linear:0.5:0.9", text_ratio_steps="linear:0.75:0.15")
    assert (AT(linear, step=0).video_ratio, AT(linear, step=99).video_ratio) == (0.5, 0.9)
    assert AT(linear, step=99).text_ratio == pytest.approx(0.15)
    ratios = [AT(linear, step=step).video_ratio for step in range(100)]
    assert ratios == sorted(ratios)
    last = MaskConfig(video_ratio=0.9, video_ratio_steps="last:0.1:0.3")
    assert [AT(last, step=step).video_ratio for step in (0, 89, 90, 99)] == [0.9, 0.9, 0.3, 0.3]
    plain = MaskConfig()
    assert AT(plain, step=3) is plain


@PROPERTY
@given(step=st.integers(0, 99), cut=st.integers(1, 3))
def test_the_masks_of_a_step_do_not_depend_on_how_the_batch_is_split(step: int, cut: int) -> None:
    model, batch = make_model(), make_batch([3, 14, 7, 1])
    masks = MaskConfig(
        video_ratio_steps="uniform:0.2:0.8", text_ratio_steps="linear:0.2:0.9", video_kind="random"
    )
    here = AT(masks, step=step)
    whole = draw(batch, model, here, step=step)
    for start, stop in ((0, cut), (cut, 4)):
        again = AT(replace(masks), step=step)  # another rank
        part = draw(batch.part(start, stop), model, again, step=step, first_sample=start)
        assert torch.equal(part.masked, whole.masked[start:stop])
        assert torch.equal(part.input_ids, whole.input_ids[start:stop])
    assert whole.masked.shape[1] == int(here.video_ratio * model.tubes)
    counts = hidden_pieces(batch, whole).sum(dim=1).tolist()
    assert counts == [words_to_hide(here.text_ratio, words) for words in (3, 14, 7, 1)]
