"""Checkpoints are written while training goes on, and what goes wrong there is not lost."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from simvtp.errors import UserError
from simvtp.training.checkpointing.background_writer import Writer, snapshot
from simvtp.training.checkpointing.checkpoint import Checkpoints
from tests.training import training_runs
from tests.training.training_runs import pretrain


def test_a_snapshot_is_of_its_moment() -> None:
    weight = torch.ones(3)
    copied = snapshot({"a": [weight, 2], "b": (weight, "x")})
    weight.add_(1)
    assert (
        copied["a"][0].tolist() == copied["b"][0].tolist() == [1, 1, 1]
        and copied["a"][1] == 2
        and copied["b"][1] == "x"
    )


def test_an_error_is_raised_by_the_next_call_and_once() -> None:
    writer, order = Writer(), []

    def fail() -> None:
        raise UserError("full")

    writer.submit(fail)
    with pytest.raises(UserError, match="full"):
        writer.submit(lambda: order.append("not begun"))
    assert order == [] and not writer.failed
    writer.submit(lambda: order.append("a"))
    writer.submit(lambda: order.append("b"))
    writer.wait()
    assert order == ["a", "b"]


class SlowSave:
    """`Checkpoints.save`, held back until it is let go; `broken` writes of these steps fail."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, hold: int = 0, broken: tuple[int, ...] = ()
    ) -> None:
        self.go, real = threading.Event(), Checkpoints.save

        def save(checkpoints: Checkpoints, step: int, state: dict[str, Any]) -> Path:
            if step == hold:
                assert self.go.wait(60)
            if step in broken:
                raise UserError(f"cannot save step {step}")
            return real(checkpoints, step, state)

        monkeypatch.setattr(Checkpoints, "save", save)


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write of step 4 ends only after step 6.

    What it holds is the state of step 4, as in a run that nothing held back.
    """
    pretrain(tmp_path / "plain", total_steps=7, keep=5)
    slow = SlowSave(monkeypatch, hold=4)

    def on_log(record: dict[str, Any]) -> None:
        if record["step"] == 6:
            assert not list((tmp_path / "held/checkpoints/pretrain").glob("step_*.pt"))
            slow.go.set()

    pretrain(tmp_path / "held", total_steps=7, on_log=on_log, keep=5)
    held, plain = (
        torch.load(tmp_path / name / "checkpoints/pretrain/step_00000004.pt", weights_only=True)
        for name in ("held", "plain")
    )
    assert all(
        torch.equal(held["weights"][name], value) for name, value in plain["weights"].items()
    )
    for number, values in plain["optimizer"]["state"].items():
        assert all(
            torch.equal(held["optimizer"]["state"][number][name], value)
            for name, value in values.items()
        )
    assert torch.equal(held["random"]["torch"], plain["random"]["torch"])


def test_a_failed_write_ends_the_training_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SlowSave(monkeypatch, broken=(4,))
    steps: list[int] = []

    def source(first: int) -> Any:
        for i, batch in enumerate(training_runs.batches(first), start=first):
            steps.append(i + 1)
            yield batch

    with pytest.raises(UserError, match="cannot save step 4"):
        pretrain(tmp_path, source=source, checkpoint_every=4, total_steps=200)
    assert 4 <= len(steps) <= 8  # at the latest where the next checkpoint is due
    assert not (tmp_path / "checkpoints/pretrain.json").exists()


def test_a_stage_does_not_end_on_a_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SlowSave(monkeypatch, broken=(8,))
    with pytest.raises(UserError, match="cannot save step 8"):
        pretrain(tmp_path, total_steps=8)
    assert not (tmp_path / "checkpoints/pretrain.json").exists()
    monkeypatch.undo()
    assert pretrain(tmp_path, total_steps=8).step == 8


def test_an_error_of_training_is_the_one_that_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A write that fails at the same time is logged.

    Nothing is written any more when the error comes out.
    """
    slow = SlowSave(monkeypatch, hold=4, broken=(4,))

    def source(first: int) -> Any:
        for i, batch in enumerate(training_runs.batches(first), start=first):
            if i == 5:
                slow.go.set()
                raise RuntimeError("the data broke")
            yield batch

    with pytest.raises(RuntimeError, match="the data broke"):
        pretrain(tmp_path, source=source)
    assert "cannot save step 4" in caplog.text
    assert not [thread for thread in threading.enumerate() if thread.name == "checkpoint"]
