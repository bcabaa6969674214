"""Steps of all cases: equal to float64 on the CPU, and without waiting for the device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from simvtp.batch import Batch, Masks
from simvtp.bench.gpu.check_worker import Recorder
from simvtp.bench.gpu.step_cases import (
    StepCase,
    StepParts,
    build_parts,
    case_stage,
    small,
    step_cases,
)
from simvtp.models.common.forward_options import ForwardOptions
from simvtp.training.optim import build_optimizer
from simvtp.training.stage_run import StageRun

SAMPLES, CLASSES = 8, 10
MOVED = 0.02  # standard deviation of the noise on the initial weights, some of which are 0
CLOSE = 1e-5  # largest relative difference of float32 from float64
CLOSE_HALF = 1e-2  # of the loss in bf16
STEPS = 3  # without a wait, after one that may set things up
WAITING = ("base pack_text",)  # the number of words in a batch is read on the host


class HostDraws(TorchFunctionMode):
    """Draws uniform numbers on the CPU and moves them: dropout is the same on every device."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.rand and options.get("device") is not None:
            device = options.pop("device")
            return func(*args, **options, device="cpu").to(device)
        return func(*args, **options)


@dataclass(frozen=True)
class StepOutcome:
    """Outcome of one forward and backward pass, on the CPU in float64.

    Attributes:
        outputs: of the model.
        losses: of the objective.
        gradients: by parameter.
    """

    outputs: dict[str, Tensor]
    losses: dict[str, Tensor]
    gradients: dict[str, Tensor]


# ---- equality ------------------------------------------------------------------------------------


def check_equality(recorder: Recorder) -> None:
    """Compares masks, outputs, losses, gradients and an update of each case with float64."""
    worst: dict[str, tuple[float, str]] = {}
    masks_equal = True
    for case in _different(step_cases()):
        with recorder.attempt(case.name, needed=0.5):
            errors, same_masks = _compare(small(case), recorder.device)
            recorder.row("relative differences", case=case.name, masks=same_masks, **errors)
            masks_equal &= same_masks
            for name, error in errors.items():
                worst[name] = max(worst.get(name, (0.0, "")), (error, case.name))
    recorder.gate("all masks are those of the CPU, bit for bit", masks_equal)
    for name, (error, where) in worst.items():
        limit = CLOSE_HALF if name == "loss_in_bf16" else CLOSE
        if name == "gradients_in_bf16":
            continue  # shown, and no gate: it depends on the depth
        what = name.replace("_", " ")
        text = f"{what} differ by at most {limit:g} (at most {error:.1e}, {where})"
        recorder.gate(text, error <= limit)


def _different(cases: Sequence[StepCase]) -> list[StepCase]:
    """Returns the cases that differ in one forward and backward pass of small models."""
    found: dict[object, StepCase] = {}
    for case in cases:
        experiment = small(case).experiment
        carrying = tuple(pair for pair in case.carrying if pair[0] != "accumulate")
        wiring = (experiment.model, experiment.masks, experiment.losses, case.task, carrying)
        found.setdefault(wiring, case)
    return list(found.values())


def _compare(case: StepCase, device: torch.device) -> tuple[dict[str, float], bool]:
    """Returns the relative differences of a case, and whether its masks are equal."""
    parts = build_parts(case, SAMPLES, CLASSES)
    _disturb(parts.model)
    masks, same = _draw_masks(parts, device)
    reference = run_case(parts, parts.model.double(), parts.batch, masks, case)
    single = copy.deepcopy(parts.model).float().to(device)
    batch, moved = parts.batch.to(device), move_masks(masks, device)
    own = run_case(parts, single, batch, moved, case)
    half = run_case(parts, copy.deepcopy(single), batch, moved, case, torch.bfloat16)
    return {
        "outputs": difference(own.outputs, reference.outputs),
        "losses": difference(own.losses, reference.losses),
        "gradients": difference(own.gradients, reference.gradients),
        "weights_after_an_update": _updated_difference(parts, single, reference.gradients),
        "loss_in_bf16": difference(half.losses, reference.losses),
        "gradients_in_bf16": difference(half.gradients, reference.gradients),
    }, same


