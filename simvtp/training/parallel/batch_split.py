"""Split of a stage's global batch over ranks and micro-batches.

The global batch is part of the experiment; the number of ranks and of micro-batches is not. So the
split is derived when the run starts: any number of ranks that divides the batch gives the same
steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from simvtp.errors import ConfigError


@dataclass(frozen=True)
class BatchSplit:
    """A global batch of `ranks` x `accumulate` micro-batches of `samples`."""

    ranks: int
    accumulate: int
    samples: int

    @property
    def batch_size(self) -> int:
        """Samples of the global batch."""
        return self.ranks * self.accumulate * self.samples

    def describe(self, stage: str, negatives: str) -> str:
        """Returns one line for the start of a stage.

        `negatives` is "global", "local", or "" where no objective contrasts samples.
        """
        split = (
            f"{stage}: global batch {self.batch_size} = {_counted(self.ranks, 'rank')} x "
            f"{_counted(self.accumulate, 'accumulation step')} x "
            f"{_counted(self.samples, 'sample')}"
        )
        if not negatives:
            return split
        over_ranks = negatives == "global"
        among = self.samples * (self.ranks if over_ranks else 1)
        many = over_ranks and self.ranks > 1
        group = "the micro-batches of all ranks" if many else "a micro-batch"
        return f"{split}; contrastive negatives from {among} samples ({group})"


def split_batch(
    stage: str, batch_size: int, ranks: int, accumulate: int = 1, micro_batch: int = 0
) -> BatchSplit:
    """Returns the split of a stage's global batch.

    Args:
        stage: name, for messages.
        batch_size: samples of the global batch.
        ranks: number of processes that train.
        accumulate: micro-batches per rank and step; 0 derives them.
        micro_batch: most samples that a rank takes at a time when the accumulation is derived; 0
            for all of its samples.

    Raises:
        ConfigError: the batch cannot be split evenly.
    """
    size, steps = batch_size, max(1, accumulate)
    if size % (ranks * steps):
        raise ConfigError(_no_split(stage, size, ranks, steps))
    if accumulate:
        return BatchSplit(ranks, accumulate, size // (ranks * accumulate))
    samples = max(n for n in divisors(size // ranks) if not micro_batch or n <= micro_batch)
    return BatchSplit(ranks, size // ranks // samples, samples)


def _no_split(stage: str, size: int, ranks: int, steps: int) -> str:
    """Returns the message for a batch of `size` that cannot be split evenly."""
    unit = ranks * steps
    near = [str(n) for n in (size // unit * unit, (size // unit + 1) * unit) if n]
    fitting = [str(n) for n in divisors(size) if (size // n) % steps == 0]
    accumulation = _counted(steps, "accumulation step")
    if not fitting:
        return (
            f"batch_size={size} of stage {stage} cannot be split into {accumulation}: "
            f"use a batch_size of {_one_of(near)}, or runtime.accumulate=0 to derive them."
        )
    return (
        f"batch_size={size} of stage {stage} cannot be split over {_counted(ranks, 'rank')} and "
        f"{accumulation}: use {_one_of(fitting)} ranks, or a batch_size of {_one_of(near)}."
    )


def divisors(number: int) -> list[int]:
    """Returns all whole numbers that divide `number` (above 0), ascending."""
    small = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _one_of(numbers: list[str]) -> str:
    return numbers[0] if len(numbers) == 1 else f"{', '.join(numbers[:-1])} or {numbers[-1]}"
