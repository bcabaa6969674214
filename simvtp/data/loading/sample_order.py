"""The order of samples and their random numbers: pure functions of (seed, stage, number).

Sample number g of a stage (g = step * batch_size + place in the global batch) is clip
`epoch_order(...)[g's place in its epoch]`; its window, crop, flip, caption and augmentation follow
from `uniforms(seed, stage, g)`. Nothing else enters: not the number of ranks (rank r takes a
contiguous slice of each global batch), not the number of workers, not whether the pass was
interrupted.

With `repeat` r, steps kr to kr + r - 1 show the same clips in the same places, from the same window
of frames, each time in another crop, flip, caption and mask: a clip is decoded once for r samples.
Within a batch all clips still differ, so no sample meets itself as a negative; but r steps in a row
see the same B clips (and the same negatives), so the mean gradient of these steps is that of fewer
independent clips, and one pass over the clips takes r epochs. The number of steps and of samples
stays.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from simvtp.data.loading.transforms import CROP_UNIFORMS

U_WINDOW, U_CAPTION, U_FLIP, U_CROP = 0, 1, 2, 3  # places in the vector of uniform numbers
UNIFORMS = U_CROP + CROP_UNIFORMS


def _philox(seed: int, purpose: str, number: int) -> np.random.Philox:
    """Counter-based random bits; numpy promises that raw Philox words never change, which it does
    not for its generators.
    """
    tag = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "big")
    return np.random.Philox(
        key=np.array([seed % 2**64, tag], np.uint64), counter=np.array([0, number, 0, 0], np.uint64)
    )


def epoch_order(n: int, seed: int, epoch: int, stage: str = "") -> np.ndarray:
    """int64 [n]: the clips of an epoch in random order."""
    return np.argsort(_philox(seed, f"order {stage}", epoch).random_raw(n), kind="stable")


def uniforms(
    seed: int, stage: str, number: int, count: int = UNIFORMS, purpose: str = "sample"
) -> np.ndarray:
    """float64 [count] in [0, 1): random choices of sample `number`; each purpose has numbers of its
    own, which shift no others.
    """
    return (
        _philox(seed, f"{purpose} {stage}", number).random_raw(count) >> np.uint64(11)
    ) * 2.0**-53


@dataclass(frozen=True)
class Order:
    """Who reads what: arithmetic of positions, shared by the loader and its workers."""

    clips: int
    batch_size: int  # global
    seed: int
    stage: str = ""
    rank: int = 0
    world: int = 1
    repeat: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; the rest of the clips waits for another epoch. With fewer
        clips than a batch, clips repeat in it.
        """
        return max(1, self.clips // self.batch_size)

    def numbers(self, step: int) -> range:
        """Sample numbers of this rank at a step."""
        first = step * self.batch_size
        return range(
            first + self.rank * self.batch_size // self.world,
            first + (self.rank + 1) * self.batch_size // self.world,
        )

    def place(self, number: int) -> tuple[int, int]:
        """(pass over the clips, position in it) of a sample number."""
        step, within = divmod(number, self.batch_size)
        epoch, batch = divmod(step // self.repeat, self.steps_per_epoch)
        return epoch, batch * self.batch_size + within
