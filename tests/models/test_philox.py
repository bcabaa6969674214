"""The Philox generator: known answers, uniform noise, independent coordinates."""

from __future__ import annotations

import pytest
import torch

from simvtp.models.common.philox import philox
from tests.reference.masks import uniform


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        (
            "00000000 00000000 00000000 00000000",
            "00000000 00000000",
            "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        ),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            "ffffffff ffffffff",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter: str, key: str, expected: str) -> None:
    words = philox(
        [torch.tensor([int(w, 16)]) for w in counter.split()], (int(key[:8], 16), int(key[9:], 16))
    )
    assert " ".join(f"{int(w):08x}" for w in words) == expected


def test_uniform_noise_is_uniform() -> None:
    noise = uniform(200, 250, seed=1, step=2, stream=0, first_sample=0)
    assert noise.dtype == torch.float32 and noise.min() >= 0 and noise.max() < 1
    counts = torch.histc(noise, bins=100, min=0, max=1)
    chi_square = float(((counts - 500) ** 2 / 500).sum())
    assert 50 < chi_square < 160  # 99 degrees of freedom: mean 99, standard deviation 14
    assert (
        abs(
            float(
                torch.corrcoef(torch.stack([noise[:, :-1].flatten(), noise[:, 1:].flatten()]))[0, 1]
            )
        )
        < 0.02
    )


def test_each_coordinate_changes_the_noise() -> None:
    def noise(seed: int = 1, step: int = 2, stream: int = 0, first_sample: int = 0) -> torch.Tensor:
        return uniform(3, 40, seed=seed, step=step, stream=stream, first_sample=first_sample)

    others = [
        noise(seed=0),
        noise(seed=1 + 2**32),
        noise(seed=-1),
        noise(step=3),
        noise(stream=1),
        noise(first_sample=3),
    ]
    assert torch.equal(noise(), noise())
    assert all(float((noise() == other).float().mean()) < 0.01 for other in others)
    assert torch.equal(noise()[1:], noise(first_sample=1)[:2]), (
        "a sample's noise belongs to its number"
    )
    assert torch.equal(uniform(3, 10, seed=1, step=2, stream=0, first_sample=0), noise()[:, :10]), (
        "and not to how much is drawn"
    )
