"""Exported weights: exact round trips, starting points, damaged files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from simvtp.errors import CheckpointError
from simvtp.methods import build_model
from simvtp.methods.exported_model import from_pretrained, save_pretrained
from simvtp.models.downstream.retrieval_encoders import DualEncoder
from simvtp.models.simvtp.simvtp_model import OBJECTIVES, SimVTP
from simvtp.models.weights.pretrained import (
    export_released,
    import_state,
    initialise_from,
)
from tests.models.small_models import CONFIG, masks_for, random_batch, small
from tests.models.test_parity import DUAL
from tests.models.weight_helpers import (
    FIXTURE,
    equal,
    released,
    shaken,
)


@pytest.mark.parametrize("objectives", [OBJECTIVES, ("vtc",)], ids="+".join)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_round_trip_is_bit_exact(
    tmp_path: Path, objectives: tuple[str, ...], dtype: torch.dtype
) -> None:
    model = shaken(build_model(small(text_decoder_depth=1, drop_path=0.1), objectives, seed=9)).to(
        dtype
    )
    save_pretrained(model, tmp_path / "here")
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    again = from_pretrained(tmp_path / "here")
    assert (
        isinstance(again, SimVTP)
        and again.config == model.config
        and again.objectives == model.objectives
    )
    assert equal(model, again)
    batch = random_batch(CONFIG)
    if dtype == torch.float32:
        a, b = (
            model.eval()(batch, masks_for(batch, CONFIG)),
            again.eval()(batch, masks_for(batch, CONFIG)),
        )
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_round_trip_of_the_dual_encoder(tmp_path: Path) -> None:
    dual = shaken(DualEncoder.from_unified(build_model(CONFIG), drop_path=0.2, pooling="with_pads"))
    save_pretrained(dual, tmp_path)
    again = from_pretrained(tmp_path)
    assert isinstance(again, DualEncoder) and again.config == dual.config and equal(dual, again)


def test_an_export_serves_as_starting_point(tmp_path: Path) -> None:
    model = shaken(build_model(CONFIG))
    save_pretrained(model, tmp_path)
    start = build_model(small(init_video=str(tmp_path)), seed=5)
    initialise_from(start, start.config)
    assert equal(model, start)


def test_damaged_exports(tmp_path: Path) -> None:
    save_pretrained(build_model(CONFIG), tmp_path)
    description = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"format": 99}, "export the model again"),
        ({"model": {**description["model"], "depth": 3}}, "same depth"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(description | change))
        with pytest.raises(CheckpointError, match=message):
            from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        from_pretrained(tmp_path / "absent")


def test_released_naming_round_trip(tmp_path: Path) -> None:
    state = released()
    model = build_model(FIXTURE)
    import_state(model, state, "memory")
    export_released(model, tmp_path / "out.safetensors")
    written = safetensors.torch.load_file(tmp_path / "out.safetensors")
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], state[name]) for name in state)


def test_released_dual_naming_round_trip(tmp_path: Path) -> None:
    """The unused embedding of each copy comes from the other copy.

    All that is used comes back bit by bit.
    """
    state = released(DUAL)
    model = DualEncoder(replace(FIXTURE, depth=2))
    done = import_state(model, state, "memory")
    export_released(model, tmp_path / "out.safetensors")
    written = safetensors.torch.load_file(tmp_path / "out.safetensors")
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], state[name]) for name in done.names)
    word = "text_embeddings.word_embeddings.weight"
    assert torch.equal(written[f"video_encoder.{word}"], state[f"text_encoder.{word}"])


def test_a_deeper_text_decoder_has_no_released_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="text_decoder_depth=0"):
        export_released(build_model(small(text_decoder_depth=1)), tmp_path / "out.safetensors")
