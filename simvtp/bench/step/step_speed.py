"""Speed of our training step against other implementations, in one run: `simvtp bench step`."""

from __future__ import annotations

import gc
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from simvtp.bench.measure import (
    Timed,
    count_flops,
    largest_batch,
    matmul,
    memory,
    profile,
    take_turns,
)
from simvtp.bench.step.implementations import OURS, Candidate, agreement, build_all
from simvtp.bench.step.sizes import BATCHES, Inputs, make_inputs, model_size
from simvtp.compat.host_memory import keep_host_memory
from simvtp.config.model_config import MaskConfig, SimVTPConfig
from simvtp.errors import ConfigError

HALF = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
COUNTED = 8  # operations are counted on at most so many samples


@dataclass(frozen=True)
class StepSpeedOptions:
    """Options of a measurement.

    Attributes:
        size: Name of the model's sizes.
        what: "mvm" (against transformers) or "all" losses (against the released structure).
        batch: Samples a step; 0: the usual number of the size.
        precisions: Names in `HALF`.
        compiled: Eager (False) and/or torch.compile (True).
        rounds: Turns of each candidate.
        seconds: Length of a turn.
        largest: Also find the largest batch that fits (GPU).
        profile: Also profile one step.
        ceiling: Also measure the matmul ceiling.
        keep_memory: On a CPU, keep freed memory as in training (see compat/host_memory.py);
            applies to all candidates.
    """

    size: str = "tiny"
    what: str = "all"
    batch: int = 0
    precisions: tuple[str, ...] = ("fp32",)
    compiled: tuple[bool, ...] = (False,)
    rounds: int = 6
    seconds: float = 1.0
    largest: bool = False
    profile: bool = False
    ceiling: bool = True
    keep_memory: bool = True

    @property
    def samples(self) -> int:
        return self.batch or BATCHES[self.size]


@dataclass
class SpeedRow:
    """One candidate in one precision.

    Attributes:
        name: The implementation.
        precision: Name in `HALF`.
        compiled: True if torch.compile was used.
        time: Time of a step.
        flops: Operations a sample, forward and backward.
        memory: Bytes (see `measure.memory`).
        ceilings: FLOP/s of matmuls in this precision, one value a round; empty: not measured.
        largest: Largest batch that fits; 0: not measured.
        profile: Operations and their fraction of a step's time; empty: not profiled.
    """

    name: str
    precision: str
    compiled: bool
    time: Timed
    flops: int
    memory: int
    ceilings: list[float]
    largest: int = 0
    profile: list[tuple[str, float]] = field(default_factory=list)

    def rate(self, samples: int) -> float:
        """Returns clips a second at `samples` a step."""
        return samples / self.time.seconds

    def achieved(self, samples: int) -> float:
        """Returns FLOP/s at `samples` a step."""
        return self.flops * self.rate(samples)

    @property
    def ceiling(self) -> float:
        return statistics.median(self.ceilings)


@dataclass(frozen=True)
class _Variant:
    """One candidate as it is timed."""

    candidate: Candidate
    precision: str
    compiled: bool


def measure_step(
    options: StepSpeedOptions,
    device: torch.device,
    say: Callable[[str], None] = print,
    config: SimVTPConfig | None = None,
) -> list[SpeedRow]:
    """Measures every candidate in every precision, eager and compiled, in turns.

    Raises:
        ConfigError: A size or precision is unknown.
        UserError: transformers is needed and not installed.
    """
    config = config or model_size(options.size)
    _check_precisions(options.precisions)
    if options.keep_memory and device.type == "cpu":
        keep_host_memory()
    checked = make_inputs(config, MaskConfig(), 2, torch.device("cpu"))
    losses = agreement(config, options.what, checked)
    shown = ", ".join(f"{name} {loss:.7g}" for name, loss in losses.items())
    say(f"losses before the first step: {shown}")
    candidates = build_all(config, options.what, device)
    flops = _count_flops(candidates, config, min(COUNTED, options.samples), device)
    inputs = make_inputs(config, MaskConfig(), options.samples, device)
    variants = [
        _Variant(candidate.compiled() if compiled else candidate, precision, compiled)
        for compiled, precision, candidate in itertools.product(
            options.compiled, options.precisions, candidates
        )
    ]
    steps = [_step(one.candidate, inputs, HALF[one.precision], device) for one in variants]
    rows = _measure_variants(options, variants, steps, inputs, flops, device, say)
    if options.profile:
        for row, step in zip(rows, steps, strict=True):
            row.profile = profile(step, device)
    if options.largest and device.type == "cuda":
        del steps, variants, inputs, candidates
        _find_largest(options, config, rows, device, say)
    return rows


