"""Speed of the training step on a device: eager, merged, compiled, graphed; peers; MAC."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from simvtp.batch import Batch
from simvtp.bench.gpu.case_checks import move_masks
from simvtp.bench.gpu.check_worker import Recorder
from simvtp.bench.gpu.step_cases import StepParts, build_parts, small, step_cases
from simvtp.bench.measure import profile, wait_for
from simvtp.bench.step.implementations import OURS
from simvtp.bench.step.mac_speed import MacSpeedOptions, measure_mac
from simvtp.bench.step.sizes import random_batch
from simvtp.bench.step.step_speed import StepSpeedOptions, measure_step, reference
from simvtp.config.train_config import TrainConfig
from simvtp.training.optim import build_optimizer
from simvtp.training.stage import Stage
from simvtp.training.stage_run import StageRun
from simvtp.training.step_flops import count_step, peak, shapes_of, weightless

COUNTED = 8  # samples on which operations are counted
WARM_UP = 3
LONGEST = 20  # kernels that are listed


@dataclass(frozen=True)
class StepVariant:
    """A way to carry the step of `base`.

    Attributes:
        name: of the variant.
        samples: of a step.
        needed: seconds that it takes.
        carrying: settings of `Stage`.
        graphed: recorded once as a CUDA graph, and replayed.
    """

    name: str
    samples: int
    needed: float
    carrying: tuple[tuple[str, Any], ...] = ()
    graphed: bool = False


# the most telling first, because the time may end before the last
VARIANTS = (
    StepVariant("eager", 128, 5),
    StepVariant("compiled", 128, 20, (("compile", True),)),
    StepVariant("merged passes", 128, 5, (("merge_passes", True),)),
    StepVariant("CUDA graph", 64, 6, graphed=True),
    StepVariant("eager", 64, 4),
    StepVariant("eager", 256, 6),
    StepVariant("merged and compiled", 128, 20, (("compile", True), ("merge_passes", True))),
    StepVariant("compiled", 256, 10, (("compile", True),)),
)
TINY_VARIANTS = (
    StepVariant("eager", 4, 1),
    StepVariant("merged passes", 4, 1, (("merge_passes", True),)),
)
# least clips a second of a device of this name, by variant
LEAST_RATES = {"H200": {"eager": 600.0, "compiled": 800.0}}


@dataclass(frozen=True)
class StepRate:
    """Measured speed of a variant.

    Attributes:
        seconds: of a step.
        issue_s: until the host has issued a step, without waiting for the device.
        peak_bytes: most memory of the device in use; 0 on a CPU.
    """

    seconds: float
    issue_s: float
    peak_bytes: int


# ---- the step of base ----------------------------------------------------------------------------


def measure_step_rates(recorder: Recorder) -> None:
    """Reports time, memory and launches of the project's own step of `base` in each variant."""
    case, precision = step_cases()[0], "bf16"
    variants: tuple[StepVariant, ...] = VARIANTS
    if recorder.tiny:
        case, variants = small(case), TINY_VARIANTS
    largest = max(variant.samples for variant in variants)
    parts = build_parts(case, COUNTED)
    flops = count_flops(parts)
    batch = random_batch(case.experiment.model, largest)
    if recorder.device.type == "cuda":
        batch = batch.pin_memory()
    rates: dict[str, float] = {}
    for variant in variants:
        name = f"{variant.name}, {variant.samples} samples"
        needed = 0.0 if recorder.tiny else variant.needed
        with recorder.attempt(name, needed, optional=variant.graphed):
            own = batch.part(0, variant.samples)
            rate = _measure_variant(recorder, variant, parts, own, precision)
            _report_rate(recorder, variant, rate, flops)
            clips = variant.samples / rate.seconds
            rates[variant.name] = max(clips, rates.get(variant.name, 0.0))
    _gate_rates(recorder, rates)
    if recorder.left() > (0 if recorder.tiny else 5):
        with recorder.attempt("profile", optional=True):
            _report_profile(recorder, parts, batch.part(0, variants[0].samples), precision)


def count_flops(parts: StepParts) -> float:
    """Returns the operations of forward and backward for one sample."""
    assert parts.draw is not None
    masks = parts.draw(parts.batch, 0, 0)
    counted = count_step(weightless(parts.model), *shapes_of(parts.batch, masks))
    return (counted or 0) / len(parts.batch)


def _stage(samples: int, precision: str, device: torch.device, carrying: dict[str, Any]) -> Stage:
    train = TrainConfig(batch_size=samples, precision=precision, clip_norm=1.0)  # type: ignore[arg-type]
    return Stage(
        name="pretrain",
        train=train,
        total_steps=1000,
        seed=0,
        directory=Path("nowhere"),  # nothing is saved
        fingerprint="0" * 64,
        device=str(device),
        log_every=1000,
        **carrying,
    )


def step_call(
    parts: StepParts, batch: Batch, precision: str, device: torch.device, **carrying: Any
) -> Callable[[], None]:
    """Returns a function that makes one step of the project's own loop on `batch`."""
    stage = _stage(len(batch), precision, device, carrying)
    model = copy.deepcopy(parts.model)
    run = StageRun(stage, model, parts.objective, parts.draw, None, None, None, lambda: None)

    def step() -> None:
        run.step(batch)
        if run.window.steps == stage.log_every:
            run.check_finite()

    return step


def _measure_variant(
    recorder: Recorder, variant: StepVariant, parts: StepParts, batch: Batch, precision: str
) -> StepRate:
    device = recorder.device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    if variant.graphed:
        step = _graphed_step(parts, batch, device)
    else:
        step = step_call(parts, batch, precision, device, **dict(variant.carrying))
    rate = _time_step(step, device, 0.0 if recorder.tiny else 1.5)
    if not variant.graphed and device.type == "cuda":
        recorder.row("launches of a step", variant=variant.name, launches=_launches(step, device))
    return rate


