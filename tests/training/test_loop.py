"""The loop: accumulation, divergence, evaluation, precision, options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from simvtp.batch import Batch
from simvtp.config.train_config import LossConfig
from simvtp.errors import ConfigError, DataError, TrainingDiverged
from simvtp.models.common.forward_options import DEFAULT_OPTIONS, ForwardOptions
from simvtp.models.downstream.retrieval_encoders import DualEncoder
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.training.objectives import RetrievalObjective
from simvtp.training.stage import StageOutcome, step_seed
from tests.training import training_runs
from tests.training.training_runs import (
    MODEL,
    TRAIN,
    draw_with_negatives_of,
    lines,
    make_batch,
    make_model,
    metrics,
    pretrain,
)

QUIET = replace(MODEL, text_dropout=0.0)


def weights(outcome: StageOutcome) -> dict[str, torch.Tensor]:
    return load_file(outcome.weights)


# ---- accumulation --------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_equals_one_big_batch(tmp_path: Path, accumulate: int) -> None:
    """For MVM, MLM (captions of different lengths) and VTM with given negatives.

    VTC's negatives are the micro-batch's.
    """
    found = []
    for count in (1, accumulate):
        train = replace(TRAIN, base_lr=0.01)
        losses = LossConfig(vtc=0)
        model = make_model(losses.wanted, QUIET)
        directory = tmp_path / str(count)
        found.append(
            weights(
                pretrain(
                    directory,
                    losses=losses,
                    model=model,
                    train=train,
                    accumulate=count,
                    total_steps=4,
                    draw=draw_with_negatives_of(2),
                )
            )
        )
    start = dict(make_model(("mvm", "mlm", "vtm"), QUIET).named_parameters())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=5e-5)
    moved = max(
        float((value - start[name].detach()).abs().max()) for name, value in found[0].items()
    )
    assert (
        moved > 5e-4
    )  # ten times the tolerance; that the gradients' size agrees is seen in the journal's grad_norm
    for (_, whole), (_, parts) in zip(
        metrics(tmp_path / "1"), metrics(tmp_path / str(accumulate)), strict=True
    ):
        assert whole == pytest.approx(parts, rel=1e-4)


def test_masks_do_not_depend_on_the_micro_batches(tmp_path: Path) -> None:
    seen: dict[int, list[torch.Tensor]] = {}

    def spy(count: int) -> Callable[..., Any]:
        def drawn(batch: Batch, step: int, first: int) -> Any:
            masks = training_runs.draw(batch, step, first)
            seen.setdefault(count, []).append(masks.masked)
            return masks

        return drawn

    for count in (1, 4):
        pretrain(
            tmp_path / str(count),
            accumulate=count,
            total_steps=2,
            draw=spy(count),
        )
    assert torch.equal(torch.cat(seen[1]), torch.cat(seen[4]))


def test_a_batch_that_cannot_be_cut_evenly_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match="batch_size=8 of stage pretrain cannot be split into 3 accumulation steps: use a "
        "batch_size of 6 or 9",
    ):
        pretrain(tmp_path, accumulate=3)


def test_a_short_batch_and_the_end_of_the_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="expects batches of 8 samples on each rank, but got 5 after step 0"
    ):
        pretrain(tmp_path / "a", source=lambda first: iter([make_batch(0, 5)]))
    with pytest.raises(DataError, match="has 20 steps, but the data ended after 2"):
        pretrain(tmp_path / "b", source=lambda first: iter([make_batch(0), make_batch(1)]))


# ---- divergence ----------------------------------------------------------------------------------


class Fragile(SimVTP):
    """The real model, with a defect.

    A clip whose first pixel is (255, 0, 255) gives an infinite or undefined output.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(MODEL)
        self.initialise(training_runs.SEED)
        self.kind = kind

    def forward(
        self, batch: Batch, masks: Any, options: ForwardOptions = DEFAULT_OPTIONS
    ) -> dict[str, torch.Tensor]:
        outputs = super().forward(batch, masks, options)
        marked = (batch.clips[:, 0, 0, 0] == torch.tensor([255, 0, 255], dtype=torch.uint8)).all(
            dim=-1
        )
        zero = torch.where(marked, 0.0, 1.0)
        prediction = outputs["video_prediction"]
        if self.kind == "gradient":  # finite going forward, sqrt has an infinite slope at 0
            spoilt = prediction + (zero[:, None, None] * (prediction.square() + 1)).sqrt() * 0.01
        else:
            spoilt = (
                prediction / zero[:, None, None]
                if self.kind == "inf"
                else prediction + zero[:, None, None].log() * 0
            )
        return {**outputs, "video_prediction": spoilt}


def poisoned(at: int, sample: int) -> Callable[[int], Iterator[Batch]]:
    """The usual batches; in step `at` (from 1), `sample` carries the mark."""

    def source(first: int) -> Iterator[Batch]:
        for done, batch in enumerate(training_runs.batches(first), start=first):
            batch.clips[:, 0, 0, 0] = 0
            if done + 1 == at:
                batch.clips[sample, 0, 0, 0] = torch.tensor([255, 0, 255], dtype=torch.uint8)
            yield batch

    return source


