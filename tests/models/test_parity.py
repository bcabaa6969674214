"""The reference files of the released implementation, and what happens with files that are none."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from simvtp.config.experiment_config import Experiment
from simvtp.config.model_config import SimVTPConfig
from simvtp.config.recipes import get_recipe
from simvtp.errors import CheckpointError
from simvtp.experiment import parity
from simvtp.experiment.parity import check_reference_file, main, pretraining_loss
from simvtp.experiment.references.reference_file import read_reference
from simvtp.methods import build_model
from simvtp.models.weights.pretrained import export_released
from simvtp.training.losses import (
    contrastive_loss,
    masked_pixel_loss,
    matching_loss,
    normalise_tubes,
    word_loss,
)
from tests.models.small_models import masks_for, random_batch

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
PRETRAINING, DUAL = (
    FIXTURES / "simvtp_released_a.safetensors",
    FIXTURES / "finetune_released_a.safetensors",
)
RAGGED = FIXTURES / "simvtp_released_ragged_a.safetensors"  # captions of 6 to 11 pieces
PIPELINE = 2 + 4  # masked tubes, text length; the losses


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["config"])


def write(path: Path, tensors: dict[str, torch.Tensor], config: dict | None) -> Path:
    safetensors.torch.save_file(
        tensors, path, metadata=None if config is None else {"config": json.dumps(config)}
    )
    return path


@pytest.mark.parametrize(
    ("path", "count"),
    [(PRETRAINING, 6 + 4 + 84 + PIPELINE), (RAGGED, 6 + 4 + 84 + PIPELINE), (DUAL, 3 + 1)],
    ids=["pretraining", "ragged", "dual"],
)
def test_reference_file_holds_in_both_precisions(
    path: Path, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    found = check_reference_file(path)
    assert [deviation for deviation in found if not deviation.ok] == []
    assert len(found) == 2 * count
    assert sum(one.name.startswith("float32 ") for one in found) == count
    for deviation in found:
        assert deviation.limit == (1e-4 if "grad_norm/" in deviation.name else 1e-5)
    tensors, _ = read(path)
    expected = {name for name in tensors if name.startswith("grad_norm/")}
    assert {d.name.split()[1] for d in found if "grad_norm/" in d.name} == expected


def test_main_prints_a_line_each_and_fails_on_a_deviation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(DUAL) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9 and all(line.endswith("ok") for line in lines[:-1])
    tensors, config = read(DUAL)
    tensors["out/text_embedding"] = tensors["out/text_embedding"] * (1 + 1e-4)
    assert main(write(tmp_path / "off.safetensors", tensors, config)) == 1
    failing = [line for line in capsys.readouterr().out.splitlines() if line.endswith("FAILS")]
    assert [line.split()[1] for line in failing] == ["out/text_embedding"] * 2


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("grad_norm/mask_token", 1.001),
        ("out/vtm_logits", 1.0001),
        ("state/decoder.blocks.1.norm2.bias", 1.1),
        ("out/losses_mvm_mlm_vtc_vtm", 1.0001),
    ],
)
def test_a_changed_value_is_found(tmp_path: Path, name: str, factor: float) -> None:
    tensors, config = read(PRETRAINING)
    tensors[name] = tensors[name] * factor
    found = check_reference_file(
        write(tmp_path / "off.safetensors", tensors, config), (torch.float64,)
    )
    assert any(not deviation.ok for deviation in found)


def test_the_pipeline_of_released_pads_to_the_longest_caption(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # With captions padded to 32 positions instead, VTC and VTM are those that the README of the
    # reference files gives for that: 4.123 for 4.178, and 1.677 for 1.369.
    _, _, vtc, vtm = read(RAGGED)[0]["out/losses_mvm_mlm_vtc_vtm"].tolist()
    assert (vtc, vtm) == pytest.approx((4.178, 1.369), abs=1e-3)

    def fixed() -> Experiment:
        recipe = get_recipe("released")
        return replace(recipe, model=replace(recipe.model, text_padding="fixed"))

    monkeypatch.setattr(parity, "released", fixed)
    found = {d.name: d for d in check_reference_file(RAGGED, (torch.float64,)) if not d.ok}
    assert set(found) == {
        f"float64 pipeline {name}" for name in ("text length", "loss vtc", "loss vtm")
    }
    assert found["float64 pipeline loss vtc"].relative == pytest.approx(1 - 4.123 / vtc, abs=5e-4)
    assert found["float64 pipeline loss vtm"].relative == pytest.approx(1.677 / vtm - 1, abs=5e-4)


def test_gradients_in_full_are_compared_by_element(tmp_path: Path) -> None:
    """The gradient of three parameters of the file by central differences of the file's losses."""
    tensors, config = read(PRETRAINING)
    names = ("text_cls.bias", "encoder.blocks.1.attn.q_bias", "vtm_head.weight")
    for name in names:
        tensors[f"grad/{name}"] = by_differences(tensors, config, name, tmp_path)
    path = write(tmp_path / "full.safetensors", tensors, config)
    found = {d.name: d for d in check_reference_file(path, (torch.float64,)) if "grad/" in d.name}
    assert set(found) == {f"float64 grad/{name}" for name in names}
    assert all(d.relative < 1e-4 for d in found.values()), found
    one, two = tensors["grad/vtm_head.weight"]
    tensors["grad/vtm_head.weight"] = torch.stack([two, one])  # the same norm
    path = write(tmp_path / "swapped.safetensors", tensors, config)
    wrong = [d.name for d in check_reference_file(path, (torch.float64,)) if not d.ok]
    assert wrong == ["float64 grad/vtm_head.weight"]