def _time_step(step: Callable[[], None], device: torch.device, seconds: float) -> StepRate:
    for _ in range(WARM_UP):
        step()
    wait_for(device)
    began = time.perf_counter()
    step()
    wait_for(device)
    count = max(2, round(seconds / (time.perf_counter() - began)))
    began = time.perf_counter()
    for _ in range(count):
        step()
    issued = time.perf_counter() - began
    wait_for(device)
    taken = time.perf_counter() - began
    used = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return StepRate(taken / count, issued / count, used)


def _graphed_step(parts: StepParts, batch: Batch, device: torch.device) -> Callable[[], None]:
    """Returns a function that replays forward, backward and update on a fixed batch and masks."""
    assert parts.draw is not None
    model = copy.deepcopy(parts.model).to(device).train()
    moved = batch.to(device)
    masks = move_masks(parts.draw(moved, 0, 0), device)
    optimizer = build_optimizer(model, TrainConfig(), device)
    for group in optimizer.param_groups:
        group["capturable"] = True

    def body() -> None:
        # without autocast's cache: a graph must not refer to copies that were made outside of it
        with torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False):
            outputs = model(moved, masks)
        losses, _ = parts.objective(outputs, parts.objective.loss_normalizers([masks]))
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            body()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph.replay


def _launches(step: Callable[[], None], device: torch.device) -> int:
    """Returns the number of kernels that one step launches."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recording

    with recording(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record:
        step()
        wait_for(device)
    names = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
    return sum(event.count for event in record.key_averages() if event.key in names)


def _report_rate(recorder: Recorder, variant: StepVariant, rate: StepRate, flops: float) -> None:
    device = recorder.device
    clips = variant.samples / rate.seconds
    most = peak(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    recorder.row(
        "steps of base in bf16" if not recorder.tiny else "steps of a small model in bf16",
        variant=variant.name,
        samples=variant.samples,
        ms=1000 * rate.seconds,
        clips_per_s=clips,
        MFU=flops * clips / most if most else None,
        host_share=rate.issue_s / rate.seconds,
        peak_GiB=rate.peak_bytes / 2**30 or None,
    )


def _gate_rates(recorder: Recorder, rates: dict[str, float]) -> None:
    if recorder.device.type != "cuda":
        return
    words = torch.cuda.get_device_name(recorder.device).split()
    limits = next((value for name, value in LEAST_RATES.items() if name in words), {})
    for name, least in limits.items():
        found = rates.get(name, 0.0)
        text = f"{name}: {least:g} clips/s or more ({found:.0f})"
        recorder.gate(text, found >= least)


def _report_profile(recorder: Recorder, parts: StepParts, batch: Batch, precision: str) -> None:
    step = step_call(parts, batch, precision, recorder.device)
    for name, share in profile(step, recorder.device, LONGEST):
        recorder.row("longest operations, eager", operation=name[:80], share_of_time=share)


# ---- peers and MAC -------------------------------------------------------------------------------


def measure_peers(recorder: Recorder) -> None:
    """Compares our step with transformers' VideoMAE (MVM) and with the released structure."""
    for what, least in (("mvm", 1.0), ("all", 1.6)):
        with recorder.attempt(f"peers, {what}", needed=0 if recorder.tiny else 10):
            options = StepSpeedOptions(
                size="tiny" if recorder.tiny else "base",
                what=what,
                batch=4 if recorder.tiny else 64,
                precisions=("bf16",),
                rounds=1 if recorder.tiny else 3,
                seconds=0.0 if recorder.tiny else 1.0,
                ceiling=False,
            )
            config = None
            if recorder.tiny:
                config = small(step_cases()[0]).experiment.model
            rows = measure_step(options, recorder.device, lambda line: None, config)  # type: ignore[arg-type]
            ours = next(row for row in rows if row.name == OURS)
            peer = reference(rows, ours)
            ratio = ours.time.ratio(peer.time)[0]
            recorder.row(
                "our step over another's, bf16",
                losses=what,
                peer=peer.name,
                ms=1000 * ours.time.seconds,
                peer_ms=1000 * peer.time.seconds,
                speed_up=ratio,
                peak_GiB=ours.memory / 2**30,
                peer_peak_GiB=peer.memory / 2**30,
            )
            if recorder.device.type == "cuda":
                text = f"our step is {least:g} times as fast as that of {peer.name} or faster"
                recorder.gate(text, ratio >= least)


def measure_mac_rates(recorder: Recorder) -> None:
    """Reports the step of MAC by the ratio of hidden patches."""
    options = MacSpeedOptions(
        size="tiny" if recorder.tiny else "base",
        ratios=(0.0, 0.6, 0.9),
        batch=4 if recorder.tiny else 64,
        precision="fp32" if recorder.tiny else "bf16",
        rounds=1 if recorder.tiny else 2,
        seconds=0.0 if recorder.tiny else 1.0,
    )
    rows = measure_mac(options, recorder.device, lambda line: None)
    for row in rows:
        recorder.row(
            "MAC with hidden patches",
            hidden=row.ratio,
            ms=1000 * row.time.seconds,
            times_the_first=row.time.ratio(rows[0].time)[0],
            operations_of_the_first=row.flops / rows[0].flops,
            memory_GiB=row.memory / 2**30,
        )
    fewer = rows[1].memory < rows[0].memory
    recorder.gate("hidden patches need less memory", fewer)