def _check_precisions(names: Sequence[str]) -> None:
    for name in names:
        if name not in HALF:
            raise ConfigError(
                f"there is no precision '{name}' to measure: choose from {', '.join(HALF)}."
            )


def _count_flops(
    candidates: Sequence[Candidate], config: SimVTPConfig, samples: int, device: torch.device
) -> dict[str, int]:
    """Returns {name: operations a sample}; the gradients are discarded."""
    inputs = make_inputs(config, MaskConfig(), samples, device)
    flops = {}
    for candidate in candidates:
        flops[candidate.name] = sum(count_flops(_forward(candidate, inputs, None))) // samples
    for candidate in candidates:
        candidate.model.zero_grad(set_to_none=True)
    return flops


def _measure_variants(
    options: StepSpeedOptions,
    variants: Sequence[_Variant],
    steps: Sequence[Callable[[], None]],
    inputs: Inputs,
    flops: Mapping[str, int],
    device: torch.device,
    say: Callable[[str], None],
) -> list[SpeedRow]:
    """Returns one row a variant: its memory, then its time in turns with the matmul ceilings."""
    used = []
    for variant, step in zip(variants, steps, strict=True):
        forward = _forward(variant.candidate, inputs, HALF[variant.precision])
        used.append(memory(variant.candidate.model, step, forward, device))
    ceilings: dict[str, list[float]] = {precision: [] for precision in options.precisions}
    probes = [
        _appending(matmul(device, HALF[precision]), ceilings[precision])
        for precision in options.precisions
        if options.ceiling
    ]
    timed = take_turns([*steps, *probes], device, options.rounds, options.seconds, say=say)
    for values in ceilings.values():
        del values[: -options.rounds]  # those of the warm-up
    return [
        SpeedRow(
            variant.candidate.name,
            variant.precision,
            variant.compiled,
            time,
            flops[variant.candidate.name],
            bytes_used,
            ceilings[variant.precision],
        )
        for variant, time, bytes_used in zip(variants, timed, used, strict=False)
    ]


def _appending(probe: Callable[[], float], values: list[float]) -> Callable[[], None]:
    return lambda: values.append(probe())


def _step(
    candidate: Candidate, inputs: Inputs, half: torch.dtype | None, device: torch.device
) -> Callable[[], None]:
    optimizer = candidate.optimizer(device)
    return lambda: candidate.step(inputs, optimizer, half)


def _forward(
    candidate: Candidate, inputs: Inputs, half: torch.dtype | None
) -> Callable[[], Tensor]:
    kind = inputs.pixels.device.type

    def forward() -> Tensor:
        with torch.autocast(kind, dtype=half or torch.bfloat16, enabled=half is not None):
            return candidate.loss(candidate.model, inputs)

    return forward


def _find_largest(
    options: StepSpeedOptions,
    config: SimVTPConfig,
    rows: list[SpeedRow],
    device: torch.device,
    say: Callable[[str], None],
) -> None:
    """Fills in `largest` of the eager rows, one candidate on the device at a time."""
    for name, precision in dict.fromkeys((row.name, row.precision) for row in rows):

        def fits(samples: int, name: str = name, precision: str = precision) -> bool:
            gc.collect()
            torch.cuda.empty_cache()
            try:
                built = build_all(config, options.what, torch.device("cpu"))
                candidate = next(one for one in built if one.name == name)
                candidate.model.to(device)
                inputs = make_inputs(config, MaskConfig(), samples, device)
                step = _step(candidate, inputs, HALF[precision], device)
                step()
                step()
                torch.cuda.synchronize(device)
            except torch.cuda.OutOfMemoryError:
                return False
            return True

        found = largest_batch(fits, max(8, options.samples // 8 * 8), 8)
        say(f"  largest batch of {name} in {precision}: {found}")
        for row in rows:
            if (row.name, row.precision) == (name, precision) and not row.compiled:
                row.largest = found


def reference(rows: list[SpeedRow], row: SpeedRow) -> SpeedRow:
    """Returns the row that `row` is compared with: the other candidate, eager, same precision."""
    return next(
        other
        for other in rows
        if other.name != OURS and other.precision == row.precision and not other.compiled
    )
