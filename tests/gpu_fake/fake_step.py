"""One training step of a case on the GPU that is not there, and the committed table of counts.

`python -m tests.gpu_fake` prints what has changed and writes the table again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simvtp.bench.gpu.step_cases import StepCase, build_parts, case_stage, shallow
from simvtp.training.stage_run import StageRun
from tests.gpu_fake.fake_gpu import DeviceWatch, fake_gpu

TABLE = Path(__file__).with_name("launches.json")
SAMPLES = 8
PACKED = "base pack_text"  # the number of words is read on the host: off on a GPU by default


@dataclass(frozen=True)
class FakeStep:
    """Counts of one step, after a first one that may set things up.

    Attributes:
        launches: kernels.
        attention: launches of attention in forward passes, by kernel.
        copies: copies between devices, by kind and place.
        waits: waits of the host, by operation and place.
        pinned: calls that pin memory, by place.
        devices: on which parameters and buffers lie.
    """

    launches: int
    attention: dict[str, int]
    copies: dict[str, int]
    waits: dict[str, int]
    pinned: dict[str, int]
    devices: tuple[str, ...]

    def counts(self) -> dict[str, Any]:
        """Returns what the table holds."""
        return {"launches": self.launches, "attention": self.attention, "copies": self.copies}


def fake_step(case: StepCase, samples: int = SAMPLES) -> FakeStep:
    """Runs the project's own step of a case, shallow, and returns what it asks of the device."""
    case, watch = shallow(case), DeviceWatch()
    with fake_gpu(watch) as pinned:
        parts = build_parts(case, samples)
        stage = case_stage(
            case, replace(parts.train, batch_size=samples), "cuda:0", Path("nowhere")
        )
        run = StageRun(stage, parts.model, parts.objective, parts.draw, None, None, None, _nothing)
        run.parallel.model.train()
        with watch:
            run.step(parts.batch)
            watch.reset()
            pinned.clear()
            run.step(parts.batch)
        held = [*run.parallel.model.parameters(), *run.parallel.model.buffers()]
        devices = tuple(sorted({str(one.device) for one in held}))
    return FakeStep(
        watch.total(),
        dict(sorted(watch.attention.items())),
        dict(sorted(watch.copies.items())),
        dict(sorted(watch.waits.items())),
        dict(sorted(pinned.items())),
        devices,
    )


def _nothing() -> None:
    return None


def read_table() -> dict[str, Any]:
    """Returns {case: counts} of the committed table."""
    table: dict[str, Any] = json.loads(TABLE.read_text())
    return table
