"""Counts the operations of a training step, and the fraction of the device's peak that they are.

torch's counter runs on a copy of the model without memory (device "meta"), forward and backward,
with attention as plain matrix products and without the recomputation of gradient checkpointing.
Where padding is left out, texts of the average length are counted. So every model is counted alike,
and frozen parameters cost no backward. The losses are left out: they are small.
"""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from simvtp.batch import Batch, Masks
from simvtp.models.common.forward_options import DEFAULT_OPTIONS

_LOG = logging.getLogger(__name__)

# Dense bf16 peaks in FLOP/s from the vendor's data sheets, by a part of torch's name for the
# device; the first that is found counts.
PEAKS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
}


def peak(device_name: str) -> float | None:
    """Returns the dense bf16 peak of a GPU in FLOP/s; None if it is not in the table."""
    words = set(device_name.replace("-", " ").split())
    return next((value for name, value in PEAKS.items() if words.issuperset(name.split())), None)


def weightless(model: nn.Module) -> nn.Module:
    """Returns a copy of `model` whose parameters and buffers have shapes and no values."""
    held: dict[int, Tensor] = {}
    for parameter in model.parameters():
        held[id(parameter)] = nn.Parameter(
            torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad
        )
    for buffer in model.buffers():
        held[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, held)


def shapes_of(
    batch: Batch, masks: Masks | None, packed: bool = False
) -> tuple[Batch, Masks | None]:
    """Returns a batch and its masks without values and memory, to be counted later.

    With `packed`, texts are truncated to their average length, rounded up.
    """
    if packed:
        mask = batch.attention_mask
        length = math.ceil(float(mask.float().mean()) * mask.shape[-1])
        batch = replace(
            batch,
            input_ids=batch.input_ids[..., :length],
            attention_mask=mask[..., :length],
            word_ids=batch.word_ids[..., :length],
        )
        masks = masks and replace(masks, input_ids=masks.input_ids[..., :length])
    if masks is not None:
        changes: dict[str, Any] = {}
        for field in fields(masks):
            value = getattr(masks, field.name)
            if isinstance(value, Tensor):
                changes[field.name] = value.to("meta")
        masks = replace(masks, **changes)
    return batch.to("meta"), masks


def count_step(model: nn.Module, batch: Batch, masks: Masks | None) -> int | None:
    """Returns the operations of forward and backward on `batch` by a `weightless` model.

    None, with a line in the log, if they cannot be counted.
    """
    # late: it imports torch's compiler at its first use, a second and more
    from torch.utils.flop_counter import FlopCounterMode

    batch, masks = shapes_of(batch, masks)
    try:
        # with default options: nothing is recomputed, and the number of words, which packing needs,
        # is not known without values
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            outputs = model(batch, masks, DEFAULT_OPTIONS)
            sums = [value.float().sum() for value in outputs.values() if value.requires_grad]
            if sums:
                torch.stack(sums).sum().backward()
    except RuntimeError as error:  # an operation that needs values
        _LOG.info(
            "the operations of a step cannot be counted, so no FLOP/s are logged: %s",
            str(error).splitlines()[0],
        )
        return None
    return counter.get_total_flops()


def speed_of(
    flops: int | None, step_s: float, ranks: int, device: torch.device
) -> dict[str, float]:
    """Returns `speed/tflops_per_s` of all ranks, and `speed/mfu` if the device's peak is known.

    `flops` are the operations of a step, over all ranks.
    """
    if flops is None or step_s <= 0:
        return {}
    metrics = {"speed/tflops_per_s": flops / step_s / 1e12}
    most = peak(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return metrics if most is None else {**metrics, "speed/mfu": flops / step_s / (most * ranks)}
