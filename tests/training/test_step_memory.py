"""The memory of a step, counted without values, against a real step; the micro-batch chosen by it.

Real: the bytes that torch's allocator on the CPU gives and takes back in a step of the training
loop. A GPU is planted as a number of bytes that the device has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from simvtp.bench.gpu.step_cases import StepCase, build_parts, case_stage, small, step_cases
from simvtp.config.train_config import LossConfig
from simvtp.errors import DeviceMemoryExhausted
from simvtp.models.common.forward_options import ForwardOptions
from simvtp.training.objectives import PretrainObjective
from simvtp.training.parallel import micro_batch
from simvtp.training.parallel.batch_split import divisors
from simvtp.training.parallel.micro_batch import CONTEXT, REMAINDERS, fitting_samples, usable
from simvtp.training.parallel.step_memory import Line, StepMemory, count_memory
from simvtp.training.stage_run import StageRun
from tests.training.test_device_memory import built
from tests.training.training_runs import TRAIN, draw, make_batch, make_model, metrics, pretrain

MIB = 2**20
SAMPLES = 48  # of a micro-batch; two are a step
DEVIATION = 0.12  # of the counted bytes from the real ones, at most: measured -9.7 % to -0.4 %
CASES = {case.name: case for case in step_cases()}


def widened(case: StepCase) -> StepCase:
    """Returns a small case whose tensors are large against what kernels use for themselves."""
    case = small(case)
    model = replace(case.experiment.model, image_size=64, dim=128, depth=4)
    return replace(case, experiment=replace(case.experiment, model=model))


def allocated(work: Callable[[], None]) -> int:
    """Returns the most bytes that the allocator has given out since the beginning of `work`."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    results: Any = record.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    total = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        most = max(most, total)
    return most


def counted_and_real(case: StepCase, checkpointed: bool) -> tuple[int, int]:
    """Returns the bytes that a step allocates, counted and real."""
    parts = build_parts(case, 2 * SAMPLES, classes=10)
    carrying = (("accumulate", 2), ("gradient_checkpointing", checkpointed))
    train = replace(parts.train, batch_size=2 * SAMPLES)
    stage = case_stage(replace(case, carrying=carrying), train, "cpu", Path("nowhere"))
    run = StageRun(stage, parts.model, parts.objective, parts.draw, None, None, None, lambda: None)
    options = ForwardOptions(gradient_checkpointing=checkpointed)
    memory = count_memory(
        parts.model, parts.objective, parts.draw, parts.batch, train, options, on_gpu=False
    )
    run.step(parts.batch)  # makes the states of AdamW
    real = allocated(lambda: run.step(parts.batch))
    there = memory.held + 2 * memory.trained + memory.averaged
    clips = sum(
        value.numel() * value.element_size()
        for value in vars(parts.batch).values()
        if isinstance(value, torch.Tensor)
    )
    return memory.peak(SAMPLES, 2 * SAMPLES) - there - clips, real


def cases() -> Iterator[Any]:
    for name in ("base", "mac", "task retrieval dual"):
        for checkpointed in (False, True):
            quick = name.startswith("task") and not checkpointed
            yield pytest.param(name, checkpointed, marks=[] if quick else [pytest.mark.slow])


@pytest.mark.parametrize(("name", "checkpointed"), cases())
def test_the_count_is_that_of_a_real_step(name: str, checkpointed: bool) -> None:
    counted, real = counted_and_real(widened(CASES[name]), checkpointed)
    print(f"{name}, checkpointed {checkpointed}: {counted / real - 1:+.1%} of {real / MIB:.1f} MiB")
    assert counted == pytest.approx(real, rel=DEVIATION)


# ---- the choice ----------------------------------------------------------------------------------

LINES = Line(10.0 * MIB, 4.0 * MIB), Line(12.0 * MIB, 3.0 * MIB)
PLANTED = StepMemory(40 * MIB, 30 * MIB, 0, 10 * MIB, 2 * MIB, MIB, *LINES)


def room_for(need: float) -> float:
    """Returns the memory of a device that has just room for `need` counted bytes."""
    return (need + CONTEXT) / (1 - REMAINDERS) + 1


@pytest.mark.parametrize("mine", [1, 2, 6, 7, 96, 1024])
@pytest.mark.parametrize("shards", [1, 8])
def test_the_largest_divisor_that_fits_is_taken(mine: int, shards: int) -> None:
    possible = divisors(mine)
    for wanted, following in zip(possible, [*possible[1:], None], strict=True):
        room = usable(room_for(PLANTED.peak(wanted, mine, shards)))
        assert fitting_samples(PLANTED, room, mine, 1, shards) == wanted
        if following is not None:
            assert PLANTED.peak(following, mine, shards) > room
    least = usable(room_for(PLANTED.peak(1, mine, shards) - MIB))
    assert fitting_samples(PLANTED, least, mine, 1, shards) is None


