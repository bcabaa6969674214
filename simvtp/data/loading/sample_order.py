"""Order of the samples and their random numbers: pure functions of (seed, stage, number).

Sample number g of a stage (g = step * batch_size + position in the global batch) is the clip at g's
position in the epoch's `epoch_order`; its window, crop, flip, caption and augmentation follow from
`sample_draws` and `uniforms`. Nothing else enters: not the number of ranks (rank r takes a
contiguous slice of each global batch), not the number of workers, not interruptions.

With `repeat` r, steps kr to kr + r - 1 show the same clips in the same positions, from the same
window of frames, each time with another crop, flip, caption and mask: a clip is decoded once for r
samples. Within a batch all clips still differ, so no sample meets itself as a negative; but r steps
in a row see the same B clips (and the same negatives), so the mean gradient of these steps is that
of fewer independent clips, and one pass over the clips takes r epochs. The number of steps and of
samples stays.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from simvtp.data.video.transforms import CROP_UNIFORMS


def _philox(seed: int, purpose: str, number: int) -> np.random.Philox:
    """Returns counter-based random bits.

    numpy promises that raw Philox words never change; it does not for its generators.
    """
    tag = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "big")
    return np.random.Philox(
        key=np.array([seed % 2**64, tag], np.uint64), counter=np.array([0, number, 0, 0], np.uint64)
    )


def epoch_order(n: int, seed: int, epoch: int, stage: str = "") -> np.ndarray:
    """Returns the clips of an epoch in random order, int64 [n]."""
    return np.argsort(_philox(seed, f"order {stage}", epoch).random_raw(n), kind="stable")


def partners(n: int, seed: int) -> np.ndarray:
    """Returns another clip for each of n clips, int64 [n]: one random cycle through all of them.

    So each clip is the partner of one other, and none is its own unless it is the only one.
    """
    order = np.argsort(_philox(seed, "partners", 0).random_raw(n), kind="stable")
    found = np.empty(n, np.int64)
    found[order] = np.roll(order, -1)
    return found


def uniforms(seed: int, stage: str, number: int, count: int, purpose: str = "sample") -> np.ndarray:
    """Returns random numbers of sample `number`, float64 [count] in [0, 1).

    Each purpose has its own stream, so that a new one shifts no others.
    """
    words = _philox(seed, f"{purpose} {stage}", number).random_raw(count)
    return (words >> np.uint64(11)) * 2.0**-53


class SampleDraws(NamedTuple):
    """Random choices of one sample, each in [0, 1).

    Attributes:
        window: chooses the first frame.
        caption: chooses one of the clip's captions.
        flip: below the probability of a flip, the sample is flipped.
        crop: [CROP_UNIFORMS], see `transforms.train_box`.
    """

    window: float
    caption: float
    flip: float
    crop: np.ndarray


def sample_draws(seed: int, stage: str, number: int) -> SampleDraws:
    """Returns the random choices of sample `number`."""
    window, caption, flip, *crop = uniforms(seed, stage, number, 3 + CROP_UNIFORMS, "sample")
    return SampleDraws(float(window), float(caption), float(flip), np.array(crop))


@dataclass(frozen=True)
class SampleOrder:
    """Arithmetic of sample numbers, shared by the loader and its workers.

    Attributes:
        batch_size: of the global batch.
        repeat: steps in a row that share their clips.
    """

    clips: int
    batch_size: int
    seed: int
    stage: str = ""
    rank: int = 0
    world: int = 1
    repeat: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole batches in an epoch; the rest of the clips waits for another epoch.

        With fewer clips than a batch, clips repeat in it.
        """
        return max(1, self.clips // self.batch_size)

    def numbers(self, step: int) -> range:
        """Returns the sample numbers of this rank at a step."""
        first = step * self.batch_size
        return range(
            first + self.rank * self.batch_size // self.world,
            first + (self.rank + 1) * self.batch_size // self.world,
        )

    def epoch_position(self, number: int) -> tuple[int, int]:
        """Returns (epoch, position in its order) of a sample number."""
        step, within = divmod(number, self.batch_size)
        epoch, batch = divmod(step // self.repeat, self.steps_per_epoch)
        return epoch, batch * self.batch_size + within


class ClipTurns:
    """Clips whose turn it is at a sample number, and those that stand in for them.

    The order of an epoch takes 4 bytes a clip. It lies in the main process alone, which says with
    each job which clips are meant, so that workers keep nothing for each clip.

    Args:
        order: of the samples.
        tries: clips that a sample may have to try.
    """

    KEPT = 2  # epochs: workers are ahead of the batch that is asked for

    def __init__(self, order: SampleOrder, tries: int) -> None:
        self._order, self._tries = order, min(tries, order.clips)
        self._epochs: OrderedDict[int, np.ndarray] = OrderedDict()

    def candidates(self, numbers: range) -> np.ndarray:
        """Returns int64 [len(numbers) + tries - 1] for consecutive samples of one step.

        Sample i tries entries i, i + 1, ..., i + tries - 1.
        """
        epoch, position = self._order.epoch_position(numbers[0])
        places = position + np.arange(len(numbers) + self._tries - 1)
        return self._clips(epoch)[places % self._order.clips].astype(np.int64)

    def _clips(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            while len(self._epochs) >= self.KEPT:
                self._epochs.popitem(last=False)
            order = self._order
            kind = np.int32 if order.clips < 2**31 else np.int64
            self._epochs[epoch] = epoch_order(order.clips, order.seed, epoch, order.stage).astype(
                kind
            )
        return self._epochs[epoch]
