"""The losses in pieces are the plain ones: value, gradient, count, whatever the size of a piece."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simvtp.training import chunked_losses
from simvtp.training.chunked_losses import chunked_pixel_loss, chunked_word_loss
from simvtp.training.losses import (
    IGNORED,
    masked_pixel_loss,
    normalise_tubes,
    unit_pixels,
    word_loss,
)

PIECES = [1, 7 * 24, 2**17]  # values in a piece: less than a row, some rows, everything


def gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("values", PIECES)
@pytest.mark.parametrize("normalised", [True, False])
def test_pixel_loss(values: int, normalised: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_losses, "CACHED", values)
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 5, 24), dtype=torch.uint8, generator=g)
    guess = torch.randn(3, 5, 24, dtype=torch.float64, generator=g).requires_grad_()
    target = (
        normalise_tubes(pixels, torch.float64) if normalised else unit_pixels(pixels, torch.float64)
    )
    plain, ours = masked_pixel_loss(guess, target), chunked_pixel_loss(guess, pixels, normalised)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        gradient(3 * ours, guess), gradient(3 * plain, guess), rtol=1e-12, atol=1e-15
    )


def test_pixel_loss_of_shares_is_that_of_bytes() -> None:
    pixels = torch.randint(
        0, 256, (2, 3, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    guess = torch.zeros(2, 3, 12, dtype=torch.float64)
    torch.testing.assert_close(
        chunked_pixel_loss(guess, pixels, True),
        chunked_pixel_loss(guess, pixels.double() / 255, True),
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 3), min_size=4, max_size=4), st.integers(0, 99), st.sampled_from(PIECES)
)
def test_word_loss(scored: list[int], seed: int, values: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked_losses, "CACHED", values)
        g = torch.Generator().manual_seed(seed)
        logits = (9 * torch.randn(4, 3, 24, dtype=torch.float64, generator=g)).requires_grad_()
        words = torch.randint(0, 24, (4, 3), generator=g)
        labels = torch.where(torch.arange(3) < torch.tensor(scored)[:, None], words, IGNORED)
        plain = word_loss(logits, labels)
        ours, right = chunked_word_loss(logits, labels)
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            gradient(2 * ours, logits), gradient(2 * plain, logits), rtol=1e-12, atol=1e-15
        )
        assert int(right) == int((logits.argmax(dim=-1) == labels).sum())


def test_scores_beyond_the_range_of_an_exponential_stay_finite() -> None:
    logits = torch.tensor([[[200.0, -200.0], [-300.0, 300.0]]], requires_grad=True)
    loss, right = chunked_word_loss(logits, torch.tensor([[0, 0]]))
    assert (loss, right) == (300, 1)
    torch.testing.assert_close(gradient(loss, logits), torch.tensor([[[0.0, 0.0], [-0.5, 0.5]]]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_worked_on_in_float32(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, 300, generator=g).to(dtype).requires_grad_()
    labels = torch.randint(0, 300, (4, 6), generator=g)
    ours, _ = chunked_word_loss(logits, labels)
    assert ours.dtype is torch.float32
    torch.testing.assert_close(
        ours, F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
    )
    torch.testing.assert_close(gradient(ours, logits), gradient(word_loss(logits, labels), logits))
    guess = torch.randn(2, 3, 24, generator=g).to(dtype).requires_grad_()
    pixels = torch.randint(0, 256, (2, 3, 24), dtype=torch.uint8, generator=g)
    loss = chunked_pixel_loss(guess, pixels, True)
    assert loss.dtype is torch.float32
    torch.testing.assert_close(
        gradient(loss, guess), gradient(masked_pixel_loss(guess, normalise_tubes(pixels)), guess)
    )


def test_without_gradient_nothing_is_kept() -> None:
    logits, labels = torch.randn(2, 3, 8), torch.zeros(2, 3, dtype=torch.int64)
    loss, _ = chunked_word_loss(logits, labels)
    assert not loss.requires_grad
    assert not chunked_pixel_loss(
        torch.randn(2, 3, 24), torch.zeros(2, 3, 24, dtype=torch.uint8), True
    ).requires_grad