def test_shards_need_less_and_a_moving_average_more() -> None:
    assert PLANTED.peak(4, 8, shards=8) < PLANTED.peak(4, 8)
    assert replace(PLANTED, averaged=MIB).peak(4, 8) == PLANTED.peak(4, 8) + MIB


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Returns a function that plants a device of so many bytes, and `PLANTED` as the count."""

    def plant(room: float) -> None:
        monkeypatch.setattr(micro_batch, "free_memory", lambda device: room)
        monkeypatch.setattr(micro_batch, "count_memory", lambda *arguments: PLANTED)

    return plant


def test_the_micro_batch_is_chosen_before_the_first_step(
    tmp_path: Path, planted: Callable[[float], None]
) -> None:
    planted(room_for(PLANTED.peak(4, 8)))
    said: list[str] = []
    pretrain(tmp_path, fit=True, fewest=2, accumulate=0, total_steps=1, say=said.append)
    assert len(said) == 1 and "2 accumulation steps x 4 samples" in said[0]


@pytest.mark.slow
def test_it_is_chosen_by_the_count_of_the_step_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device has room for half of the batch, and the curve is that of such micro-batches."""
    model = make_model()
    memory = count_memory(
        model, PretrainObjective(LossConfig()), draw, make_batch(0), TRAIN, ForwardOptions()
    )
    room = room_for(memory.peak(4, 8))
    assert memory.peak(8, 8) > usable(room)
    monkeypatch.setattr(micro_batch, "free_memory", lambda device: room)
    said: list[str] = []
    pretrain(tmp_path / "auto", fit=True, fewest=2, accumulate=0, total_steps=3, say=said.append)
    assert said == [
        f"pretrain: global batch 8 = 1 rank x 2 accumulation steps x 4 samples; a step needs "
        f"{memory.peak(4, 8) / 2**30:.1f} of {room / 2**30:.1f} GiB, as counted"
    ]
    pretrain(tmp_path / "given", micro_batch=4, accumulate=0, total_steps=3)
    assert metrics(tmp_path / "auto") == metrics(tmp_path / "given")


def test_a_step_that_does_not_fit_is_announced_in_one_sentence(
    tmp_path: Path, planted: Callable[[float], None]
) -> None:
    planted(room_for(PLANTED.peak(4, 8)))
    said: list[str] = []
    pretrain(tmp_path, total_steps=2, say=said.append)
    (sentence,) = said
    assert sentence.count(".") - sentence.count("runtime.") - sentence.count(" GiB") <= 2
    assert "takes 8 samples at a time" in sentence and "runtime.micro_batch=auto" in sentence
    assert "runtime.gradient_checkpointing=true" in sentence and sentence.endswith("GPUs.")


def test_what_cannot_fit_ends_before_the_first_step(
    tmp_path: Path, planted: Callable[[float], None]
) -> None:
    planted(room_for(PLANTED.peak(1, 8)))
    with pytest.raises(DeviceMemoryExhausted, match="does not fit into the GPU: with 2 samples"):
        pretrain(tmp_path, fit=True, fewest=2, accumulate=0)
    assert not metrics(tmp_path)


def test_a_real_lack_of_memory_halves_the_micro_batch_once(
    tmp_path: Path, planted: Callable[[float], None]
) -> None:
    planted(1e12)
    said: list[str] = []
    options = {"accumulate": 0, "total_steps": 5}
    pretrain(tmp_path / "halved", model=built(), fit=True, fewest=2, say=said.append, **options)
    assert "8 samples" in said[0]
    assert "ran out in step 1 of stage pretrain with 8 samples at a time" in said[1]
    assert said[1].endswith("it goes on with 4 (runtime.micro_batch=4)") and len(said) == 2
    pretrain(tmp_path / "given", model=built(), micro_batch=4, **options)
    assert metrics(tmp_path / "halved") == metrics(tmp_path / "given")


def test_it_is_not_halved_twice_and_not_without_being_asked(
    tmp_path: Path, planted: Callable[[float], None]
) -> None:
    planted(1e12)
    tight = built()
    tight.fits = 2
    with pytest.raises(DeviceMemoryExhausted, match="runtime.micro_batch=2"):
        pretrain(tmp_path / "twice", model=tight, fit=True, accumulate=0)
    with pytest.raises(DeviceMemoryExhausted, match="runtime.micro_batch=4"):
        pretrain(tmp_path / "given", model=built())