def _disturb(model: nn.Module) -> None:
    """Adds noise to all weights, so that nothing is without effect."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(MOVED * torch.randn(parameter.shape, generator=generator))


def _draw_masks(parts: StepParts, device: torch.device) -> tuple[Masks | None, bool]:
    """Returns the masks drawn on the CPU, and whether the device draws the same."""
    if parts.draw is None:
        return None, True
    own, other = parts.draw(parts.batch, 3, 0), parts.draw(parts.batch.to(device), 3, 0)
    return own, all(
        _same(getattr(own, field.name), getattr(other, field.name)) for field in fields(own)
    )


def _same(own: Any, other: Any) -> bool:
    if not isinstance(own, Tensor):
        return bool(own == other)
    if own.is_floating_point():  # the noise of negatives, a logarithm
        return torch.allclose(own, other.cpu(), rtol=1e-5)
    return torch.equal(own, other.cpu())


def move_masks(masks: Masks | None, device: torch.device) -> Masks | None:
    """Returns masks with their tensors on `device`."""
    if masks is None:
        return None
    held = {field.name: getattr(masks, field.name) for field in fields(masks)}
    moved = {name: value.to(device) for name, value in held.items() if isinstance(value, Tensor)}
    return replace(masks, **moved)


def run_case(
    parts: StepParts,
    model: nn.Module,
    batch: Batch,
    masks: Masks | None,
    case: StepCase,
    half: torch.dtype | None = None,
) -> StepOutcome:
    """Runs forward and backward of `model`, whose gradients it leaves there."""
    known = {name: value for name, value in case.carrying if name != "accumulate"}
    model.train()
    model.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    device = batch.clips.device.type
    with HostDraws(), torch.autocast(device, half or torch.bfloat16, enabled=half is not None):
        outputs = model(batch, masks, ForwardOptions(**known))
    normalizers = parts.objective.loss_normalizers([masks])
    losses, _ = parts.objective(outputs, normalizers)
    torch.stack(list(losses.values())).sum().backward()
    gradients = {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return StepOutcome(_on_host(outputs), _on_host(losses), _on_host(gradients))


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: value.detach().to("cpu", torch.float64)
        for name, value in tensors.items()
        if value.is_floating_point()
    }


def difference(own: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """Returns the norm of the difference over that of the reference, of all tensors together.

    It is infinite if a value is not finite, or if another tensor is there.
    """
    if own.keys() != reference.keys():
        return float("inf")
    off = size = 0.0
    for name, value in reference.items():
        known = torch.isfinite(value)  # an absent candidate has the score minus infinity in both
        if not torch.equal(known, torch.isfinite(own[name])):
            return float("inf")
        off += float((own[name] - value)[known].square().sum())
        size += float(value[known].square().sum())
    return (off / size) ** 0.5 if size else float(off > 0)


def _updated_difference(
    parts: StepParts, model: nn.Module, gradients: Mapping[str, Tensor]
) -> float:
    """Returns how far an update by the same gradients differs, over the length of the update.

    The first update of AdamW is as long for a gradient of 1e-9 as for one of 1: of two gradients
    that differ by rounding it would show the signs, not the update.
    """
    references = dict(parts.model.named_parameters())
    before = {name: value.detach().clone() for name, value in references.items()}
    for name, parameter in model.named_parameters():
        rounded = gradients[name].float() if name in gradients else None
        parameter.grad = None if rounded is None else rounded.to(parameter.device)
        references[name].grad = None if rounded is None else rounded.double()
        references[name].data.copy_(parameter.detach())
        before[name] = references[name].detach().clone()
    for held in (model, parts.model):
        device = next(held.parameters()).device
        optimizer = build_optimizer(held, parts.train, device)
        for group in optimizer.param_groups:
            group["lr"] = 0.1  # so long that rounding of the weights themselves is small
        optimizer.step()
    own = {name: value.detach().cpu().double() for name, value in model.named_parameters()}
    moved = {name: value.detach() - before[name] for name, value in references.items()}
    return difference({name: own[name] - before[name] for name in own}, moved)


# ---- waits ---------------------------------------------------------------------------------------


def check_waits(recorder: Recorder) -> None:
    """Runs the project's own step of each case while torch raises where the host waits."""
    waiting = []
    for case in step_cases():
        with recorder.attempt(case.name, needed=0.3):
            wait = _first_wait(small(case), recorder.device)
            if wait:
                waiting.append(case.name)
                recorder.row("waits", case=case.name, first=wait)
    if recorder.device.type == "cuda":
        extra = sorted(set(waiting) - set(WAITING))
        listed = f" ({', '.join(extra)} wait)" if extra else ""
        recorder.gate(f"no step waits for the device, but that of {WAITING[0]}{listed}", not extra)


def _first_wait(case: StepCase, device: torch.device) -> str:
    """Returns the first line of what torch says about a wait; empty without one."""
    parts = build_parts(case, SAMPLES, CLASSES)
    stage = case_stage(case, replace(parts.train, batch_size=SAMPLES), str(device), Path("."))
    run = StageRun(stage, parts.model, parts.objective, parts.draw, None, None, None, lambda: None)
    run.step(parts.batch)
    try:
        with _raising_waits(device):
            for _ in range(STEPS):
                run.step(parts.batch)
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        return str(error).splitlines()[0]
    if not bool(torch.isfinite(run.window.sums).all() if run.window.sums is not None else False):
        raise AssertionError("a loss is not finite")
    return ""


@contextmanager
def _raising_waits(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
