"""Two attempts at one run.

The one that was replaced writes nothing more, and what it left behind is not mistaken for ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from simvtp.batch import Batch
from simvtp.errors import UserError
from simvtp.runs.journal import Journal
from simvtp.runs.lease import Fenced
from simvtp.training.checkpointing.checkpoint import Checkpoints
from simvtp.training.loop import train
from simvtp.training.objectives import PretrainObjective
from simvtp.training.parallel import distributed
from tests.training import training_runs
from tests.training.training_runs import (
    draw_with_negatives_of,
    lines,
    make_batch,
    make_model,
    make_stage,
    metrics,
    on_ranks,
    pretrain,
)


def deny() -> None:
    raise Fenced("the run directory was taken over")


def content(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("renames", range(9))
def test_whichever_file_comes_next_it_gets_no_name(tmp_path: Path, renames: int) -> None:
    """start.json, checkpoints at 4, 8, 12, best weights, ..., the final weights, the outcome.

    Each asks the guard.
    """
    allowed = [renames]

    def check() -> None:
        allowed[0] -= 1
        if allowed[0] < 0:
            deny()

    options: dict[str, Any] = {
        "total_steps": 12,
        "evaluate": lambda model, step: {"x": 1.0},
        "evaluate_at": (6,),
        "best": "x",
    }
    names: list[list[str]] = []
    real = os.replace

    def spy(source: Any, target: Any) -> None:
        names.append(sorted(content(tmp_path)))
        real(source, target)

    os.replace = spy  # type: ignore[assignment]
    try:
        if renames < 8:
            with pytest.raises(Fenced):
                pretrain(tmp_path, check_ownership=check, **options)
        else:
            pretrain(tmp_path, check_ownership=check, **options)
    finally:
        os.replace = real  # type: ignore[assignment]
    assert len(names) == min(renames, 8)
    assert not [name for name in content(tmp_path) if name.endswith(".tmp")]
    assert (tmp_path / "checkpoints/pretrain.json").exists() == (renames >= 8)


def fenced_on_main(directory: Path) -> None:
    """Rank 0 is replaced when it saves step 4; the other rank must not wait for it."""
    journal = Journal(directory / "journal.jsonl") if distributed.is_main() else None
    checkpoints = directory / "checkpoints/pretrain"
    half = slice(4 * distributed.rank(), 4 * distributed.rank() + 4)

    def check() -> None:
        if (checkpoints / "start.json").exists():
            deny()

    def source(first: int) -> Iterator[Batch]:
        for step in range(first, 20):
            yield make_batch(step).part(half.start, half.stop)

    objective = PretrainObjective(training_runs.LossConfig())
    with pytest.raises(Fenced):
        train(
            make_stage(directory),
            make_model(),
            objective,
            source,
            draw_with_negatives_of(2),
            journal,
            check_ownership=check,
        )
    assert not list(checkpoints.glob("step_*"))


def test_all_ranks_leave_when_the_run_was_taken_over(tmp_path: Path) -> None:
    on_ranks(2, fenced_on_main, tmp_path)


def stop_after(steps: int) -> Any:
    from simvtp.training.checkpointing.preemption import StopFlag

    stop = StopFlag()

    def source(first: int) -> Iterator[Batch]:
        for step, batch in enumerate(training_runs.batches(first), start=first):
            if step + 1 == steps:
                stop.set("test")
            yield batch

    return {"source": source, "stop": stop}


def test_a_checkpoint_of_a_replaced_attempt_is_put_aside(tmp_path: Path) -> None:
    """The stale attempt got a later checkpoint in; its journal is not ours.

    We continue from our own, with a warning.
    """
    ours, stale = tmp_path / "ours", tmp_path / "stale"
    pretrain(ours, **stop_after(7))
    pretrain(
        stale, **stop_after(11)
    )  # the same experiment, but its journal was written at other times
    foreign = stale / "checkpoints/pretrain/step_00000011.pt"
    foreign.rename(ours / "checkpoints/pretrain/step_00000011.pt")
    assert pretrain(ours).step == 20
    events = [line["message"] for line in lines(ours) if line["kind"] == "event"]
    assert (
        len(events) == 1
        and "written by another attempt" in events[0]
        and "Falling back to step 7" in events[0]
    )
    assert (ours / "checkpoints/pretrain/step_00000011.pt.foreign").exists()
    assert [step for step, _ in metrics(ours)] == [3, 6, 9, 12, 15, 18, 20]


def test_checkpoints_from_before_there_were_marks_are_still_continued(tmp_path: Path) -> None:
    pretrain(tmp_path, **stop_after(7))
    path = tmp_path / "checkpoints/pretrain/step_00000007.pt"
    state = torch.load(path, weights_only=True)
    state["journal_length"] = state.pop("journal")["length"]
    del state["unscored"]
    torch.save(state, path)
    start = path.with_name("start.json")
    start.write_text('{"journal_length": 0}')
    seen: list[int] = []

    def source(first: int) -> Iterator[Batch]:
        seen.append(first)
        yield from training_runs.batches(first)

    pretrain(tmp_path, source=source)
    assert seen == [7]
    assert [step for step, _ in metrics(tmp_path)] == [3, 6, 9, 12, 15, 18, 20]


def test_a_guard_that_denies_stops_the_removal_of_files_too(tmp_path: Path) -> None:
    (tmp_path / "step_00000004.pt").write_bytes(b"not readable")
    with pytest.raises(Fenced):
        Checkpoints(tmp_path, keep=1, check_ownership=deny).load_latest()
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000004.pt"]
    with pytest.raises(UserError):
        Checkpoints(tmp_path, keep=1, check_ownership=deny).save(8, {"weights": {}})
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000004.pt"]
