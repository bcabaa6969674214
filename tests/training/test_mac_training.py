"""MAC through the common loop: the same curve on two ranks, and after a kill."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from simvtp.batch import Batch, Masks
from simvtp.config.model_config import MACConfig, MACMaskConfig, ModelConfig
from simvtp.config.train_config import ContrastiveLossConfig
from simvtp.methods import build_model, method_of
from simvtp.runs.journal import Journal
from simvtp.training.loop import train
from simvtp.training.objectives import PretrainObjective
from simvtp.training.parallel import distributed
from tests.training import training_runs
from tests.training.training_runs import (
    MODEL,
    SEED,
    TRAIN,
    in_process,
    kill_me,
    make_batch,
    make_stage,
    metrics,
    on_ranks,
)

SHARED = {f.name: getattr(MODEL, f.name) for f in fields(ModelConfig) if f.name != "method"}
CONFIG = MACConfig(**SHARED, text_depth=1, projection=8)
MASKS = MACMaskConfig(
    video_ratio=0.5,
    video_kind="per_frame",
    text_ratio=0.5,
    text_mask="drop",
    frame_schedule="1:5,2:6",
)
LOSSES = ContrastiveLossConfig()
STEPS = 20


def draw(batch: Batch, step: int, first_sample: int) -> Masks:
    return method_of(CONFIG).draw(
        batch, CONFIG, MASKS, mask_id=3, seed=SEED, step=step, first_sample=first_sample
    )


def learn(directory: Path, kind: str = "nearest", shard: bool = False, die_at: int = -1) -> None:
    """This rank's part of 20 steps; dropout, three numbers of frames and dropped words included."""
    size = 8 // distributed.world()

    def source(first: int) -> Iterator[Batch]:
        for step in range(first, STEPS):
            if step == die_at:
                kill_me()
            yield make_batch(step).part(distributed.rank() * size, (distributed.rank() + 1) * size)

    journal = Journal(directory / "journal.jsonl") if distributed.is_main() else None
    config = replace(CONFIG, time_attention=kind)  # type: ignore[arg-type]
    model = build_model(config, ("vtc",), SEED)
    stage = make_stage(
        directory, total_steps=STEPS, shard=shard, log_every=1, train=replace(TRAIN, base_lr=0.03)
    )
    train(stage, model, PretrainObjective(LOSSES), source, draw, journal)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "checkpoints/pretrain.safetensors")


@pytest.mark.parametrize("shard", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_ranks_give_the_curve_of_one_process(tmp_path: Path, shard: bool) -> None:
    """Losses of every step and the weights at the end, so the gradients too.

    With negatives of both ranks.
    """
    learn(tmp_path / "one")
    on_ranks(2, learn, tmp_path / "two", shard=shard)
    for (step, mine), (same, expected) in zip(
        metrics(tmp_path / "two"), metrics(tmp_path / "one"), strict=True
    ):
        assert step == same and mine["loss/vtc"] == pytest.approx(expected["loss/vtc"], abs=1e-5), (
            step
        )
    for name, value in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], value, rtol=1e-3, atol=1e-4)


def gradients(out: Path) -> None:
    """The gradient of one step, as the loop would have it, on each rank, in double precision.

    In single precision the order of sums alone moves single elements by a thousandth.
    """
    model = build_model(replace(CONFIG, text_dropout=0.0), ("vtc",), SEED).double()
    wrapped: Any = distributed.wrap(model)
    size, first = 8 // distributed.world(), distributed.rank() * (8 // distributed.world())
    part = make_batch(0).part(first, first + size)
    losses, _ = PretrainObjective(LOSSES)(wrapped(part, draw(part, 12, first)))
    losses["vtc"].backward()
    torch.save(
        {name: p.grad for name, p in model.named_parameters()} | {"loss": losses["vtc"].detach()},
        out / f"{distributed.rank()}.pt",
    )


def test_the_gradient_of_two_ranks_is_that_of_one(tmp_path: Path) -> None:
    for ranks in (1, 2):
        (tmp_path / str(ranks)).mkdir()
        on_ranks(ranks, gradients, tmp_path / str(ranks))
    one = torch.load(tmp_path / "1/0.pt", weights_only=True)
    both = [torch.load(tmp_path / f"2/{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert float(both[0].pop("loss") + both[1].pop("loss")) / 2 == pytest.approx(
        float(one.pop("loss")), rel=1e-9
    )
    silent = []
    for name, value in one.items():
        if value is None:
            silent.append(name)
            continue
        for part in both:
            torch.testing.assert_close(part[name], value, rtol=1e-7, atol=1e-9)
    assert not silent, "every parameter has its part in the loss"


def test_killed_runs_end_like_the_unbroken_one(tmp_path: Path) -> None:
    for where, deaths in (("unbroken", ()), ("killed", (3, 7, 14))):
        for death in (*deaths, -1):
            process = in_process(learn, tmp_path / where, "rank", False, death)
            process.join(120)
            assert process.exitcode == (0 if death < 0 else -9)
    assert all(
        torch.equal(value, weights(tmp_path / "killed")[name])
        for name, value in weights(tmp_path / "unbroken").items()
    )
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "unbroken")
    assert training_runs.lines(tmp_path / "killed")