def by_differences(
    tensors: dict[str, torch.Tensor], config: dict, name: str, folder: Path, step: float = 1e-4
) -> torch.Tensor:
    """The gradient of the sum of the four losses, element by element."""
    kept = tensors[f"state/{name}"].double()
    gradient = torch.zeros_like(kept)
    for index in range(kept.numel()):
        losses = []
        for sign in (1, -1):
            moved = kept.clone()
            moved.view(-1)[index] += sign * step
            changed = {**tensors, f"state/{name}": moved}
            file = write(folder / "moved.safetensors", changed, config)
            losses.append(float(pretraining_loss(read_reference(file))))
        gradient.view(-1)[index] = (losses[0] - losses[1]) / (2 * step)
    return gradient


@pytest.mark.parametrize("value", [[32, 32], "32", 32.5, None, True])
def test_a_size_that_is_no_whole_number_is_one_sentence(tmp_path: Path, value: object) -> None:
    tensors, config = read(PRETRAINING)
    path = write(tmp_path / "odd.safetensors", tensors, {**config, "image_size": value})
    with pytest.raises(CheckpointError, match="'image_size' in its metadata is .*a whole number"):
        check_reference_file(path)


OTHER_SIZES = SimVTPConfig(
    image_size=24,
    frames=6,
    patch_size=12,
    tubelet_size=3,
    dim=40,
    depth=1,
    heads=5,
    mlp_ratio=2.5,
    decoder_dim=32,
    decoder_depth=3,
    decoder_heads=4,
    vocab_size=61,
    text_length=20,
    max_text_positions=20,
    text_dropout=0.0,
    pooling="with_pads",
)


def test_sizes_come_from_the_file(tmp_path: Path) -> None:
    """A file of quite other sizes, written from our own model in float64, is read and holds."""
    config = OTHER_SIZES
    batch = random_batch(config, size=5)
    masks = masks_for(batch, config)
    labels = torch.where(masks.input_ids != batch.input_ids, batch.input_ids, -100)
    places = torch.arange(20).repeat(5, 1)
    model = build_model(config).double()
    out = model(batch, replace(masks, word_positions=places, word_labels=labels))
    target = normalise_tubes(out["video_pixels"], out["video_prediction"].dtype)
    losses = torch.stack(
        [
            masked_pixel_loss(out["video_prediction"], target),
            word_loss(out["word_logits"], labels),
            contrastive_loss(out["video_feature"], out["text_feature"], 0.2),
            matching_loss(out["match_logits"]),
        ]
    )
    losses.sum().backward()
    export_released(model, tmp_path / "weights.safetensors")
    weights = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    norm = model.text_decoder.head.weight.grad.norm()
    tensors = {f"state/{name}": value for name, value in weights.items()} | {
        "in/pixels_uint8": batch.clips.permute(0, 4, 1, 2, 3),
        "in/video_mask": torch.zeros(5, config.tubes, dtype=torch.bool).scatter(
            1, masks.masked, True
        ),
        "in/input_ids_original": batch.input_ids,
        "in/input_ids_masked": masks.input_ids,
        "in/attention_mask": batch.attention_mask.int(),
        "in/mlm_labels": labels,
        "in/vtm_negative_index": out["negative_index"].int(),
        "out/video_prediction_masked": out["video_prediction"],
        "out/video_target_masked": target,
        "out/mlm_logits": out["word_logits"],
        "out/vtm_logits": out["match_logits"],
        "out/text_feature": out["text_feature"],
        "out/video_feature": out["video_feature"],
        "out/losses_mvm_mlm_vtc_vtm": losses,
        "grad_norm/text_cls.weight": norm[None],
    }
    same = "image_size frames patch_size tubelet_size depth heads vocab_size max_text_positions"
    names = [*same.split(), "decoder_dim", "decoder_depth", "decoder_heads"]
    sizes = {name: getattr(config, name) for name in names}
    sizes |= {"embed_dim": config.dim, "temperature": 0.2}
    path = write(
        tmp_path / "other.safetensors",
        {name: value.detach().contiguous() for name, value in tensors.items()},
        sizes,
    )
    found = check_reference_file(path)
    assert len(found) == 2 * 11 and [deviation for deviation in found if not deviation.ok] == []


def test_files_that_cannot_be_checked(tmp_path: Path) -> None:
    tensors, config = read(PRETRAINING)
    file = tmp_path / "x.safetensors"
    for change, message in (
        ({k: v for k, v in config.items() if k != "decoder_heads"}, "decoder_heads"),
        ({**config, "depth": 4}, "depth"),
        ({**config, "layer_norm_eps_blocks": 1e-5}, "eps"),
        (None, "not a reference file"),
    ):
        with pytest.raises(CheckpointError, match=message):
            check_reference_file(write(file, tensors, change))
    with pytest.raises(CheckpointError, match="out/mlm_logits"):
        check_reference_file(
            write(file, {k: v for k, v in tensors.items() if k != "out/mlm_logits"}, config)
        )
    file.write_bytes(b"no safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        check_reference_file(file)
    with pytest.raises(CheckpointError, match="cannot be read"):
        check_reference_file(tmp_path / "absent.safetensors")


def test_runs_as_a_program() -> None:
    program = (
        f"import sys; from simvtp.experiment.parity import main; sys.exit(main({str(DUAL)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=FIXTURES.parents[1]
    )
    assert done.returncode == 0 and "8 of 8 comparisons hold" in done.stdout
