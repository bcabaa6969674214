"""Counts the memory that a training step needs, without running it.

The step of one micro-batch runs on tensors without values: forward pass, losses, backward pass. The
bytes of the tensors that live at the same time are added up, and their largest sum is the peak. It
is counted for models with few blocks and for few sizes of the micro-batch, because it is linear in
both.

Counted on the CPU's operations: temporary memory inside a kernel, the allocator's unused remainders
and the memory of the driver are not in it (see `micro_batch`).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.compat.fake_tensors import LivingStorages, fake_tensors
from simvtp.config.train_config import TrainConfig
from simvtp.models.common.forward_options import ForwardOptions
from simvtp.models.common.layers import TransformerBlock
from simvtp.models.common.two_encoders import TwoEncoders
from simvtp.training.chunked_losses import large_chunks
from simvtp.training.objectives import Objective
from simvtp.training.parallel.distributed import alone
from simvtp.training.stage import Draw
from simvtp.training.step_flops import weightless

SMALL, LARGE = (4, 8), (256, 320)  # samples for which a step is counted
FEW = 2  # blocks of each kind in the shallow models
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
ADAM_STATES = 2  # running means of AdamW for each weight


@dataclass(frozen=True)
class Line:
    """Bytes of a micro-batch: `fixed` + `sample` for each of its samples."""

    fixed: float
    sample: float

    def at(self, samples: int) -> float:
        """Returns the bytes of `samples` samples."""
        return self.fixed + self.sample * samples

    def plus(self, other: Line, times: int) -> Line:
        """Returns this and `times` the other."""
        return Line(self.fixed + times * other.fixed, self.sample + times * other.sample)


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a step on one rank.

    Attributes:
        held: of the parameters and buffers.
        trained: of the parameters that are trained; gradients and each state of AdamW have as many.
        averaged: of the moving average of the weights; 0 without one.
        outside: of the trained parameters that are in no block.
        block: of the largest block.
        input: of one sample of a batch with its masks.
        small: of the passes of a small micro-batch.
        large: of a large one, whose losses are computed in chunks.
    """

    held: int
    trained: int
    averaged: int
    outside: int
    block: int
    input: int
    small: Line
    large: Line

    def peak(self, samples: int, on_device: int, shards: int = 1) -> int:
        """Returns the most bytes in use at a time.

        Args:
            samples: of a micro-batch.
            on_device: samples of the rank's part of the batch, which is on the device as a whole.
            shards: number of ranks over which weights, gradients and states are sharded.

        Gradients count as if all were there from the start, as they are with several ranks or
        micro-batches.
        """
        states = self.held + (1 + ADAM_STATES) * self.trained + self.averaged
        if shards > 1:
            # of a block and the one after it: weights and gradients in full
            states = states // shards + 2 * (self.outside + 2 * self.block)
        # Chunks bound what a sample adds: the second line is then less steep, and each is an upper
        # bound beyond its own sizes. If it is steeper, the peak lies elsewhere in a large step.
        bounded = self.large.sample <= self.small.sample
        passes = (min if bounded else max)(self.small.at(samples), self.large.at(samples))
        return round(states + self.input * on_device + passes)


def count_memory(
    model: nn.Module,
    objective: Objective,
    draw: Draw | None,
    batch: Batch,
    train: TrainConfig,
    options: ForwardOptions,
    last_step: int = 0,
    on_gpu: bool = True,
) -> StepMemory:
    """Returns the memory of a step of `model`, which is left as it is.

    Args:
        model: on any device, with or without values.
        objective: losses of the step.
        draw: draws the masks; None without masks.
        batch: any batch of the training; only its shapes count.
        train: precision and moving average.
        options: of the forward pass. Texts count with their padding.
        last_step: step whose masks are drawn, the one with the most visible input.
        on_gpu: the losses are computed in chunks as large as on a GPU.
    """
    options = replace(options, pack_text=False)

    def peak(shape: nn.Module, samples: int) -> int:
        with large_chunks() if on_gpu else contextlib.nullcontext():
            return _peak_of_passes(
                shape, objective, draw, batch, samples, train, options, last_step
            )

    small, large = _lines(model, peak, whole=options.gradient_checkpointing)
    parameters = dict(model.named_parameters())
    trained = [one for one in parameters.values() if one.requires_grad]
    blocks = [one for one in model.modules() if isinstance(one, TransformerBlock)]
    inside = {id(one) for block in blocks for one in block.parameters()}
    held = _bytes(parameters.values()) + _bytes(model.buffers())
    return StepMemory(
        held=held,
        trained=_bytes(trained),
        averaged=held if train.ema_decay > 0 else 0,
        outside=_bytes(one for one in trained if id(one) not in inside),
        block=max((_bytes(block.parameters()) for block in blocks), default=0),
        input=_input_bytes(batch, draw, last_step),
        small=small,
        large=large,
    )


