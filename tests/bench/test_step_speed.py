"""`bench step`: the implementations compute the same loss, and the rows hold what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from simvtp.__main__ import main
from simvtp.bench import measure
from simvtp.bench.measure import Timed, count_flops, largest_batch, take_turns
from simvtp.bench.step import sizes, step_speed
from simvtp.bench.step.implementations import build_all
from simvtp.bench.step.released_transcription import ReleasedSimVTP, released_name
from simvtp.bench.step.sizes import make_inputs
from simvtp.bench.step.step_page import step_page
from simvtp.config.model_config import MaskConfig, SimVTPConfig
from simvtp.config.train_config import LossConfig
from simvtp.errors import ConfigError
from simvtp.methods import build_model
from simvtp.models.common.forward_options import DEFAULT_OPTIONS
from simvtp.models.flops.simvtp_flops import forward_flops
from simvtp.training.objectives import PretrainObjective

CPU = torch.device("cpu")
SMALL = SimVTPConfig(
    image_size=32,
    frames=4,
    patch_size=8,
    dim=24,
    depth=2,
    heads=2,
    decoder_dim=16,
    decoder_depth=2,
    decoder_heads=2,
    vocab_size=60,
    text_length=16,
    max_text_positions=16,
    text_dropout=0.0,
)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sizes.SIZES, "tiny", SMALL)
    monkeypatch.setitem(measure.CEILING_SIZES, "cpu", (64, 128))


@pytest.mark.parametrize("rule", ["exact", "bernoulli"])
def test_the_transcription_has_the_losses_and_gradients_of_ours_as_released(rule: str) -> None:
    config = replace(SMALL, pooling="with_pads", reuse_pair_pass=False)
    masks = MaskConfig(text_rule=rule, text_ratio=0.6)  # type: ignore[arg-type]
    inputs = make_inputs(config, masks, 5, CPU)
    assert not inputs.batch.attention_mask.all()  # there is padding
    ours = build_model(config, seed=1)
    with torch.no_grad():
        for parameter in ours.parameters():  # no bias and no norm at a special value
            parameter.add_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)) * 0.05
            )
    plain = ReleasedSimVTP(config)
    plain.copy_weights_from(ours)
    losses, _ = PretrainObjective(LossConfig(vtc_negatives="local"))(
        ours(inputs.batch, inputs.masks)
    )
    released = plain(inputs)
    assert released.keys() == losses.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(released[name], loss, rtol=1e-5, atol=1e-6)
    torch.stack(list(losses.values())).sum().backward()
    torch.stack(list(released.values())).sum().backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        if name == "video_embedding.proj.weight":
            gradient = plain.video_embedding.weight.grad.permute(0, 2, 3, 4, 1).flatten(1)
        else:
            gradient = theirs[released_name(name)].grad
        torch.testing.assert_close(
            gradient,
            parameter.grad,
            rtol=1e-4,
            atol=1e-5 * float(parameter.grad.abs().max()),
            msg=name,
        )


def gradient_norm(model: nn.Module) -> float:
    parts = [p.grad.double().norm() for p in model.parameters() if p.grad is not None]
    return torch.stack(parts).norm().item()


def test_transformers_and_ours_have_the_same_loss_and_gradients() -> None:
    pytest.importorskip("transformers")
    inputs = make_inputs(SMALL, MaskConfig(), 3, CPU)
    baseline, ours = build_all(SMALL, "mvm", CPU)
    for candidate in (baseline, ours):
        candidate.loss(candidate.model, inputs).backward()
    norms = [gradient_norm(candidate.model) for candidate in (baseline, ours)]
    # The norm of transformers' decoder has another eps.
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    assert not any(p.grad is not None for n, p in ours.model.named_parameters() if "text" in n)


def test_flops_are_counted_as_the_model_says() -> None:
    inputs = make_inputs(SMALL, MaskConfig(), 4, CPU)
    (released, ours) = build_all(SMALL, "all", CPU)
    packed = sum(count_flops(lambda: ours.loss(ours.model, inputs)))
    ours.options = DEFAULT_OPTIONS
    forward, backward = count_flops(lambda: ours.loss(ours.model, inputs))
    assert 0.7 * (forward + backward) < packed < 0.99 * (forward + backward)
    assert forward / 4 == pytest.approx(sum(forward_flops(SMALL, batch=4).values()), rel=0.02)
    assert 1.8 * forward < backward < 2.1 * forward
    plain = sum(count_flops(lambda: released.loss(released.model, inputs)))
    assert plain > 1.2 * (forward + backward)


def test_the_measurement_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.md"
    options = "--batch 4 --rounds 2 --seconds 0 --device cpu --profile --precision fp32,bf16"
    arguments = ["bench", "step", *options.split(), "--out", str(out)]
    assert main(arguments) == 0
    text = out.read_text()
    assert text in capsys.readouterr().out
    lines = [line for line in text.splitlines() if line.startswith(("| released", "| ours"))]
    assert [line.split(" | ")[:2] for line in lines] == [
        ["| released", "fp32"],
        ["| ours", "fp32"],
        ["| released", "bf16"],
        ["| ours", "bf16"],
    ]
    assert "| commit | " in text and "ours in bf16 against released in fp32" in text
    assert "Profile of ours in bf16: " in text


def test_rows_hold_what_was_measured() -> None:
    pytest.importorskip("transformers")
    options = step_speed.StepSpeedOptions(what="mvm", batch=3, rounds=3, seconds=0.0)
    rows = step_speed.measure_step(options, CPU, say=lambda line: None)
    assert [row.name for row in rows] == ["transformers", "ours"]
    for row in rows:
        assert len(row.time.wall) == len(row.ceilings) == 3 and row.flops > 0 and row.memory > 0
        assert row.achieved(3) == pytest.approx(row.flops * 3 / row.time.seconds)
    assert rows[1].flops < rows[0].flops  # only visible tubes are embedded
    assert step_speed.reference(rows, rows[1]) is rows[0]
    assert "— |" in step_page("x", options, rows, CPU)  # no largest batch on a CPU


def test_turns_go_there_and_back() -> None:
    order: list[str] = []
    timed = take_turns([lambda: order.append("a"), lambda: order.append("b")], CPU, rounds=2)
    assert order[4:] == ["a", "b", "b", "a"]
    assert [len(one.wall) for one in timed] == [2, 2]
    assert Timed([1.0, 2.0, 2.0]).ratio(Timed([2.0, 2.0, 6.0])) == (2.0, 1.0, 3.0)


def test_the_largest_batch_is_found() -> None:
    for limit in (0, 7, 8, 100, 1000):
        found = largest_batch(lambda n, limit=limit: n <= limit, 16, 8)  # type: ignore[misc]
        assert found <= limit and found >= limit - max(8, limit // 7) and found % 8 == 0


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="fp8"):
        step_speed.measure_step(step_speed.StepSpeedOptions(precisions=("fp8",)), CPU)
    with pytest.raises(ConfigError, match="giant"):
        sizes.model_size("giant")
