"""Choice of the micro-batch by the counted memory of a step (`runtime.micro_batch=auto`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from simvtp.batch import Batch
from simvtp.errors import DeviceMemoryExhausted
from simvtp.models.common.forward_options import ForwardOptions
from simvtp.training.objectives import Objective
from simvtp.training.parallel import distributed
from simvtp.training.parallel.batch_split import BatchSplit, divisors, split_batch
from simvtp.training.parallel.device_memory import smaller_micro_batch
from simvtp.training.parallel.step_memory import StepMemory, count_memory
from simvtp.training.stage import Draw, Stage

GIB = 2**30
# What the count leaves out, an assumption until it has been measured on a GPU: the driver's
# context with the libraries' workspaces, and a part of the memory for remainders of the allocator
# and for temporary memory of kernels.
CONTEXT = 1.5 * GIB
REMAINDERS = 0.05


def usable(memory: float) -> float:
    """Returns the bytes of a GPU's memory that counted bytes may fill."""
    return memory * (1 - REMAINDERS) - CONTEXT


def free_memory(device: torch.device) -> float | None:
    """Returns the bytes that this process may still use on the device; None on a CPU.

    Memory that torch holds and does not use counts as free; that of other processes does not.
    """
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return float(free + unused)


def fewest_samples(wanted: tuple[str, ...]) -> int:
    """Returns the fewest samples of a micro-batch: VTM needs another one as negative."""
    return 2 if "vtm" in wanted else 1


def fitting_samples(
    memory: StepMemory, room: float, mine: int, fewest: int, shards: int = 1
) -> int | None:
    """Returns the most samples at a time that fit, a divisor of the rank's samples.

    Args:
        memory: counted.
        room: bytes that they may fill.
        mine: samples of the rank's part of the batch.
        fewest: samples that a micro-batch needs.
        shards: number of ranks over which weights are sharded.

    Returns:
        None if not even `fewest` fit.
    """
    return max(
        (n for n in divisors(mine) if n >= fewest and memory.peak(n, mine, shards) <= room),
        default=None,
    )


@dataclass(frozen=True)
class CountedStep:
    """A stage's step whose memory was counted, on one rank of several.

    Attributes:
        stage: its name.
        split: of the batch, as the settings have it.
        memory: counted.
        room: bytes of the device that this process may use, the least of all ranks.
        fewest: samples that a micro-batch needs.
        sharded: weights, gradients and states are sharded over the ranks.
        checkpointed: with gradient checkpointing.
    """

    stage: str
    split: BatchSplit
    memory: StepMemory
    room: float
    fewest: int
    sharded: bool
    checkpointed: bool

    def peak(self, samples: int) -> int:
        """Returns the bytes of a step with micro-batches of `samples`."""
        shards = self.split.ranks if self.sharded else 1
        return self.memory.peak(samples, self._mine, shards)

    @property
    def _mine(self) -> int:
        return self.split.accumulate * self.split.samples

    @property
    def fits(self) -> bool:
        """True if the step fits as it is divided."""
        return self.peak(self.split.samples) <= usable(self.room)

    def fitting(self) -> BatchSplit | None:
        """Returns the split with the largest micro-batch that fits; None if there is none."""
        shards = self.split.ranks if self.sharded else 1
        samples = fitting_samples(self.memory, usable(self.room), self._mine, self.fewest, shards)
        return None if samples is None else _divided(self.split, samples)

    def counted(self, split: BatchSplit) -> str:
        """Returns what a step with this split needs of the device."""
        need, room = self.peak(split.samples) / GIB, self.room / GIB
        return f"a step needs {need:.1f} of {room:.1f} GiB, as counted"

    def warning(self) -> str:
        """Returns the sentence for a step that does not fit as it is divided."""
        fitting = self.fitting()
        return (
            f"stage {self.stage} takes {self.split.samples} samples at a time, for which "
            f"{self.counted(self.split)}: it will probably run out of memory; "
            f"{self._advice(fitting.samples if fitting else 0)}."
        )

    def refusal(self) -> DeviceMemoryExhausted:
        """Returns the error for a step of which not even the smallest micro-batch fits."""
        smallest = _divided(
            self.split, min(n for n in divisors(self._mine) if n >= min(self.fewest, self._mine))
        )
        return DeviceMemoryExhausted(
            f"stage {self.stage} does not fit into the GPU: with {smallest.samples} samples at a "
            f"time {self.counted(smallest)}; {self._advice(0)}; runtime.micro_batch={self.fewest} "
            "runs without this check."
        )

    def _advice(self, samples: int) -> str:
        found = []
        if samples:
            found.append("runtime.accumulate=0 runtime.micro_batch=auto")
        if not self.checkpointed:
            found.append("runtime.gradient_checkpointing=true")
        if not self.sharded:
            found.append("runtime.shard=full on several GPUs")
        return f"set {', or '.join(found)}" if found else "take a GPU with more memory"


