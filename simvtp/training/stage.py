"""Definition of a training stage, the callbacks it needs, and how it ended."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from simvtp.batch import Batch, Masks
from simvtp.config.train_config import TrainConfig

# (steps already done) -> this rank's batches from there on
Batches = Callable[[int], Iterator[Batch]]
# (micro-batch on the device, step from 0, first sample within the global batch) -> its masks
Draw = Callable[[Batch, int, int], Masks]
# (model in eval mode, step) -> metrics; rank 0 calls it; may raise Stopped
Evaluate = Callable[[nn.Module, int], dict[str, float]]
OnLog = Callable[[dict[str, Any]], None]
Measure = Callable[[], dict[str, float]]


@dataclass(frozen=True)
class Stage:
    """Settings of one training stage.

    Attributes:
        name: of the stage, in file names and messages.
        train: its optimization settings.
        total_steps: updates to make.
        seed: of dropout and drop path.
        directory: the run directory; files go to its `checkpoints/`.
        fingerprint: of the experiment.
        config: `to_dict` of the experiment, for messages.
        device: `auto`, `cpu`, `cuda`, ...
        log_every: steps between log lines.
        log_every_s: above 0: seconds between log lines, in place of steps but for the first.
        checkpoint_every: steps between checkpoints.
        checkpoint_every_s: above 0: seconds between checkpoints, in place of steps.
        workers: processes that decode clips, for advice.
        keep: checkpoints that are kept.
        accumulate: micro-batches per rank and step; 0 derives them from `micro_batch`.
        micro_batch: most samples that a rank takes at a time where `accumulate` is 0; 0 for all of
            its samples.
        fit: where a GPU has not the memory for that, as counted, as many as it has memory for.
        fewest: samples that a micro-batch needs.
        negatives: of the contrastive loss, see `BatchSplit.describe`.
        compile: compile the blocks of the model by torch.compile.
        compile_mode: of torch.compile.
        gradient_checkpointing: keep only the input of each block for the backward pass.
        merge_passes: run the encoder passes of a step in one call.
        pack_text: leave the padding of texts out of the encoder.
        shard: shard weights, gradients and optimizer state over the ranks.
        evaluate_at: steps after which the model is evaluated.
        best: metric of `evaluate` by which the final weights are chosen, larger is better; "" for
            the last weights.
    """

    name: str
    train: TrainConfig
    total_steps: int
    seed: int
    directory: Path
    fingerprint: str
    config: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    log_every: int = 10
    log_every_s: float = 0.0
    checkpoint_every: int = 100
    checkpoint_every_s: float = 0.0
    workers: int = 0
    keep: int = 2
    accumulate: int = 1
    micro_batch: int = 0
    fit: bool = False
    fewest: int = 1
    negatives: str = ""
    compile: bool = False
    compile_mode: str = "default"
    gradient_checkpointing: bool = False
    merge_passes: bool = False
    pack_text: bool = False
    shard: bool = False
    evaluate_at: tuple[int, ...] = ()
    best: str = ""

    @property
    def weights_path(self) -> Path:
        """File of the final weights."""
        return self.directory / "checkpoints" / f"{self.name}.safetensors"

    @property
    def outcome_path(self) -> Path:
        """File of the outcome, written last: its presence means that the stage is finished."""
        return self.directory / "checkpoints" / f"{self.name}.json"


@dataclass(frozen=True)
class StageOutcome:
    """Outcome of a stage.

    Attributes:
        step: updates done.
        stopped: True if it was asked to stop before the end (the state is saved); the fields below
            are then not final.
        selected_step: step of the weights in `weights`: the best one, or the last.
        best: value of the selection metric there; None without selection.
        weights: safetensors file of the final weights ("" if stopped).
        sha256: of the file `weights`.
        journal_length: of the journal when the stage had ended.
        cpu_hours: over all ranks and all resumptions.
        gpu_hours: over all ranks and all resumptions.
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
    """Returns the seed of torch's generators (dropout, drop path) for one step.

    It is the same on all ranks, so that any step can be repeated exactly.
    """
    digest = hashlib.sha256(f"{seed}/{stage}/{step}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
