"""The training step of this project beside its peers, in one run: `python -m simvtp bench step`."""

from __future__ import annotations

import gc
import itertools
import statistics
from collections.abc import Callable
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
from simvtp.bench.step.implementations import OURS, Contestant, agreement, line_up
from simvtp.bench.step.sizes import BATCHES, Inputs, make_inputs, model_size
from simvtp.config.schema import MaskConfig, ModelConfig
from simvtp.errors import ConfigError
from simvtp.training.host_memory import keep_host_memory

HALF = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
COUNTED = 8  # most samples whose operations are counted


@dataclass(frozen=True)
class Plan:
    """What is to be measured. `batch` 0: the usual one of the size; `compiled`: which of eager
    (False) and torch.compile (True).
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
    ceiling: bool = True  # also measure that of matrix products
    keep_memory: bool = (
        True  # on a CPU: as in training, see training/host_memory.py; for all contestants
    )

    @property
    def samples(self) -> int:
        return self.batch or BATCHES[self.size]


@dataclass
class Row:
    """One contestant in one precision."""

    name: str
    precision: str
    compiled: bool
    time: Timed
    flops: int  # a sample, forward and backward
    memory: int  # bytes
    ceilings: list[
        float
    ]  # FLOP/s of matrix products in this precision, a value a round; empty: not measured
    largest: int = 0  # 0: not measured
    profile: list[tuple[str, float]] = field(
        default_factory=list
    )  # operations and their share of a step's time, where asked for

    def rate(self, samples: int) -> float:
        """Clips a second."""
        return samples / self.time.seconds

    def achieved(self, samples: int) -> float:
        """FLOP/s."""
        return self.flops * self.rate(samples)

    @property
    def ceiling(self) -> float:
        return statistics.median(self.ceilings)


def measure_step(
    plan: Plan,
    device: torch.device,
    say: Callable[[str], None] = print,
    config: ModelConfig | None = None,
) -> list[Row]:
    """Measure every contestant in every precision, eager and compiled, in turns.

    Raises:
        ConfigError: an unknown size or precision. UserError: transformers is needed and not
            installed.
    """
    config = config or model_size(plan.size)
    if plan.keep_memory and device.type == "cpu":
        keep_host_memory()
    for name in plan.precisions:
        if name not in HALF:
            raise ConfigError(
                f"there is no precision '{name}' to measure: choose one of {', '.join(HALF)}."
            )
    losses = agreement(config, plan.what, make_inputs(config, MaskConfig(), 2, torch.device("cpu")))
    say(
        "losses before the first step: "
        + ", ".join(f"{name} {loss:.7g}" for name, loss in losses.items())
    )
    rivals = line_up(config, plan.what, device)
    samples = min(COUNTED, plan.samples)
    counted = make_inputs(config, MaskConfig(), samples, device)
    flops = {
        rival.name: sum(count_flops(_forward(rival, counted, None))) // samples for rival in rivals
    }
    for rival in rivals:
        rival.model.zero_grad(set_to_none=True)
    inputs = make_inputs(config, MaskConfig(), plan.samples, device)
    variants = [
        (rival.compiled() if compiled else rival, precision, compiled)
        for compiled, precision, rival in itertools.product(plan.compiled, plan.precisions, rivals)
    ]
    steps = [_step(rival, inputs, HALF[precision], device) for rival, precision, _ in variants]
    used = [
        memory(rival.model, step, _forward(rival, inputs, HALF[precision]), device)
        for step, (rival, precision, _) in zip(steps, variants, strict=True)
    ]
    ceilings: dict[str, list[float]] = {precision: [] for precision in plan.precisions}
    probes = [
        _noting(matmul(device, HALF[precision]), ceilings[precision])
        for precision in plan.precisions
        if plan.ceiling
    ]
    timed = take_turns([*steps, *probes], device, plan.rounds, plan.seconds, say=say)
    for values in ceilings.values():
        del values[: -plan.rounds]  # those of the warm-up
    rows = [
        Row(
            rival.name,
            precision,
            compiled,
            time,
            flops[rival.name],
            bytes_used,
            ceilings[precision],
        )
        for (rival, precision, compiled), time, bytes_used in zip(
            variants, timed, used, strict=False
        )
    ]
    if plan.profile:
        for row, step in zip(rows, steps, strict=True):
            row.profile = profile(step, device)
    if plan.largest and device.type == "cuda":
        del steps, variants, inputs, rivals
        _find_largest(plan, config, rows, device, say)
    return rows


def _noting(probe: Callable[[], float], values: list[float]) -> Callable[[], None]:
    return lambda: values.append(probe())


def _step(
    rival: Contestant, inputs: Inputs, half: torch.dtype | None, device: torch.device
) -> Callable[[], None]:
    optimizer = rival.optimizer(device)
    return lambda: rival.step(inputs, optimizer, half)


def _forward(rival: Contestant, inputs: Inputs, half: torch.dtype | None) -> Callable[[], Tensor]:
    def forward() -> Tensor:
        with torch.autocast(
            inputs.pixels.device.type, dtype=half or torch.bfloat16, enabled=half is not None
        ):
            return rival.loss(rival.model, inputs)

    return forward


def _find_largest(
    plan: Plan,
    config: ModelConfig,
    rows: list[Row],
    device: torch.device,
    say: Callable[[str], None],
) -> None:
    """Fill in `largest` of the rows that are not compiled, one contestant on the device at a time."""
    for name, precision in dict.fromkeys((row.name, row.precision) for row in rows):

        def fits(samples: int, name: str = name, precision: str = precision) -> bool:
            gc.collect()
            torch.cuda.empty_cache()
            try:
                rival = next(
                    rival
                    for rival in line_up(config, plan.what, torch.device("cpu"))
                    if rival.name == name
                )
                rival.model.to(device)
                step = _step(
                    rival,
                    make_inputs(config, MaskConfig(), samples, device),
                    HALF[precision],
                    device,
                )
                step()
                step()
                torch.cuda.synchronize(device)
            except torch.cuda.OutOfMemoryError:
                return False
            return True

        found = largest_batch(fits, max(8, plan.samples // 8 * 8), 8)
        say(f"  largest batch of {name} in {precision}: {found}")
        for row in rows:
            if (row.name, row.precision) == (name, precision) and not row.compiled:
                row.largest = found


def reference(rows: list[Row], row: Row) -> Row:
    """The peer that a row is compared with: the other contestant in the same precision, eager; of a
    peer, itself in eager mode.
    """
    return next(
        other
        for other in rows
        if other.name != OURS and other.precision == row.precision and not other.compiled
    )
