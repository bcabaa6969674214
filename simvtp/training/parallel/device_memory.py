"""Memory of the device in a training step: what to do where it does not suffice."""

from __future__ import annotations

import torch

from simvtp.errors import DeviceMemoryExhausted
from simvtp.training.parallel.batch_split import BatchSplit, divisors


def smaller_micro_batch(split: BatchSplit) -> int | None:
    """Returns the next smaller number of samples that divides a rank's part; None below 1."""
    mine = split.accumulate * split.samples
    return max((n for n in divisors(mine) if n < split.samples), default=None)


def memory_exhausted(
    stage: str, step: int, split: BatchSplit, device: torch.device, checkpointed: bool
) -> DeviceMemoryExhausted:
    """Returns the error of a step that did not fit, with the settings that make it smaller.

    Args:
        stage: name of the stage.
        step: number of the step, from 1.
        split: of the batch.
        device: whose memory ran out.
        checkpointed: gradient checkpointing is on already.
    """
    advice = [] if checkpointed else ["runtime.gradient_checkpointing=true (the same results)"]
    half = smaller_micro_batch(split)
    if half is not None:
        advice.append(
            f"runtime.accumulate=0 runtime.micro_batch={half} (contrastive negatives then come "
            "from fewer samples)"
        )
    if split.samples == 1 or not advice:
        advice.append("runtime.shard=full on several GPUs, or a GPU with more memory")
    total = ""
    if device.type == "cuda" and torch.cuda.is_available():
        total = f" ({torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB)"
    return DeviceMemoryExhausted(
        f"the memory of {device}{total} ran out in step {step} of stage {stage}, which takes "
        f"{split.samples} samples at a time: set {', or '.join(advice)}; the run continues from "
        "its last checkpoint."
    )
