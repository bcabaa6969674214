"""What a training stage is, what it needs from outside, and how it ended."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from simvtp.batch import Batch, Masks
from simvtp.config.train_config import TrainConfig

Batches = Callable[
    [int], Iterator[Batch]
]  # (steps already done) -> this rank's batches from there on
Draw = Callable[
    [Batch, int, int], Masks
]  # (micro-batch on the device, step from 0, first sample within the global batch)
Evaluate = Callable[
    [nn.Module, int], dict[str, float]
]  # (model in eval mode, step) -> metrics; rank 0 calls it; may raise Stopped
OnLog = Callable[[dict[str, Any]], None]
Measure = Callable[[], dict[str, float]]


@dataclass(frozen=True)
class Stage:
    """What one training stage is. `directory` is the run directory; files go to its `checkpoints/`."""

    name: str
    train: TrainConfig
    total_steps: int
    seed: int
    directory: Path
    fingerprint: str
    config: Mapping[str, Any] = field(
        default_factory=dict
    )  # `to_dict` of the experiment, for messages
    device: str = "cpu"
    log_every: int = 10
    checkpoint_every: int = 100
    keep: int = 2
    accumulate: int = 1  # micro-batches per rank and step; 0 = derived from `micro_batch`
    # most samples that a rank takes at a time where accumulate is 0; 0 = its part of the batch
    micro_batch: int = 0
    compile: bool = False  # the blocks of the model by torch.compile
    gradient_checkpointing: bool = False  # keep only the input of each block for the backward pass
    merge_passes: bool = False  # the encoder passes of a step in one call
    pack_text: bool = False  # leave the padding of texts out of the encoder
    shard: bool = False  # cut weights, gradients and optimizer state over the ranks
    evaluate_at: tuple[int, ...] = ()
    # metric of `evaluate` by which the final weights are chosen, larger is better; "" = the last
    # ones
    best: str = ""

    @property
    def weights_path(self) -> Path:
        """Final weights of the stage."""
        return self.directory / "checkpoints" / f"{self.name}.safetensors"

    @property
    def outcome_path(self) -> Path:
        """Written last: it says that the stage is finished."""
        return self.directory / "checkpoints" / f"{self.name}.json"


@dataclass(frozen=True)
class Outcome:
    """How a stage ended.

    Attributes:
        step: updates done.
        stopped: True if it was asked to stop before the end (the state is saved); the fields below
            are then not final.
        selected_step: step of the weights in `weights`: the best one, or the last.
        best: value of the selection metric there; None without selection.
        weights: safetensors file of the final weights ("" if stopped), with its sha256.
        journal_length: of the journal when the stage had ended.
        cpu_hours, gpu_hours: over all ranks and all resumptions.
    """

    step: int
    stopped: bool
    selected_step: int = 0
    best: float | None = None
    weights: str = ""
    sha256: str = ""
    journal_length: int = 0
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0


def step_seed(seed: int, stage: str, step: int) -> int:
    """Seed of torch's generators (dropout, drop path) for one step, the same on all ranks, so that
    any step can be done again exactly.
    """
    digest = hashlib.sha256(f"{seed}/{stage}/{step}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
