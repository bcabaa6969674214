"""The loss curve is the same for any number of ranks.

This includes several nodes, shards, and a change of the number of ranks on the way.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from simvtp.config.train_config import LossConfig
from simvtp.models.downstream.retrieval_encoders import DualEncoder
from simvtp.runs.journal import Journal
from simvtp.training.checkpointing.preemption import StopFlag
from simvtp.training.loop import train
from simvtp.training.objectives import PretrainObjective, RetrievalObjective
from simvtp.training.parallel import distributed
from simvtp.training.parallel.parallel_model import ParallelModel
from tests.training.training_runs import (
    TRAIN,
    draw_with_negatives_of,
    kill_me,
    lines,
    make_batch,
    make_model,
    make_stage,
    metrics,
    on_ranks,
    start_ranks,
)

STEPS = 20
SETTINGS = replace(TRAIN, base_lr=0.01, ema_decay=0.8)  # dropout of the text is on


def score(model: torch.nn.Module, step: int) -> dict[str, float]:
    # A figure that the weights decide, so that the weights chosen show whether every rank scored
    # the same whole model.
    assert not any(isinstance(parameter, DTensor) for parameter in model.parameters())
    return {"val/score": float(torch.stack([p.abs().mean() for p in model.parameters()]).mean())}


def learn(
    directory: Path,
    *,
    shard: bool = False,
    until: int = STEPS,
    losses: LossConfig | None = None,
    dual: bool = False,
    **changes: Any,
) -> None:
    """This rank's part of 20 steps, asked to stop after `until`.

    Of pre-training, or of the fine-tuning of a dual encoder.
    """
    stop, size = StopFlag(), 8 // distributed.world()

    def source(first: int) -> Any:
        for step in range(first, STEPS):
            if (
                step + 1 + (distributed.world() > 1) == until
            ):  # several ranks stop one step after the wish
                stop.set("test")
            yield make_batch(step).part(distributed.rank() * size, (distributed.rank() + 1) * size)

    journal = Journal(directory / "journal.jsonl") if distributed.is_main() else None
    changes = {"train": SETTINGS, "evaluate_at": (8, 16), "best": "val/score", **changes}
    stage = make_stage(directory, total_steps=STEPS, shard=shard, log_every=1, **changes)
    losses = losses or LossConfig(vtc_negatives="global")
    model: torch.nn.Module = make_model(losses.wanted)
    if dual:
        model = DualEncoder.from_unified(make_model(), drop_path=0.3)
    objective = RetrievalObjective() if dual else PretrainObjective(losses)
    draw = None if dual else draw_with_negatives_of(2)
    outcome = train(stage, model, objective, source, draw, journal, evaluate=score, stop=stop)
    assert outcome.step == until and outcome.stopped == (until < STEPS)
    if not outcome.stopped:  # every rank has the chosen weights, whole
        assert all(
            torch.equal(value, model.state_dict()[name])
            for name, value in load_file(outcome.weights).items()
        )


def learn_on(ranks: int, directory: Path, per_node: int = 0, **options: Any) -> None:
    if ranks == 1:
        learn(directory, **options)
    else:
        on_ranks(ranks, learn, directory, per_node=per_node, **options)


def assert_same_curve(directory: Path, whole: Path) -> None:
    ours, theirs = metrics(directory), metrics(whole)
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    for (step, mine), (_, expected) in zip(ours, theirs, strict=True):
        assert mine.keys() == expected.keys()
        for name in expected:
            if name.startswith(("loss/", "val/")):
                assert mine[name] == pytest.approx(expected[name], abs=1e-5, rel=1e-5), (step, name)
    one, two = (load_file(d / "checkpoints/pretrain.safetensors") for d in (directory, whole))
    for name, value in two.items():
        torch.testing.assert_close(one[name], value, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 steps in one process."""
    directory = tmp_path_factory.mktemp("alone")
    learn(directory)
    return directory


def test_two_nodes_with_two_ranks_each_give_the_curve_of_one_process(
    tmp_path: Path, alone: Path
) -> None:
    learn_on(4, tmp_path, per_node=2)
    assert_same_curve(tmp_path, alone)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ((2, False), (1, False)),
        ((1, False), (2, False)),
        ((2, True), (1, False)),
        ((1, False), (4, True)),
    ],
)
def test_the_number_of_ranks_may_change_on_the_way(
    tmp_path: Path, alone: Path, first: tuple[int, bool], then: tuple[int, bool]
) -> None:
    """Ten steps on so many ranks (with shards or without), the rest on others."""
    learn_on(first[0], tmp_path, shard=first[1], until=10)
    learn_on(then[0], tmp_path, shard=then[1])
    assert_same_curve(tmp_path, alone)
    assert not [line for line in lines(tmp_path) if line["kind"] == "event"]


@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": True}])
def test_shards_give_the_curve_of_one_process(
    tmp_path: Path, alone: Path, changes: dict[str, Any]
) -> None:
    # Clipping, the moving average, evaluation on all ranks and the choice of the best weights
    # included.
    learn_on(2, tmp_path, shard=True, **changes)
    assert_same_curve(tmp_path, alone)


def test_drop_path_of_a_sample_does_not_depend_on_the_ranks(tmp_path: Path) -> None:
    learn_on(1, tmp_path / "one", dual=True)
    learn_on(2, tmp_path / "two", dual=True)
    assert_same_curve(tmp_path / "two", tmp_path / "one")


def test_derived_accumulation_on_shards_gives_the_curve_of_one_process(tmp_path: Path) -> None:
    """Four micro-batches in one process, two on each of two ranks.

    Without VTC, whose negatives are those of the micro-batches.
    """
    options = {
        "accumulate": 0,
        "micro_batch": 2,
        "losses": LossConfig(vtc=0),
    }
    learn_on(1, tmp_path / "one", **options)
    learn_on(2, tmp_path / "two", shard=True, **options)
    assert_same_curve(tmp_path / "two", tmp_path / "one")


def hold_a_part() -> None:
    parallel = ParallelModel(make_model(), SETTINGS, torch.device("cpu"), shard=True)
    parts = [p for p in parallel.model.parameters() if isinstance(p, DTensor)]
    share = sum(p.to_local().numel() for p in parts) / sum(
        p.numel() for p in parallel.module.parameters()
    )
    assert 0.4 < share < 0.6
    assert parallel.average is not None and all(
        isinstance(p, DTensor) for p in parallel.average.parameters()
    )


def test_a_rank_holds_only_its_part() -> None:
    on_ranks(2, hold_a_part)


def die_on_one_rank(directory: Path) -> None:
    def source(first: int) -> Any:
        for step in range(first, STEPS):
            if step == 5 and distributed.rank() == 1:
                kill_me()
            yield make_batch(step).part(distributed.rank() * 4, distributed.rank() * 4 + 4)

    journal = Journal(directory / "journal.jsonl") if distributed.is_main() else None
    train(
        make_stage(directory),
        make_model(),
        PretrainObjective(LossConfig()),
        source,
        draw_with_negatives_of(2),
        journal,
    )


def test_a_killed_rank_ends_the_other(tmp_path: Path) -> None:
    """It does not wait for one that is gone: it leaves with an error, and what was saved stays."""
    processes = start_ranks(2, die_on_one_rank, tmp_path)
    for process in processes:
        process.join(60)
    assert processes[1].exitcode == -signal.SIGKILL
    assert processes[0].exitcode == 1
    assert list((tmp_path / "checkpoints/pretrain").glob("step_*")) == [
        tmp_path / "checkpoints/pretrain/step_00000004.pt"
    ]