@pytest.mark.parametrize("kind", ["nan", "inf", "gradient"])
@pytest.mark.parametrize(("at", "noticed"), [(7, 8), (9, 9), (10, 12), (1, 3)])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_named(
    tmp_path: Path, kind: str, at: int, noticed: int
) -> None:
    """Log every 3 and save every 4 steps.

    It is noticed at the next of those, and no checkpoint is written from then on.
    """
    steps: list[int] = []

    def source(first: int) -> Iterator[Batch]:
        for batch in poisoned(at, 5)(first):
            steps.append(len(steps) + 1)
            yield batch

    with pytest.raises(TrainingDiverged) as caught:
        pretrain(tmp_path, model=Fragile(kind), source=source, accumulate=2)
    message = str(caught.value)
    assert f"at step {at} of stage pretrain" in message
    ids = {f"clip{at - 1}-{i}" for i in range(8)}
    named = {name for name in ids if name in message}
    assert named == (
        ids if kind == "gradient" else {f"clip{at - 1}-{i}" for i in range(4, 8)}
    )  # the micro-batch with sample 5
    assert len(steps) == noticed
    kept = sorted(path.name for path in (tmp_path / "checkpoints/pretrain").glob("step_*.pt"))
    assert kept == [f"step_{step:08d}.pt" for step in (4, 8) if step < at]
    assert (kept[-1] if kept else "no checkpoint yet") in message
    event = [line for line in lines(tmp_path) if line["kind"] == "event"][-1]
    assert event["step"] == at and set(event["sample_ids"]) == named
    for path in kept:
        state = torch.load(tmp_path / "checkpoints/pretrain" / path, weights_only=True)
        assert all(value.isfinite().all() for value in state["weights"].values())


def test_the_run_continues_from_the_last_good_checkpoint_once_the_clip_is_repaired(
    tmp_path: Path,
) -> None:
    with pytest.raises(TrainingDiverged):
        pretrain(tmp_path / "a", model=Fragile("nan"), source=poisoned(7, 0))
    repaired = pretrain(tmp_path / "a", model=Fragile("nan"), source=poisoned(99, 0))
    never = pretrain(tmp_path / "b", model=Fragile("nan"), source=poisoned(99, 0))
    assert all(
        torch.equal(value, weights(never)[name]) for name, value in weights(repaired).items()
    )
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    assert not [line for line in lines(tmp_path / "a") if line["kind"] == "event"]


def test_weights_that_overflow_are_not_saved(tmp_path: Path) -> None:
    """An update can spoil a weight while loss and gradient were finite."""

    train = replace(TRAIN, base_lr=1e42, base_min_lr=1e42, warmup_ratio=0.0)
    with pytest.raises(
        TrainingDiverged, match="a weight became NaN or infinite at step 1 of stage pretrain"
    ):
        pretrain(tmp_path, train=train, checkpoint_every=1, log_every=50)
    assert not list((tmp_path / "checkpoints").rglob("step_*.pt"))


# ---- evaluation and the choice of weights --------------------------------------------------------


def test_the_best_weights_are_chosen_and_kept(tmp_path: Path) -> None:
    scores, states = {5: 0.2, 10: 0.9, 15: 0.9, 20: 0.1}, {}

    def evaluate(model: torch.nn.Module, step: int) -> dict[str, float]:
        assert not model.training and not torch.is_grad_enabled()
        states[step] = {name: value.clone() for name, value in model.state_dict().items()}
        return {"val/R1": scores[step], "val/MdR": 3.0}

    model = make_model()
    outcome = pretrain(
        tmp_path, model=model, evaluate=evaluate, evaluate_at=(5, 10, 15, 20), best="val/R1", keep=1
    )
    assert (outcome.selected_step, outcome.best, outcome.step) == (
        10,
        0.9,
        20,
    )  # the earlier one of a tie
    assert all(torch.equal(value, states[10][name]) for name, value in weights(outcome).items())
    assert all(torch.equal(value, states[10][name]) for name, value in model.state_dict().items())
    assert model.training  # training went on after each evaluation
    assert [(step, values) for step, values in metrics(tmp_path) if "val/R1" in values] == [
        (step, {"val/R1": score, "val/MdR": 3.0}) for step, score in scores.items()
    ]
    assert sorted(p.name for p in (tmp_path / "checkpoints/pretrain").glob("*.pt")) == [
        "best_00000010.pt",
        "step_00000020.pt",
    ]


def test_evaluation_does_not_change_the_training(tmp_path: Path) -> None:
    def evaluate(model: torch.nn.Module, step: int) -> dict[str, float]:
        return {"x": float(torch.rand(()))}

    with_evaluation = pretrain(tmp_path / "a", evaluate=evaluate, evaluate_at=(3, 7))
    without = pretrain(tmp_path / "b")
    assert all(
        torch.equal(value, weights(without)[name])
        for name, value in weights(with_evaluation).items()
    )


