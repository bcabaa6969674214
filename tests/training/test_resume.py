"""Kill it anywhere, start it again: the same weights, bit by bit, and the same journal."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from simvtp.batch import Batch
from simvtp.errors import CheckpointError, Stopped
from tests.training import training_runs
from tests.training.training_runs import TRAIN, in_process, lines, metrics, pretrain

CHANGES = {"train": replace(TRAIN, ema_decay=0.9), "evaluate_at": (6, 14, 20), "best": "val/score"}


def score(model: torch.nn.Module, step: int) -> dict[str, float]:
    """A figure that the weights decide; it uses random numbers, as an evaluation may."""
    torch.rand(3)
    return {"val/score": float(torch.stack([p.abs().mean() for p in model.parameters()]).mean())}


def run(directory: Path, die: str = "", pause: float = 0.0) -> None:
    """The tiny training.

    `die` = "batch:7" (at the 7th batch), "fsync:2" (a save is written, not renamed), "replace:2"
    (just renamed).
    """
    where, _, count = die.partition(":")
    if where in ("fsync", "replace"):
        real, calls = getattr(os, where), [0]

        def deadly(*args: object) -> None:
            calls[0] += 1
            if where == "fsync" and calls[0] == int(count):
                training_runs.kill_me()
            real(*args)
            if where == "replace" and calls[0] == int(count):
                training_runs.kill_me()

        setattr(os, where, deadly)

    def source(first: int) -> Iterator[Batch]:
        for i, batch in enumerate(training_runs.batches(first)):
            if where == "batch" and i == int(count):
                training_runs.kill_me()
            time.sleep(pause)
            yield batch

    pretrain(directory, source=source, evaluate=score, **CHANGES)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("unbroken")
    process = in_process(run, directory)
    process.join(120)
    assert process.exitcode == 0
    return directory


def assert_same(directory: Path, unbroken: Path) -> None:
    ours, theirs = (
        load_file(d / "checkpoints" / "pretrain.safetensors") for d in (directory, unbroken)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (directory / "checkpoints/pretrain.safetensors").read_bytes() == (
        unbroken / "checkpoints/pretrain.safetensors"
    ).read_bytes()
    assert metrics(directory) == metrics(unbroken)
    last = [
        torch.load(d / "checkpoints/pretrain/step_00000020.pt", weights_only=True)
        for d in (directory, unbroken)
    ]
    assert all(
        torch.equal(last[0]["weights"][name], last[1]["weights"][name])
        for name in last[0]["weights"]
    )


@pytest.mark.parametrize(
    "deaths",
    [
        (
            "batch:2",
            "batch:1",
            "batch:11",
            "batch:5",
        ),  # before the first checkpoint, at once, between checkpoints, again
        ("fsync:2", "fsync:3", "replace:2", "replace:3"),  # while saving
    ],
)
def test_killed_runs_end_like_the_unbroken_one(
    tmp_path: Path, unbroken: Path, deaths: tuple[str, ...]
) -> None:
    for death in deaths:
        process = in_process(run, tmp_path, death)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, death
    process = in_process(run, tmp_path)
    process.join(120)
    assert process.exitcode == 0
    assert_same(tmp_path, unbroken)
    assert not list((tmp_path / "checkpoints").rglob("*.tmp"))


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGUSR2"])
def test_a_signal_from_outside_at_any_moment(tmp_path: Path, unbroken: Path, name: str) -> None:
    process = in_process(run, tmp_path, "", 0.05)
    deadline = time.monotonic() + 60
    while not lines(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.13)
    os.kill(process.pid or 0, getattr(signal, name))
    process.join(120)
    saved = list((tmp_path / "checkpoints/pretrain").glob("step_*.pt"))
    assert not (tmp_path / "checkpoints/pretrain.json").exists()  # it did not reach the end
    if name == "SIGKILL":
        assert process.exitcode == -signal.SIGKILL
    else:
        assert process.exitcode == 0 and saved  # it saved the step it was at and left
    process = in_process(run, tmp_path)
    process.join(120)
    assert process.exitcode == 0
    assert_same(tmp_path, unbroken)


def test_a_stopped_stage_says_so_and_loses_no_step(tmp_path: Path) -> None:
    from simvtp.training.checkpointing.preemption import StopFlag

    stop, seen = StopFlag(), []

    def source(first: int) -> Iterator[Batch]:
        for i, batch in enumerate(training_runs.batches(first)):
            if first + i == 6:
                stop.set("test")
            seen.append(first + i)
            yield batch

    outcome = pretrain(tmp_path, source=source, stop=stop)
    assert outcome.stopped and outcome.step == 7
    finished = pretrain(tmp_path, source=source, stop=None)
    assert not finished.stopped and finished.step == 20
    assert seen == list(range(20))
    assert finished.cpu_hours > outcome.cpu_hours > 0


@pytest.mark.parametrize("at", [6, 14, 20])
def test_a_stop_during_an_evaluation_saves_the_step_and_evaluates_again(
    tmp_path: Path, unbroken: Path, at: int
) -> None:
    """Also after the last step; nothing is trained twice and nothing scored twice."""
    seen: list[int] = []

    def source(first: int) -> Iterator[Batch]:
        for i, batch in enumerate(training_runs.batches(first), start=first):
            seen.append(i)
            yield batch

    def interrupted(model: torch.nn.Module, step: int) -> dict[str, float]:
        if step == at:
            raise Stopped("asked to stop")
        return score(model, step)

    outcome = pretrain(tmp_path, source=source, evaluate=interrupted, **CHANGES)
    assert outcome.stopped and outcome.step == at
    assert pretrain(
        tmp_path, source=source, evaluate=interrupted, **CHANGES
    ).stopped  # again, at once
    assert not pretrain(tmp_path, source=source, evaluate=score, **CHANGES).stopped
    assert seen == list(range(20))
    assert_same(tmp_path, unbroken)


def test_a_stop_before_an_evaluation_does_not_wait_for_it(tmp_path: Path, unbroken: Path) -> None:
    from simvtp.training.checkpointing.preemption import StopFlag

    stop, scored = StopFlag(), []

    def source(first: int) -> Iterator[Batch]:
        for i, batch in enumerate(training_runs.batches(first), start=first):
            if i + 1 == 14:
                stop.set("test")
            yield batch

    def noted(model: torch.nn.Module, step: int) -> dict[str, float]:
        scored.append(step)
        return score(model, step)

    assert pretrain(tmp_path, source=source, evaluate=noted, stop=stop, **CHANGES).step == 14
    assert scored == [6]
    pretrain(tmp_path, evaluate=noted, **CHANGES)
    assert scored == [6, 14, 20]
    assert_same(tmp_path, unbroken)


@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "rubbish"])
def test_a_spoilt_last_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, unbroken: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    process = in_process(run, tmp_path, "batch:18")
    process.join(120)
    last = tmp_path / "checkpoints/pretrain/step_00000016.pt"
    content = bytearray(last.read_bytes())
    if damage == "flip":
        # Longer than the padding between two tensors (under 64 bytes), whose loss harms nothing.
        middle = len(content) // 2
        content[middle : middle + 256] = bytes(
            byte ^ 0xFF for byte in content[middle : middle + 256]
        )
    last.write_bytes(
        {
            "truncate": content[: len(content) // 2],
            "empty": b"",
            "flip": content,
            "rubbish": b"not a checkpoint",
        }[damage]
    )
    pretrain(tmp_path, evaluate=score, **CHANGES)
    assert_same(tmp_path, unbroken)
    events = [line for line in lines(tmp_path) if line["kind"] == "event"]
    assert (
        len(events) == 1
        and "step_00000016.pt cannot be read" in events[0]["message"]
        and "Falling back to step 14" in events[0]["message"]
    )
    assert "Falling back to step 14" in caplog.text


def test_when_no_checkpoint_is_readable_the_stage_starts_from_the_beginning(
    tmp_path: Path, unbroken: Path
) -> None:
    process = in_process(run, tmp_path, "batch:10")
    process.join(120)
    for path in (tmp_path / "checkpoints/pretrain").glob("step_*.pt"):
        path.write_bytes(path.read_bytes()[:100])
    pretrain(tmp_path, evaluate=score, **CHANGES)
    assert_same(tmp_path, unbroken)
    messages = [line["message"] for line in lines(tmp_path) if line["kind"] == "event"]
    assert len(messages) == 2 and "starts from the beginning" in messages[-1]


def test_a_finished_stage_is_not_run_again_and_gives_its_weights(tmp_path: Path) -> None:
    first = pretrain(tmp_path)
    length = (tmp_path / "journal.jsonl").stat().st_size
    model = training_runs.make_model()

    def no_data(first: int) -> Iterator[Batch]:
        raise AssertionError("a finished stage must not read data")

    assert pretrain(tmp_path, model=model, source=no_data) == first
    assert (tmp_path / "journal.jsonl").stat().st_size == length == first.journal_length
    weights = load_file(first.weights)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_what_came_before_the_stage_stays_in_the_journal(tmp_path: Path) -> None:
    from simvtp.runs.journal import Journal

    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("event", message="before")
    journal.close()
    process = in_process(run, tmp_path, "batch:3")  # logged once, no checkpoint yet
    process.join(120)
    pretrain(tmp_path, evaluate=score, **CHANGES)
    assert [line["message"] for line in lines(tmp_path) if line["kind"] == "event"] == ["before"]
    steps = [step for step, values in metrics(tmp_path) if "lr" in values]
    assert steps == [3, 6, 9, 12, 15, 18, 20]


def test_a_checkpoint_of_another_configuration_names_the_fields(tmp_path: Path) -> None:
    from simvtp.config.recipes import tiny
    from simvtp.config.tree import to_dict

    process = in_process(run, tmp_path, "batch:10")
    process.join(120)
    other = replace(tiny(), seed=3, masks=replace(tiny().masks, video_ratio=0.5))
    with pytest.raises(
        CheckpointError, match=r"seed was 0 and is 3, masks.video_ratio was 0.9 and is 0.5"
    ):
        pretrain(tmp_path, fingerprint=other.fingerprint, config=to_dict(other))