def _divided(split: BatchSplit, samples: int) -> BatchSplit:
    """Returns the same global batch in micro-batches of `samples`."""
    return BatchSplit(split.ranks, split.accumulate * split.samples // samples, samples)


class BatchDivision:
    """Division of a stage's batch over ranks and micro-batches, which may become finer.

    Attributes:
        split: as it is now.
    """

    def __init__(self, stage: Stage, device: torch.device) -> None:
        self._stage = stage
        self._room = free_memory(device)
        self._halved = False
        self.split = split_batch(
            stage.name,
            stage.train.batch_size,
            distributed.world(),
            stage.accumulate,
            stage.micro_batch,
        )

    def fit(
        self,
        model: nn.Module,
        objective: Objective,
        draw: Draw | None,
        batch: Batch,
        options: ForwardOptions,
        sharded: bool,
        say: Callable[[str], None],
    ) -> bool:
        """Counts the memory of a step on a GPU, and divides the batch by it with `stage.fit`.

        What was chosen, or what does not fit, is said in one sentence. All ranks take part.

        Args:
            model: with or without values.
            objective: losses of the step.
            draw: draws the masks.
            batch: any batch of the stage.
            options: of the forward pass.
            sharded: weights, gradients and states are sharded over the ranks.
            say: logs a line.

        Returns:
            True if the split has changed.

        Raises:
            DeviceMemoryExhausted: not even the smallest micro-batch fits.
        """
        if self._room is None:
            return False
        stage, last = self._stage, self._stage.total_steps - 1
        room = min(distributed.from_all(self._room))  # all ranks divide the batch alike
        try:
            memory = count_memory(model, objective, draw, batch, stage.train, options, last)
        except (RuntimeError, NotImplementedError) as error:  # an operation that needs values
            reason = str(error).splitlines()[0]
            say(f"the memory of a step of stage {stage.name} cannot be counted: {reason}")
            return False
        checkpointed = options.gradient_checkpointing
        step = CountedStep(
            stage.name, self.split, memory, room, stage.fewest, sharded, checkpointed
        )
        if not stage.fit:
            if not step.fits:
                say(step.warning())
            return False
        split = step.fitting()
        if split is None:
            raise step.refusal()
        before, self.split = self.split, split
        say(f"{split.describe(stage.name, stage.negatives)}; {step.counted(split)}")
        return before != split

    def halve(self, device: torch.device, step: int, say: Callable[[str], None]) -> bool:
        """Divides the batch further after a step that ran out of memory against the count.

        Once, with `stage.fit`, and on a single rank: others would wait for this one.

        Args:
            device: whose memory ran out.
            step: number of the step, from 1.
            say: logs a line.

        Returns:
            False if that cannot be done.
        """
        stage, samples = self._stage, smaller_micro_batch(self.split)
        may = stage.fit and not self._halved and self.split.ranks == 1
        if not may or samples is None or samples < stage.fewest:
            return False
        self._halved = True
        say(
            f"the memory of {device} ran out in step {step} of stage {stage.name} with "
            f"{self.split.samples} samples at a time, against the count: it goes on with {samples} "
            f"(runtime.micro_batch={samples})"
        )
        self.split = _divided(self.split, samples)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return True
