"""How the global batch of a stage is cut over ranks and micro-batches.

The global batch is part of what an experiment is; how many ranks carry it, and in how many pieces,
is not. So the cut is derived where the run starts: any number of ranks that divides the batch gives
the same steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from simvtp.errors import ConfigError


@dataclass(frozen=True)
class Share:
    """A global batch = `ranks` x `accumulate` micro-batches of `samples`."""

    ranks: int
    accumulate: int
    samples: int

    @property
    def batch_size(self) -> int:
        return self.ranks * self.accumulate * self.samples

    def sentence(self, stage: str, negatives: str) -> str:
        """One line for the start of a stage. `negatives`: "global", "local", or "" where no
        objective contrasts samples.
        """
        cut = (
            f"{stage}: global batch {self.batch_size} = {_counted(self.ranks, 'rank')} x {_counted(self.accumulate, 'accumulation step')} x "
            f"{_counted(self.samples, 'sample')}"
        )
        if not negatives:
            return cut
        among = self.samples * (self.ranks if negatives == "global" else 1)
        whose = (
            "the micro-batches of all ranks"
            if negatives == "global" and self.ranks > 1
            else "a micro-batch"
        )
        return f"{cut}; contrastive negatives from {among} samples ({whose})"


def share_batch(
    stage: str, batch_size: int, ranks: int, accumulate: int = 1, micro_batch: int = 0
) -> Share:
    """The cut of a stage's global batch.

    Args:
        stage: name, for messages.
        batch_size: samples of the global batch.
        ranks: how many processes train.
        accumulate: micro-batches per rank and step; 0 derives them.
        micro_batch: most samples that a rank takes at a time when the accumulation is derived; 0 =
            its whole share.

    Raises:
        ConfigError: the batch cannot be cut evenly.
    """
    size, steps = batch_size, max(1, accumulate)
    if size % (ranks * steps):
        fitting = [str(n) for n in divisors(size) if (size // n) % steps == 0]
        unit = ranks * steps
        near = [str(n) for n in (size // unit * unit, (size // unit + 1) * unit) if n]
        raise ConfigError(
            f"batch_size={size} of stage {stage} cannot be shared by {_counted(ranks, 'rank')} and {_counted(steps, 'accumulation step')}: "
            f"use {_one_of(fitting)} ranks, or a batch_size of {_one_of(near)}."
            if fitting
            else f"batch_size={size} of stage {stage} cannot be cut into {_counted(steps, 'accumulation step')}: "
            f"use a batch_size of {_one_of(near)}, or runtime.accumulate=0 to derive them."
        )
    if accumulate:
        return Share(ranks, accumulate, size // (ranks * accumulate))
    samples = max(n for n in divisors(size // ranks) if not micro_batch or n <= micro_batch)
    return Share(ranks, size // ranks // samples, samples)


def divisors(number: int) -> list[int]:
    """All whole numbers that divide `number` (above 0), ascending."""
    small = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _one_of(numbers: list[str]) -> str:
    return numbers[0] if len(numbers) == 1 else f"{', '.join(numbers[:-1])} or {numbers[-1]}"
