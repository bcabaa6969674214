"""How a thing is measured: time in turns, operations, memory, and the ceiling that the machine
sets.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

CEILING_SIZES = {"cuda": (4096, 8192), "cpu": (1024, 2048)}


def wait_for(device: torch.device) -> None:
    """Return when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Timed:
    """Seconds of one call, a value a round: of the clock, and of this process on all its cores
    (which waits for nobody).
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return statistics.median(self.wall)

    def ratio(self, other: Timed, cpu: bool = False) -> tuple[float, float, float]:
        """How many times as fast as `other`: (median, least, most) of the ratios within a round."""
        pairs = (
            zip(self.cpu, other.cpu, strict=True)
            if cpu
            else zip(self.wall, other.wall, strict=True)
        )
        ratios = [its / own for own, its in pairs]
        return statistics.median(ratios), min(ratios), max(ratios)


def orders(count: int, rounds: int) -> Iterator[range]:
    """The order of the contestants in each round: A B C, then C B A, so that what else the machine
    does falls on all of them.
    """
    for turn in range(rounds):
        yield range(count) if turn % 2 == 0 else range(count - 1, -1, -1)


def take_turns(
    calls: Sequence[Callable[[], object]], device: torch.device, rounds: int, seconds: float = 0.0, warm_up: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> list[Timed]:  # fmt: skip
    """Time each call once a round, in turns (`orders`).

    Args:
        seconds: a turn repeats its call until about so long has passed (from the time of the
            warm-up); 0: once.
        warm_up: calls of each before the first round, which do not count.
    """
    repeats = []
    for place, call in enumerate(calls):
        for _ in range(warm_up):
            call()
        wait_for(device)
        began = time.perf_counter()
        call()
        wait_for(device)
        taken = time.perf_counter() - began
        repeats.append(max(1, round(seconds / taken)))
        say(
            f"  {place + 1} of {len(calls)} warm: {1000 * taken:.1f} ms, {repeats[-1]} calls a turn"
        )
    timed = [Timed() for _ in calls]
    for turn, order in enumerate(orders(len(calls), rounds)):
        for place in order:
            wait_for(device)
            began, used = time.perf_counter(), time.process_time()
            for _ in range(repeats[place]):
                calls[place]()
            wait_for(device)
            timed[place].wall.append((time.perf_counter() - began) / repeats[place])
            timed[place].cpu.append((time.process_time() - used) / repeats[place])
        say(f"  round {turn + 1} of {rounds}")
    return timed


def matmul(device: torch.device, half: torch.dtype | None) -> Callable[[], float]:
    """A function that measures the matmul ceiling now: the best FLOP/s of square products in this
    precision.
    """
    dtype = half or torch.float32
    pairs = [
        (
            torch.randn(n, n, device=device, dtype=dtype),
            torch.randn(n, n, device=device, dtype=dtype),
        )
        for n in CEILING_SIZES[device.type]
    ]

    def ceiling() -> float:
        best = 0.0
        for a, b in pairs:
            repeats = 10 if device.type == "cuda" else 2
            for count in (1, repeats):  # the first call is a warm-up
                wait_for(device)
                began = time.perf_counter()
                for _ in range(count):
                    a @ b
                wait_for(device)
                taken = (time.perf_counter() - began) / count
            best = max(best, 2 * a.shape[0] ** 3 / taken)
        return best

    return ceiling


def count_flops(work: Callable[[], Tensor]) -> tuple[int, int]:
    """Operations (forward, backward) of making a loss, by torch's counter; attention through plain
    matrix products, which it knows everywhere.
    """
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            loss = work()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    return forward.get_total_flops(), backward.get_total_flops()


@contextmanager
def _counting_saved(model: nn.Module) -> Iterator[dict[int, int]]:
    """{storage: bytes} of what autograd keeps for the backward pass, the weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    held: list[Tensor] = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def memory(
    model: nn.Module, step: Callable[[], None], forward: Callable[[], Tensor], device: torch.device
) -> int:
    """Bytes: on a GPU the peak of a whole step; on a CPU, where no peak can be had, what a forward
    pass keeps for its backward pass.
    """
    if device.type == "cuda":
        step()
        wait_for(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        wait_for(device)
        return int(torch.cuda.max_memory_allocated(device))
    with _counting_saved(model) as kept:
        forward()
        return sum(kept.values())


def profile(
    step: Callable[[], None], device: torch.device, top: int = 10
) -> list[tuple[str, float]]:
    """[(operation, share of the time)] of one step, the longest first: time of the GPU's kernels,
    or of the CPU in each operation itself.
    """
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recording

    on_gpu = device.type == "cuda"
    step()
    wait_for(device)
    with recording(
        activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    ) as record:
        step()
        wait_for(device)
    times = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in record.key_averages()
    }
    total = sum(times.values()) or 1.0
    return [
        (name, time / total)
        for name, time in sorted(times.items(), key=lambda item: -item[1])[:top]
    ]


def largest_batch(fits: Callable[[int], bool], start: int, unit: int) -> int:
    """The largest multiple of `unit` that fits, to within an eighth of it; `start` must be a
    multiple of `unit`. 0: not even `unit`.
    """
    low, high = 0, start
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(unit, low // 8):
        middle = (low + high) // 2 // unit * unit
        if middle in (low, high):
            break
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