def test_without_a_best_metric_the_last_weights_or_their_average_are_final(tmp_path: Path) -> None:
    plain = pretrain(tmp_path / "a")
    averaged = pretrain(tmp_path / "b", train=replace(TRAIN, ema_decay=0.5))
    state = torch.load(tmp_path / "b/checkpoints/pretrain/step_00000020.pt", weights_only=True)
    assert all(torch.equal(value, state["weights"][name]) for name, value in weights(plain).items())
    assert all(
        torch.equal(value, state["average"][name]) for name, value in weights(averaged).items()
    )
    assert not torch.equal(
        state["average"]["encoder.norm.weight"], state["weights"]["encoder.norm.weight"]
    )


# ---- precision and options -----------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_close_to_full(tmp_path: Path, precision: str) -> None:
    train = replace(TRAIN, base_lr=0.02)
    pretrain(tmp_path / "full", train=train)
    outcome = pretrain(tmp_path / "half", train=replace(train, precision=precision))
    assert all(value.dtype == torch.float32 for value in weights(outcome).values())
    full, half = metrics(tmp_path / "full")[-1][1], metrics(tmp_path / "half")[-1][1]
    assert half["loss/total"] == pytest.approx(full["loss/total"], rel=0.05)
    assert ("loss_scale" in half) == (precision == "fp16")


def test_fp16_skips_an_overflowing_update_and_resumes_its_scale(tmp_path: Path) -> None:
    from simvtp.training.checkpointing.preemption import StopFlag

    stop = StopFlag()
    stop.set("test")
    train = replace(TRAIN, precision="fp16", clip_norm=0.0)
    pretrain(tmp_path, train=train, stop=stop)
    state = torch.load(tmp_path / "checkpoints/pretrain/step_00000001.pt", weights_only=True)
    assert state["scaler"]["scale"] > 0
    assert pretrain(tmp_path, train=train).step == 20


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    plain = pretrain(tmp_path / "a", total_steps=3)
    spared = pretrain(tmp_path / "b", total_steps=3, gradient_checkpointing=True)
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(spared)[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_compiled_blocks_give_the_same_losses_and_weights(tmp_path: Path) -> None:
    plain = pretrain(tmp_path / "a", total_steps=3)
    compiled = pretrain(tmp_path / "b", total_steps=3, compile=True)
    assert weights(plain).keys() == weights(compiled).keys()
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(compiled)[name], value, rtol=1e-3, atol=1e-4)
    assert metrics(tmp_path / "b")[-1][1]["loss/total"] == pytest.approx(
        metrics(tmp_path / "a")[-1][1]["loss/total"], rel=1e-4
    )


def test_fine_tuning_needs_no_masks(tmp_path: Path) -> None:
    from simvtp.training.loop import train
    from tests.training.training_runs import batches, make_stage

    stage = make_stage(tmp_path, name="finetune", total_steps=4)
    dual = DualEncoder.from_unified(make_model(), drop_path=0.2)
    first = train(stage, dual, RetrievalObjective(0.05, "global"), batches, None, None)
    again = train(
        replace(stage, directory=tmp_path / "b"),
        DualEncoder.from_unified(make_model(), drop_path=0.2),
        RetrievalObjective(),
        batches,
        None,
        None,
    )
    assert first.sha256 == again.sha256  # dropout and drop path are repeatable


def test_what_a_log_line_holds(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = []
    pretrain(tmp_path, on_log=records.append, total_steps=10)
    found = [line for line in lines(tmp_path) if line["kind"] == "metrics"]
    assert (
        [line["step"] for line in found] == [3, 6, 9, 10] == [record["step"] for record in records]
    )
    names = set(found[-1]["metrics"])
    assert names >= {
        "loss/total",
        "loss/mvm",
        "loss/mlm",
        "loss/vtc",
        "loss/vtm",
        "acc/mlm",
        "acc/vtc",
        "acc/vtm",
        "lr",
        "grad_norm",
        "speed/clips_per_s",
        "speed/data_wait_share",
        "speed/step_s",
        "speed/eta_s",
        "system/cpu_hours",
        "system/gpu_hours",
    }
    last = found[-1]["metrics"]
    parts = sum(last[f"loss/{name}"] for name in ("mvm", "mlm", "vtc", "vtm"))
    assert last["loss/total"] == pytest.approx(parts, rel=1e-5)
    assert last["speed/eta_s"] == 0 and found[0]["metrics"]["speed/eta_s"] > 0
    assert 0 <= last["speed/data_wait_share"] <= 1
    assert last["speed/clips_per_s"] == pytest.approx(8 / last["speed/step_s"])
    assert records[-1]["total_steps"] == 10 and records[-1]["metrics"] == last


def test_step_seeds_differ() -> None:
    seeds = {
        step_seed(seed, stage, step)
        for seed in (0, 1)
        for stage in ("a", "b")
        for step in range(15)
    }
    assert len(seeds) == 60
