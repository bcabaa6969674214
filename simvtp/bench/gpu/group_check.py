"""Process groups of one process: what several GPUs need, as far as one GPU can show it."""

from __future__ import annotations

import contextlib
import copy
import socket
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from simvtp.bench.gpu.case_checks import CLOSE, difference, move_masks
from simvtp.bench.gpu.check_worker import Recorder
from simvtp.bench.gpu.step_cases import StepParts, build_parts, small, step_cases
from simvtp.compat.gloo_threads import single_threaded_gloo
from simvtp.training.losses import GatherRows
from simvtp.training.parallel.parallel_model import gather_full, shard_blocks

SAMPLES = 8


def check_group(recorder: Recorder) -> None:
    """Forms a group of this process alone, and runs what several would."""
    backend = "nccl" if recorder.device.type == "cuda" else single_threaded_gloo()
    with recorder.attempt("group"), _group(backend, recorder.device):
        recorder.gate(f"a group of {_named(backend)} forms", dist.is_initialized())
        with recorder.attempt("collectives"):
            _check_collectives(recorder)
        with recorder.attempt("gloo next to it"):
            votes: Any = dist.new_group(backend=single_threaded_gloo())
            ballot = torch.ones(1)
            dist.all_reduce(ballot, group=votes)
            recorder.gate("a group of gloo forms next to it", float(ballot) == 1)
        with recorder.attempt("replicas and shards"):
            _check_models(recorder)


def _named(backend: str) -> str:
    return "gloo" if backend.startswith("gloo") else backend


@contextlib.contextmanager
def _group(backend: str, device: torch.device) -> Iterator[None]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    store = dist.TCPStore("127.0.0.1", port, 1, is_master=True)
    of_device: dict[str, Any] = {"device_id": device} if backend == "nccl" else {}
    dist.init_process_group(backend, store=store, rank=0, world_size=1, **of_device)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _check_collectives(recorder: Recorder) -> None:
    device = recorder.device
    box: list[Any] = [{"step": 3}]
    dist.broadcast_object_list(box, src=0)
    gathered: list[Any] = [None]
    dist.all_gather_object(gathered, "rank 0")
    recorder.gate(
        "objects are broadcast and gathered", box == [{"step": 3}] and gathered == ["rank 0"]
    )
    rows = torch.randn(4, 8, device=device, requires_grad=True)
    apply: Any = GatherRows.apply
    all_rows: Tensor = apply(rows)
    all_rows.square().sum().backward()
    assert rows.grad is not None
    same = torch.equal(all_rows, rows) and torch.allclose(rows.grad, 2 * rows.detach())
    recorder.gate("rows are gathered with their gradient", same)
    large = torch.zeros(2**20 if recorder.tiny else 2**26, device=device)
    seconds = recorder.time(lambda: dist.all_reduce(large), 0.1)
    recorder.row("all-reduce of one process", bytes=large.nbytes, ms=1000 * seconds)


def _check_models(recorder: Recorder) -> None:
    """Compares gradients through DDP and FSDP2 with those of the plain model."""
    device = recorder.device
    parts = build_parts(small(step_cases()[0]), SAMPLES)
    plain = _gradients(parts, copy.deepcopy(parts.model).to(device), device)
    replica = DistributedDataParallel(
        copy.deepcopy(parts.model).to(device), gradient_as_bucket_view=True
    )
    _report_gradients(recorder, "DDP", difference(_gradients(parts, replica, device), plain))
    sharded = copy.deepcopy(parts.model).to(device)
    shard_blocks(sharded, init_device_mesh(device.type, (1,)))
    _report_gradients(recorder, "FSDP2", difference(_gradients(parts, sharded, device), plain))


def _report_gradients(recorder: Recorder, wrapper: str, off: float) -> None:
    recorder.row("gradients against those of the plain model", of=wrapper, difference=off)
    recorder.gate(f"gradients through {wrapper} are those without it", off <= CLOSE)


def _gradients(parts: StepParts, model: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """Returns the gradients on the CPU, in float64."""
    assert parts.draw is not None
    masks = move_masks(parts.draw(parts.batch, 0, 0), device)
    torch.manual_seed(0)
    outputs = model(parts.batch.to(device), masks)
    losses, _ = parts.objective(outputs, parts.objective.loss_normalizers([masks]))
    torch.stack(list(losses.values())).sum().backward()
    found = {
        name.removeprefix("module."): gather_full(parameter.grad)
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return {name: value.detach().cpu().double() for name, value in found.items()}
