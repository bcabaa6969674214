"""Log lines and checkpoints by seconds; advice where steps wait for data; workers by cores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from simvtp.batch import Batch
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.data.datasets import worker_count
from simvtp.runs.process_identity import cores_of_rank
from simvtp.training.meters import MOST_STEPS, Cadence, WaitingForData, waiting_advice
from tests.training.training_runs import make_batch, metrics, pretrain


def slowly(seconds: float) -> Callable[[int], Iterator[Batch]]:
    """Returns a source whose batches take so long."""

    def source(first: int) -> Iterator[Batch]:
        step = first
        while True:
            time.sleep(seconds)
            yield make_batch(step)
            step += 1

    return source


# ---- seconds -------------------------------------------------------------------------------------


def test_without_seconds_steps_count() -> None:
    cadence = Cadence(3, 0.0)
    cadence.start(4)
    assert [step for step in range(1, 13) if cadence.due(step)] == [3, 6, 9, 12]


@pytest.mark.parametrize("step_s", [0.001, 0.1, 7.0, 600.0])
def test_seconds_become_steps_of_the_measured_speed(step_s: float) -> None:
    cadence = Cadence(10, 60.0)
    cadence.start(20)
    assert not cadence.due(29) and cadence.due(30), "the first by steps"
    cadence.happened()
    assert not cadence.due(10**9), "until rank 0 has planned"
    following = cadence.remaining(step_s)
    assert following == max(1, min(MOST_STEPS, round(60 / step_s)))
    cadence.plan(30, following)
    assert not cadence.due(30 + following - 1) and cadence.due(30 + following)


def test_lines_and_checkpoints_by_seconds_change_nothing_else(tmp_path: Path) -> None:
    often = {"log_every": 1, "checkpoint_every": 1, "total_steps": 8}
    pretrain(tmp_path / "steps", **often)
    pretrain(tmp_path / "seconds", log_every_s=1e6, checkpoint_every_s=1e6, **often)
    by_steps, by_seconds = (dict(metrics(tmp_path / name)) for name in ("steps", "seconds"))
    assert list(by_steps) == list(range(1, 9)) and list(by_seconds) == [1, 8]
    assert by_seconds[1] == by_steps[1]
    mean = sum(by_steps[step]["loss/total"] for step in range(2, 9)) / 7
    assert by_seconds[8]["loss/total"] == pytest.approx(mean, rel=1e-5)
    weights = [
        (tmp_path / name / "checkpoints/pretrain.safetensors") for name in ("steps", "seconds")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_slow_steps_are_saved_by_seconds(tmp_path: Path) -> None:
    options = {"log_every": 1, "checkpoint_every": 10**6, "total_steps": 6, "keep": 9}
    pretrain(tmp_path, source=slowly(0.05), checkpoint_every_s=0.01, **options)
    saved = {path.name for path in (tmp_path / "checkpoints/pretrain").glob("step_*")}
    assert len(saved) >= 3


# ---- waiting for data ----------------------------------------------------------------------------


def test_waiting_for_data_is_said_once(tmp_path: Path) -> None:
    spoken: list[str] = []
    options = {"log_every": 1, "total_steps": 4, "workers": 1, "say": spoken.append}
    pretrain(tmp_path, source=slowly(0.3), **options)
    (line,) = spoken
    assert line.startswith("stage pretrain waits for data for")


@pytest.mark.parametrize(
    ("shares", "said"), [([0.9, 0.1], 0), ([0.0, 0.11, 0.9], 1), ([0.05] * 9, 0), ([1.0], 0)]
)
def test_a_tenth_of_the_time_is_allowed_and_the_start_is_passed_over(
    shares: list[float], said: int
) -> None:
    spoken: list[str] = []
    waiting = WaitingForData("pretrain", workers=1)
    for share in shares:
        waiting.judge(share, spoken.append)
    assert len(spoken) == said


@pytest.mark.parametrize(("workers", "cores"), [(2, 12), (0, 2), (11, 12), (2, 2), (30, 12)])
def test_the_advice_names_the_number_to_change(workers: int, cores: int) -> None:
    advice = waiting_advice("pretrain", 0.42, workers, cores)
    assert "waits for data for 42 % of its time" in advice and advice.endswith(".")
    if workers < cores - 1:
        assert f"raise runtime.workers from {workers} to {cores - 1}" in advice
    else:
        assert "data.repeat=2" in advice and "data shard" in advice


# ---- workers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cores", [1, 2, 4, 12, 96])
@pytest.mark.parametrize("ranks", [1, 8])
@pytest.mark.parametrize("asked", ["", "6"])
def test_a_gpu_gets_the_cores_of_its_rank_less_two(
    monkeypatch: pytest.MonkeyPatch, cores: int, ranks: int, asked: str
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", asked)
    own = min(cores, 6) if asked else max(1, cores // ranks)
    assert cores_of_rank() == own
    assert worker_count(RuntimeConfig()) == 2, "there is no GPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert worker_count(RuntimeConfig()) == max(2, own - 2)
    assert worker_count(RuntimeConfig(device="cpu")) == 2
    assert worker_count(RuntimeConfig(workers=5)) == 5
