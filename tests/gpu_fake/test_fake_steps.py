"""A step of each case on a GPU that is not there: devices, waits, copies, launches.

Values and speeds are not those of a GPU; shapes, dtypes, devices and operations are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from simvtp.bench.gpu.step_cases import StepCase, step_cases
from tests.gpu_fake.fake_gpu import DEVICE, DeviceWatch, fake_gpu
from tests.gpu_fake.fake_step import PACKED, fake_step, read_table

FAST = (
    *("base", "base merge_passes", "base fp16", "released", "clean text, hard negatives"),
    *("mask block", "words as BERT", "mac nearest", "mac one frame first", "frozen"),
    *("task retrieval masks", "task action mixup", "task qa choice", "task grounding"),
)
TOLERANCE = 0.02  # of the launches: other versions of torch cut some operations differently


def cases() -> Iterator[Any]:
    for case in step_cases():
        if case.name != PACKED:
            marks = [] if case.name in FAST else [pytest.mark.slow]
            yield pytest.param(case, id=case.name, marks=marks)


@pytest.mark.parametrize("case", cases())
def test_a_step_waits_for_nothing_and_launches_what_the_table_says(case: StepCase) -> None:
    step, expected = fake_step(case), read_table()[case.name]
    assert step.devices == (str(DEVICE),)
    assert not step.waits
    assert not [copy for copy in step.copies if "BLOCKING" in copy]
    # the batch is pinned once and copied once, tensor by tensor
    assert step.pinned == {"stage_run.py": 1}
    assert {copy.partition(": ")[2] for copy in step.copies} == {"batch.py"}
    assert step.copies == expected["copies"] and step.attention == expected["attention"]
    assert step.launches == pytest.approx(expected["launches"], rel=TOLERANCE), (
        "launches have changed: if that is meant, write the table again by "
        "`python -m tests.gpu_fake`"
    )


def test_packed_text_needs_a_value_on_the_host() -> None:
    """So `runtime.pack_text=auto` is off on a GPU."""
    packed = next(case for case in step_cases() if case.name == PACKED)
    with pytest.raises(DynamicOutputShapeException, match="nonzero"):
        fake_step(packed)


def test_the_table_has_every_case() -> None:
    assert set(read_table()) == {case.name for case in step_cases()} - {PACKED}


# ---- the stand-in itself -------------------------------------------------------------------------


class Faulty(nn.Module):
    """A layer with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.linear = fault, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.fault == "other device":
            return self.linear(x) + torch.ones(8, 4)
        if self.fault == "read":
            return self.linear(x) * float(x.sum())
        if self.fault == "list":
            return self.linear(x) * torch.tensor([1.0, 2.0, 3.0, 4.0], device=x.device)
        return self.linear(x)


def run_faulty(fault: str) -> DeviceWatch:
    watch = DeviceWatch()
    with fake_gpu(watch):
        model = Faulty(fault).to(DEVICE)
        x = torch.ones(8, 4, device=DEVICE)
        with watch:
            model(x).square().sum().backward()
        gradient = model.linear.weight.grad
        assert gradient is not None and gradient.device == DEVICE and gradient.shape == (4, 4)
    return watch


def test_faults_are_noticed() -> None:
    assert not run_faulty("").copies
    with pytest.raises(Exception, match="(?i)device"):
        run_faulty("other device")
    with pytest.raises(Exception, match="_local_scalar_dense"):
        run_faulty("read")
    assert any("BLOCKING" in copy for copy in run_faulty("list").copies)
