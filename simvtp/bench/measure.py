"""Measures time in turns, floating-point operations, memory and the machine's matmul ceiling."""

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
    """Blocks until the device has finished all work that was queued on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Timed:
    """Seconds of one call, one value a round.

    Attributes:
        wall: Wall-clock time.
        cpu: CPU time of this process on all its cores, which other processes do not delay.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return statistics.median(self.wall)

    def ratio(self, other: Timed, cpu: bool = False) -> tuple[float, float, float]:
        """Returns the speed-up over `other`: (median, minimum, maximum) of the rounds' ratios."""
        own, others = (self.cpu, other.cpu) if cpu else (self.wall, other.wall)
        ratios = [theirs / ours for ours, theirs in zip(own, others, strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def orders(count: int, rounds: int) -> Iterator[range]:
    """Yields the order of the candidates in each round: A B C, then C B A.

    Other load on the machine then falls on all of them.
    """
    for turn in range(rounds):
        yield range(count) if turn % 2 == 0 else range(count - 1, -1, -1)


def take_turns(
    calls: Sequence[Callable[[], object]],
    device: torch.device,
    rounds: int,
    seconds: float = 0.0,
    warm_up: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> list[Timed]:
    """Times each call once a round, in the order of `orders`.

    Args:
        calls: What is timed.
        device: The device that is waited for after each turn.
        rounds: Turns of each call.
        seconds: Length of a turn; the call is repeated accordingly (0: called once).
        warm_up: Calls before the first round, which are not timed.
        say: Logs one line.
    """
    repeats = []
    for index, call in enumerate(calls):
        for _ in range(warm_up):
            call()
        wait_for(device)
        began = time.perf_counter()
        call()
        wait_for(device)
        taken = time.perf_counter() - began
        repeats.append(max(1, round(seconds / taken)))
        say(
            f"  {index + 1} of {len(calls)} warm: {1000 * taken:.1f} ms, {repeats[-1]} calls a turn"
        )
    timed = [Timed() for _ in calls]
    for turn, order in enumerate(orders(len(calls), rounds)):
        for index in order:
            wait_for(device)
            began, used = time.perf_counter(), time.process_time()
            for _ in range(repeats[index]):
                calls[index]()
            wait_for(device)
            timed[index].wall.append((time.perf_counter() - began) / repeats[index])
            timed[index].cpu.append((time.process_time() - used) / repeats[index])
        say(f"  round {turn + 1} of {rounds}")
    return timed


def matmul(device: torch.device, half: torch.dtype | None) -> Callable[[], float]:
    """Returns a function that measures the best FLOP/s of square matmuls in this precision."""
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
    """Returns torch's count of (forward, backward) operations of a loss.

    Attention runs as plain matrix products, the only form that the counter knows on every device.
    """
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            loss = work()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    return forward.get_total_flops(), backward.get_total_flops()


@contextmanager
def _counting_saved(model: nn.Module) -> Iterator[dict[int, int]]:
    """Yields {storage: bytes} of what autograd saves for the backward pass, without weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no address is reused

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def memory(
    model: nn.Module, step: Callable[[], None], forward: Callable[[], Tensor], device: torch.device
) -> int:
    """Returns bytes: a step's peak on a GPU; on a CPU what the forward saves for the backward."""
    if device.type == "cuda":
        step()
        wait_for(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        wait_for(device)
        return int(torch.cuda.max_memory_allocated(device))
    with _counting_saved(model) as saved:
        forward()
        return sum(saved.values())


def profile(
    step: Callable[[], None], device: torch.device, top: int = 10
) -> list[tuple[str, float]]:
    """Returns [(operation, fraction of the time)] of one step, the longest first.

    The time is that of the GPU's kernels, or the CPU's self time of each operation.
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
    """Returns the largest multiple of `unit` that fits, to within an eighth; 0 if none does.

    `start`, the first size that is tried, must be a multiple of `unit`.
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
