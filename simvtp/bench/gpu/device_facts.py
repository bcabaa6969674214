"""Facts of a device: driver, libraries, kernels of attention, bandwidth and matrix products."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from simvtp.bench.gpu.attention_kernels import report_kernels
from simvtp.bench.gpu.check_worker import Recorder
from simvtp.training.step_flops import peak

KERNEL_SIZE = 8192  # side of the square matrices
COPIED_BYTES = 2**32  # read once and written once: 8.6 GB of traffic


@dataclass(frozen=True)
class Ceiling:
    """Least that a device of this name must show.

    Attributes:
        bandwidth: bytes a second of a copy, read and written.
        products: FLOP/s of large matrix products in bf16.
    """

    bandwidth: float
    products: float


# five sixths of the bandwidth and three quarters of the products of the data sheet
CEILINGS = {"H200": Ceiling(4.0e12, 750e12), "H100": Ceiling(2.8e12, 740e12)}


# ---- versions ------------------------------------------------------------------------------------


def check_versions(recorder: Recorder) -> None:
    """Reports versions, NVML, the kernels of attention, and whether Triton works."""
    device = recorder.device
    facts: dict[str, str | int | float | None] = {
        "torch": torch.__version__,
        "CUDA of torch": torch.version.cuda,
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        facts |= _gpu_facts(device)
    for name, value in facts.items():
        recorder.row("facts", fact=name, value=value)
    if device.type == "cuda":
        for name, value in _nvml(device).items():
            recorder.row("facts", fact=name, value=value)
    with recorder.attempt("kernels of attention"):
        report_kernels(recorder)
    if device.type == "cuda":
        with recorder.attempt("Triton", needed=5):
            recorder.gate("Triton compiles a kernel that computes right", _triton_works(device))


def _gpu_facts(device: torch.device) -> dict[str, str | int | float | None]:
    properties = torch.cuda.get_device_properties(device)
    driver = Path("/proc/driver/nvidia/version")
    line = driver.read_text().splitlines()[0] if driver.exists() else ""
    found = re.search(r"\d+\.\d+(\.\d+)?", line)
    return {
        "name": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory, GiB": round(properties.total_memory / 2**30, 1),
        "driver": found[0] if found else None,
        "cuDNN": torch.backends.cudnn.version(),
        "cuDNN loaded from": _loaded_library("libcudnn"),
        "visible GPUs": torch.cuda.device_count(),
    }


def _loaded_library(name: str) -> str | None:
    """Returns the file of a library that this process has loaded."""
    maps = Path(f"/proc/{os.getpid()}/maps").read_text()
    found = re.search(rf"/\S*{name}\S*", maps)
    return found[0] if found else None


def _nvml(device: torch.device) -> dict[str, float | str]:
    """Returns what NVML says of the device, or why it says nothing.

    torch asks it through the package nvidia-ml-py.
    """
    try:
        return {
            "utilization, %": torch.cuda.utilization(device),
            "SM clock, MHz": torch.cuda.clock_rate(device),
            "power, W": torch.cuda.power_draw(device) / 1000,
            "temperature, °C": torch.cuda.temperature(device),
        }
    except Exception as error:  # NVML's errors are of classes of its own, derived from Exception
        return {"NVML": f"{type(error).__name__}: {error}"}


def _triton_works(device: torch.device) -> bool:
    compiled = torch.compile(_pointwise)
    x = torch.linspace(-2, 2, 4096, device=device)
    return torch.allclose(compiled(x), _pointwise(x), atol=1e-5)


def _pointwise(x: Tensor) -> Tensor:
    return F.gelu(x) * 2 + 1


# ---- ceilings ------------------------------------------------------------------------------------


def measure_ceilings(recorder: Recorder) -> None:
    """Reports the bandwidth of a copy and the speed of matrix products of the model's shapes."""
    bandwidth, best = 0.0, 0.0
    with recorder.attempt("copy"):
        bandwidth = _copy_bandwidth(recorder)
    with recorder.attempt("matrix products"):
        best = _fastest_product(recorder)
    if recorder.device.type == "cuda":
        _gate_ceilings(recorder, torch.cuda.get_device_name(recorder.device), bandwidth, best)


def _copy_bandwidth(recorder: Recorder) -> float:
    """Returns bytes a second, read and written."""
    copied = 2**26 if recorder.tiny else COPIED_BYTES
    source = torch.zeros(copied, dtype=torch.uint8, device=recorder.device)
    target = torch.empty_like(source)
    seconds = recorder.time(lambda: target.copy_(source))
    recorder.row("copy", bytes=2 * copied, ms=1000 * seconds, GB_per_s=2 * copied / seconds / 1e9)
    return 2 * copied / seconds


def _fastest_product(recorder: Recorder) -> float:
    """Returns the most FLOP/s of all products."""
    dtype = torch.float32 if recorder.tiny else torch.bfloat16
    best = 0.0
    for rows, inner, columns in _products(recorder.tiny):
        a = torch.randn(rows, inner, device=recorder.device, dtype=dtype)
        b = torch.randn(inner, columns, device=recorder.device, dtype=dtype)
        seconds = recorder.time(functools.partial(torch.mm, a, b))
        rate = 2 * rows * inner * columns / seconds
        best = max(best, rate)
        recorder.row(
            f"matrix products in {str(dtype)[6:]}",
            rows=rows,
            inner=inner,
            columns=columns,
            ms=1000 * seconds,
            TFLOP_per_s=rate / 1e12,
        )
    return best


def _products(tiny: bool) -> Iterator[tuple[int, int, int]]:
    """Yields (rows, inner, columns): a large square, then the layers of encoder and decoder."""
    side = KERNEL_SIZE // 16 if tiny else KERNEL_SIZE
    yield side, side, side
    rows = 2048 if tiny else 128 * 192  # tokens of the pair pass of 128 samples
    for inner, columns in ((768, 2304), (768, 3072), (3072, 768)):
        yield rows, inner, columns
    rows = 1024 if tiny else 128 * 1568  # tokens of the decoder
    for inner, columns in ((384, 1152), (384, 1536), (1536, 384)):
        yield rows, inner, columns


def _gate_ceilings(recorder: Recorder, name: str, bandwidth: float, best: float) -> None:
    limits = next((value for part, value in CEILINGS.items() if part in name.split()), None)
    most = peak(name)
    recorder.row(
        "device",
        name=name,
        bf16_peak_in_TFLOP_per_s=most / 1e12 if most else None,
        best_product_of_the_peak=best / most if most else None,
    )
    if limits is not None:
        text = f"a copy moves {limits.bandwidth / 1e12:g} TB/s or more"
        recorder.gate(text, bandwidth >= limits.bandwidth)
        text = f"a matrix product reaches {limits.products / 1e12:g} TFLOP/s or more"
        recorder.gate(text, best >= limits.products)
