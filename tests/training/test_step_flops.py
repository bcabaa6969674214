"""Operations of a step: counted on a model without values, and reported in every log line."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from simvtp.batch import Batch
from simvtp.models.common.forward_options import ForwardOptions
from simvtp.models.downstream.retrieval_encoders import DualEncoder
from simvtp.models.flops.simvtp_flops import forward_flops
from simvtp.training.step_flops import count_step, peak, shapes_of, speed_of, weightless
from tests.training.training_runs import (
    MASKS,
    MODEL,
    draw,
    lines,
    make_batch,
    make_model,
    pretrain,
)


def test_a_step_costs_about_three_forward_passes() -> None:
    batch = make_batch(0)
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    counted = count_step(weightless(model), batch, draw(batch, 0, 0))
    forward = 8 * sum(forward_flops(MODEL, MASKS, batch=8).values())
    embedding = 8 * forward_flops(MODEL, MASKS)["tube embedding"]  # the pixels get no gradient
    assert counted == pytest.approx(3 * forward - embedding, rel=0.01)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters()) and torch.equal(
        state, torch.get_rng_state()
    )


def test_left_out_padding_is_not_counted() -> None:
    batch, model = make_batch(0), make_model()
    masks, length = draw(batch, 0, 0), batch.input_ids.shape[1]
    mask = (torch.arange(8)[:, None] % 2 == 0) | (
        torch.arange(length) < 2
    )  # full captions and empty ones in turns
    packed = shapes_of(replace(batch, attention_mask=mask), masks, packed=True)
    assert packed[0].input_ids.shape[1] == math.ceil(length * float(mask.float().mean())) < length
    ours, all_padded = (
        count_step(weightless(model), *packed),
        count_step(weightless(model), batch, masks),
    )
    assert ours is not None and all_padded is not None and ours < 0.99 * all_padded


def test_what_is_frozen_costs_no_backward() -> None:
    batch, model = make_batch(0), make_model()
    masks = draw(batch, 0, 0)
    plain = count_step(weightless(model), batch, masks)
    model.requires_grad_(False)
    model.match_head.requires_grad_(True)
    frozen = count_step(weightless(model), batch, masks)
    assert plain is not None and frozen is not None and frozen < 0.4 * plain


def test_any_model_is_counted_or_said_to_be_uncountable(caplog: pytest.LogCaptureFixture) -> None:
    dual = DualEncoder.from_unified(make_model(), drop_path=0.2)
    assert (count_step(weightless(dual), make_batch(0), None) or 0) > 0

    class Curious(torch.nn.Module):
        def forward(
            self, batch: Batch, masks: None, options: ForwardOptions
        ) -> dict[str, torch.Tensor]:
            return {"x": batch.clips.float().mean() * int(batch.clips.sum())}

    with caplog.at_level("INFO"):
        assert count_step(Curious(), make_batch(0), None) is None
    assert "cannot be counted" in caplog.text


def test_every_log_line_tells_the_speed(tmp_path: Path) -> None:
    pretrain(tmp_path, total_steps=6, accumulate=2)
    found = [line["metrics"] for line in lines(tmp_path) if line["kind"] == "metrics"]
    flops = [values["speed/tflops_per_s"] * values["speed/step_s"] for values in found]
    forward = 8 * sum(forward_flops(MODEL, MASKS, batch=4).values())
    assert flops[0] == pytest.approx(flops[1]) and 2.8e-12 * forward < flops[0] < 3e-12 * forward
    assert "speed/mfu" not in found[0]  # a CPU has no peak in the table


def test_recomputed_operations_are_not_counted(tmp_path: Path) -> None:
    flops = []
    for on in (False, True):
        pretrain(tmp_path / str(on), total_steps=1, gradient_checkpointing=on)
        found = [line["metrics"] for line in lines(tmp_path / str(on)) if line["kind"] == "metrics"]
        flops.append(found[0]["speed/tflops_per_s"] * found[0]["speed/step_s"])
    assert flops[0] == pytest.approx(flops[1])


def test_peaks_by_the_name_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak("NVIDIA H200") == peak("NVIDIA H100 80GB HBM3") == 989e12
    assert peak("NVIDIA H100 PCIe") == 756e12 and peak("NVIDIA A100-SXM4-80GB") == 312e12
    assert (
        peak("NVIDIA L40S") == 362e12
        and peak("NVIDIA L4") == 121e12
        and peak("NVIDIA A10G") is None
        and peak("Some GPU") is None
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    speed = speed_of(int(989e12), 0.5, 4, torch.device("cuda"))
    assert speed == {"speed/tflops_per_s": pytest.approx(1978), "speed/mfu": pytest.approx(0.5)}
    assert speed_of(None, 1.0, 1, torch.device("cuda")) == {}
