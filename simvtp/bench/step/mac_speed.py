"""Savings of masking in MAC: steps with all patches (Frozen) and with fewer: `simvtp bench mac`.

The paper claims 60 % fewer operations and pre-training three times as fast, and does not say at
which ratio. Here every ratio is measured in one run, in turns, and the ratio that gives three times
as many clips a second is interpolated.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from simvtp.batch import Batch, Masks
from simvtp.bench.measure import Timed, memory, take_turns
from simvtp.bench.step.sizes import MASK_ID, random_batch
from simvtp.bench.step.step_page import conditions
from simvtp.compat.host_memory import keep_host_memory
from simvtp.config.model_config import MaskConfig
from simvtp.config.recipes import get_recipe
from simvtp.errors import ConfigError
from simvtp.methods import build_model, method_of
from simvtp.models.flops.simvtp_flops import forward_flops
from simvtp.training.objectives import PretrainObjective
from simvtp.training.optim import build_optimizer

RECIPES = {"tiny": "tiny_mac", "base": "mac"}
BATCHES = {"tiny": 32, "base": 4}
HALF = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
RATIOS = (0.0, 0.6, 0.7, 0.75, 0.8, 0.9)
WORDS = 30  # the published count is of 30 words
CLAIM = 3.0  # times as fast
STATES = 4  # of each weight in training: itself, its gradient, two moments


@dataclass(frozen=True)
class MacSpeedOptions:
    """Options of a measurement; the other ratios are compared with the first."""

    size: str = "tiny"
    ratios: tuple[float, ...] = RATIOS
    batch: int = 0
    precision: str = "fp32"
    rounds: int = 6
    seconds: float = 1.0
    memory_gib: float = 16.0

    @property
    def samples(self) -> int:
        return self.batch or BATCHES[self.size]


@dataclass
class MacRow:
    """One ratio of hidden patches.

    Attributes:
        ratio: The ratio.
        flops: Forward operations of a clip.
        time: Time of a step.
        memory: Bytes of a step (see `measure.memory`).
        largest: Clips that fit into the memory of the options.
    """

    ratio: float
    flops: int
    time: Timed
    memory: int
    largest: int


@dataclass
class _Step:
    """One training step of a model on a fixed batch."""

    model: nn.Module
    batch: Batch
    masks: Masks
    objective: PretrainObjective
    half: torch.dtype | None
    optimizer: torch.optim.Optimizer

    def forward(self) -> Tensor:
        device = self.batch.clips.device.type
        with torch.autocast(
            device, dtype=self.half or torch.bfloat16, enabled=self.half is not None
        ):
            losses, _ = self.objective(self.model(self.batch, self.masks))
        return losses["vtc"]

    def __call__(self) -> None:
        self.forward().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def measure_mac(
    options: MacSpeedOptions, device: torch.device, say: Callable[[str], None] = print
) -> list[MacRow]:
    """Returns one row a ratio.

    Raises:
        ConfigError: The size or precision is unknown, or a ratio repeats or is not in [0, 1).
    """
    _check(options)
    if device.type == "cpu":
        keep_host_memory()  # as in training
    recipe = get_recipe(RECIPES[options.size])
    config = replace(recipe.model, text_length=WORDS, vocab_size=recipe.model.vocab_size or 1000)
    masks = [replace(recipe.masks, video_ratio=ratio) for ratio in options.ratios]
    model = build_model(config, ("vtc",), 0).to(device).train()
    optimizer = build_optimizer(model, recipe.pretrain, device)
    objective, half = PretrainObjective(recipe.losses), HALF[options.precision]

    def step(own: MaskConfig, samples: int) -> _Step:
        batch = random_batch(config, samples).to(device)
        drawn = method_of(config).draw(
            batch, config, own, mask_id=MASK_ID, seed=0, step=0, first_sample=0
        )
        return _Step(model, batch, drawn, objective, half, optimizer)

    steps = [step(own, options.samples) for own in masks]
    used = [
        (
            _memory(step(own, options.samples), device),
            _memory(step(own, 2 * options.samples), device),
        )
        for own in masks
    ]
    timed = take_turns(steps, device, options.rounds, options.seconds, say=say)
    weights = STATES * sum(parameter.nbytes for parameter in model.parameters())
    rows = []
    for own, time, (one, two) in zip(masks, timed, used, strict=True):
        each = (two - one) / options.samples
        fixed = one - each * options.samples + (0 if device.type == "cuda" else weights)
        largest = max(0, int((options.memory_gib * 2**30 - fixed) / each))
        flops = sum(forward_flops(config, own).values())
        rows.append(MacRow(own.video_ratio, flops, time, one, largest))
    return rows


def _check(options: MacSpeedOptions) -> None:
    if options.size not in RECIPES or options.precision not in HALF:
        raise ConfigError(
            f"size {options.size}, precision {options.precision}: choose a size from "
            f"{', '.join(RECIPES)} and a precision from {', '.join(HALF)}."
        )
    ratios = options.ratios
    different = len(ratios) > 1 and len(set(ratios)) == len(ratios)
    if not different or not all(0 <= ratio < 1 for ratio in ratios):
        raise ConfigError(f"ratios {ratios}: give two or more different ones in [0, 1).")


def _memory(step: _Step, device: torch.device) -> int:
    return memory(step.model, step, step.forward, device)


def ratio_for(rows: Sequence[MacRow], wanted: float = CLAIM) -> float | None:
    """Interpolates the ratio at which a step is `wanted` times as fast as at the first ratio.

    Returns None if no measured ratio is that fast.
    """
    found = sorted((row.ratio, row.time.ratio(rows[0].time, cpu=False)[0]) for row in rows)
    for (low, slow), (high, fast) in itertools.pairwise(found):
        if slow < wanted <= fast:
            return low + (high - low) * (wanted - slow) / (fast - slow)
    return None


def mac_page(options: MacSpeedOptions, rows: Sequence[MacRow], device: torch.device) -> str:
    """Returns the table as Markdown, with what is needed to repeat it."""
    first, kind = rows[0], "peak memory" if device.type == "cuda" else "kept for backward"
    columns = (
        *("hidden", "GMAC a clip", "of the first", "ms a step", "clips/s", "× the first, wall"),
        *("× the first, CPU time", f"{kind}, MiB", "of the first"),
        f"largest batch in {options.memory_gib:g} GiB",
    )
    lines = [
        f"# MAC with masked patches, {options.size}",
        "",
        *conditions(device),
        "",
        f"Batch {options.samples}, {options.precision}, {_frames(options)}; {options.rounds} "
        "rounds in turns (A B C, C B A, …), medians; ratios are medians within a round, least and "
        "most in brackets. A step is forward, backward and update, on a fixed batch with its masks "
        f"drawn. GMAC: forward, a clip with {WORDS} words. The largest batch is computed from the "
        "memory of two batch sizes, not tried.",
        "",
        f"| {' | '.join(columns)} |",
        f"|{' --: |' * len(columns)}",
        *(_line(row, first, options.samples, device) for row in rows),
        "",
        _verdict(rows),
    ]
    return "\n".join(lines) + "\n"


def _verdict(rows: Sequence[MacRow]) -> str:
    reached = ratio_for(rows)
    if reached is not None:
        return (
            f"{CLAIM:g} times as fast: at a ratio of about {reached:.2f} (between the measured "
            "ones, linear)."
        )
    speedups = {row.ratio: row.time.ratio(rows[0].time)[0] for row in rows}
    best = max(speedups, key=lambda ratio: speedups[ratio])
    return (
        f"{CLAIM:g} times as fast: reached at none of these ratios (most: × {speedups[best]:.2f} "
        f"at {best:g})."
    )


def _frames(options: MacSpeedOptions) -> str:
    model = get_recipe(RECIPES[options.size]).model
    return (
        f"{model.frames} frames of {model.image_size} pixels, width {model.dim}, "
        f"{model.depth} blocks"
    )


def _line(row: MacRow, first: MacRow, samples: int, device: torch.device) -> str:
    def times(cpu: bool) -> str:
        middle, least, most = row.time.ratio(first.time, cpu=cpu)
        return f"{middle:.2f} ({least:.2f}–{most:.2f})"

    values = [
        f"{row.ratio:g}",
        f"{row.flops / 2e9:.3g}",
        f"{row.flops / first.flops:.0%}",
        f"{1000 * row.time.seconds:.1f}",
        f"{samples / row.time.seconds:.1f}",
        times(False),
        times(True) if device.type == "cpu" else "—",
        f"{row.memory / 2**20:.0f}",
        f"{row.memory / first.memory:.0%}",
        str(row.largest),
    ]
    return f"| {' | '.join(values)} |"