# ---- one count -----------------------------------------------------------------------------------


def _peak_of_passes(
    model: nn.Module,
    objective: Objective,
    draw: Draw | None,
    batch: Batch,
    samples: int,
    train: TrainConfig,
    options: ForwardOptions,
    step: int,
) -> int:
    """Returns the bytes of forward pass, losses and backward pass of a micro-batch at their peak.

    Weights, gradients and the batch are not in it.
    """
    half = HALF.get(train.precision)
    autocast = torch.autocast("cpu", dtype=half) if half else contextlib.nullcontext()
    with alone(), fake_tensors():
        shape = without_values(model).train()
        for parameter in shape.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)
        part = _resized(batch, samples)
        masks = draw(part, step, 0) if draw else None
        normalizers = objective.loss_normalizers([masks])
        with LivingStorages() as storages:
            with autocast:
                outputs = shape(part, masks, options)
            losses, _ = objective(outputs, normalizers)
            torch.stack(list(losses.values())).sum().backward()
        return storages.peak


def without_values(model: nn.Module) -> nn.Module:
    """Returns a copy on the CPU with the shapes of the model; for use among fake tensors."""
    held: dict[int, Any] = {}
    for parameter in model.parameters():
        empty = torch.empty(parameter.shape, dtype=parameter.dtype)
        held[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        held[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype)
    return copy.deepcopy(model, held)


def _resized(batch: Batch, samples: int) -> Batch:
    """Returns a batch of `samples` samples with the shapes of `batch`."""
    changes: dict[str, Any] = {"sample_ids": (batch.sample_ids[:1] or ("",)) * samples}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            changes[field.name] = torch.empty((samples, *value.shape[1:]), dtype=value.dtype)
    return replace(batch, **changes)


def _input_bytes(batch: Batch, draw: Draw | None, step: int) -> int:
    """Returns the bytes of one sample and its masks."""
    samples = SMALL[0]
    with alone(), fake_tensors():
        part = _resized(batch, samples)
        masks = draw(part, step, 0) if draw else None
        return (_record_bytes(part) + _record_bytes(masks)) // samples


def _record_bytes(record: Batch | Masks | None) -> int:
    if record is None:
        return 0
    values = [getattr(record, field.name) for field in fields(record)]
    return _bytes(value for value in values if isinstance(value, Tensor))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# ---- depth and size of the batch -----------------------------------------------------------------


def _lines(
    model: nn.Module, peak: Callable[[nn.Module, int], int], whole: bool
) -> tuple[Line, Line]:
    """Returns the lines of small and of large micro-batches.

    Counted are a model with `FEW` blocks in each list of blocks, and, for small micro-batches,
    models with one more in one of the lists, which stands for every further block. With `whole`
    the model keeps its blocks: with gradient checkpointing the peak of a shallow one may be in its
    losses, and that of a deep one in a block. So do encoders that go block by block together.
    """
    whole = whole or any(isinstance(one, TwoEncoders) for one in model.modules())
    missing = {} if whole else _missing_blocks(model)
    shallow = _cut(model, dict.fromkeys(missing, FEW))
    small, large = _line(shallow, peak, SMALL), _line(shallow, peak, LARGE)
    one_block = {}
    for path in missing:
        deeper = _line(_cut(model, {**dict.fromkeys(missing, FEW), path: FEW + 1}), peak, SMALL)
        one_block[path] = deeper.plus(small, -1)
    for path, blocks in missing.items():
        small, large = (line.plus(one_block[path], blocks) for line in (small, large))
    return small, large


def _line(model: nn.Module, peak: Callable[[nn.Module, int], int], sizes: tuple[int, int]) -> Line:
    low, high = (peak(model, size) for size in sizes)
    sample = (high - low) / (sizes[1] - sizes[0])
    return Line(low - sample * sizes[0], sample)


def _missing_blocks(model: nn.Module) -> dict[str, int]:
    """Returns how many blocks the shallow model lacks of each longer list, by its path."""
    return {path: length - FEW for path, length in _stacks(model).items() if length > FEW + 1}


def _stacks(model: nn.Module) -> dict[str, int]:
    """Returns the lengths of the lists of blocks by their paths."""
    return {
        path: len(one)
        for path, one in model.named_modules()
        if isinstance(one, nn.ModuleList)
        and all(isinstance(block, TransformerBlock) for block in one)
    }


def _cut(model: nn.Module, lengths: dict[str, int]) -> nn.Module:
    """Returns a copy without values whose lists of blocks have these lengths.

    The last blocks stay: the first may have no drop path.
    """
    shape = weightless(model)
    for path, length in lengths.items():
        blocks = cast(nn.ModuleList, shape.get_submodule(path))
        del blocks[: len(blocks) - length]
    return shape
