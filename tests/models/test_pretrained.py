"""Weights from elsewhere, and back: transformers' models, released naming, our own exports.

Every key is accounted for.
"""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from simvtp.errors import CheckpointError
from simvtp.methods import build_model
from simvtp.models.common.embeddings import cut_tubes
from simvtp.models.downstream.retrieval_encoders import DualEncoder
from simvtp.models.weights.pretrained import (
    import_state,
    import_weights,
)
from tests.models.small_models import random_batch
from tests.models.test_parity import DUAL, PRETRAINING
from tests.models.weight_helpers import (
    FIXTURE,
    equal,
    normalised,
    released,
    videomae_config,
)

# ---- released and original naming ----------------------------------------------------------------


def test_released_file_wrapped_or_not(tmp_path: Path) -> None:
    """.pth with and without {"model".

    ...}, next to the arguments and the optimizer that such files carry; .safetensors.
    """
    state = released()
    torch.save(
        {"model": state, "optimizer": {"step": 3}, "epoch": 7, "args": argparse.Namespace(lr=1e-3)},
        tmp_path / "wrapped.pth",
    )
    torch.save(state, tmp_path / "plain.pth")
    safetensors.torch.save_file(state, tmp_path / "plain.safetensors")
    models = []
    for name in ("wrapped.pth", "plain.pth", "plain.safetensors"):
        models.append(build_model(FIXTURE))
        done = import_weights(models[-1], tmp_path / name)
        assert done.unused == {} and done.kept == () and set(done.names) == set(state)
    assert equal(models[0], models[1]) and equal(models[0], models[2])


def test_original_videomae_naming(tmp_path: Path) -> None:
    state = {
        name: value for name, value in released().items() if not name.startswith(("text_", "vtm_"))
    }
    torch.save({"model": state}, tmp_path / "checkpoint.pth")
    model, whole = build_model(FIXTURE), build_model(FIXTURE)
    done = import_weights(model, tmp_path / "checkpoint.pth")
    import_state(whole, released(), "memory")
    assert done.kind == "VideoMAE, original naming" and {
        name.split(".")[0] for name in done.kept
    } == {
        "text_embedding",
        "text_decoder",
        "match_head",
    }
    assert torch.equal(model.video_decoder.head.weight, whole.video_decoder.head.weight)


def test_conv_weights_are_permuted_to_the_order_of_tubes() -> None:
    state = released()
    model = build_model(FIXTURE, ("vtc",))
    done = import_state(model, state, "memory")
    assert set(done.unused.values()) == {"its objective is off"}
    clips = random_batch(FIXTURE).clips
    weight, bias = (state[f"encoder.patch_embed.proj.{name}"] for name in ("weight", "bias"))
    video = normalised(clips).transpose(1, 2)
    right = (
        torch.nn.functional.conv3d(video, weight, bias, stride=weight.shape[2:])
        .flatten(2)
        .transpose(1, 2)
    )
    ours = model.video_embedding(cut_tubes(clips, FIXTURE)) - model.video_embedding.position
    torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-5)


def test_released_dual_explains_the_embeddings_that_are_not_used() -> None:
    config = replace(FIXTURE, depth=2, text_length=10)
    done = import_state(DualEncoder(config), released(DUAL), "memory")
    assert done.kept == ()
    assert sorted({key.rsplit(".", 2)[0] for key in done.unused}) == [
        "text_encoder.patch_embed",
        "video_encoder.text_embeddings",
    ]
    with pytest.raises(CheckpointError, match="does not fit a pre-training model"):
        import_state(build_model(config), released(DUAL), "memory")
    with pytest.raises(CheckpointError, match="does not fit a dual encoder"):
        import_state(DualEncoder(FIXTURE), released(), "memory")


def spoilt(change: Callable[[dict[str, Tensor]], Any]) -> dict[str, Tensor]:
    state = released()
    change(state)
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            spoilt(lambda s: s.update({"encoder.blocks.0.attn.gamma": torch.ones(3)})),
            "encoder.blocks.0.attn.gamma",
        ),
        (spoilt(lambda s: s.update({"teacher.weight": torch.ones(3)})), "teacher.weight"),
        (
            spoilt(lambda s: s.update({"encoder.blocks.3.norm1.weight": torch.ones(48)})),
            "same depth",
        ),
        (
            spoilt(lambda s: s.pop("decoder.blocks.1.mlp.fc1.bias")),
            "video_decoder.blocks.1.mlp.fc1.bias",
        ),
        (spoilt(lambda s: s.pop("text_cls.bias")), "text_decoder.head.bias"),
        (
            spoilt(lambda s: s.update({"encoder.norm.weight": torch.ones(49)})),
            r"encoder.norm.weight is \[49\] .* \[48\]",
        ),
        (
            spoilt(
                lambda s: s.update({"text_embeddings.word_embeddings.weight": torch.ones(98, 48)})
            ),
            r"model\.vocab_size .*data\.tokenizer",
        ),
        (
            spoilt(
                lambda s: s.update(
                    {"text_embeddings.position_embeddings.weight": torch.ones(20, 48)}
                )
            ),
            "max_text_positions",
        ),
        ({"weight": torch.ones(1)}, "no known kind"),
    ],
)
def test_what_cannot_be_explained_raises_and_changes_nothing(
    state: dict[str, Tensor], message: str
) -> None:
    model = build_model(FIXTURE)
    with pytest.raises(CheckpointError, match=message):
        import_state(model, state, "memory")
    assert equal(model, build_model(FIXTURE))


def test_a_missing_third_of_qkv_raises() -> None:
    from transformers import VideoMAEModel

    state = VideoMAEModel(videomae_config(FIXTURE)).state_dict()
    del state["encoder.layer.1.attention.attention.key.weight"]
    with pytest.raises(CheckpointError, match=r"encoder\.blocks\.1\.attn\.qkv\.weight"):
        import_state(build_model(FIXTURE), state, "memory")


# ---- sources -------------------------------------------------------------------------------------


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code in a checkpoint was run",)


def test_pickles_are_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": released(), "extra": Harmful()}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Harmful()))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(CheckpointError, match="foreign code"):
            import_weights(build_model(FIXTURE), tmp_path / name)
    assert "was run" not in capsys.readouterr().out


def test_sources_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "cut.safetensors").write_bytes(PRETRAINING.read_bytes()[:5000])
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 nothing")
    (tmp_path / "list.pth").write_bytes(b"")
    (tmp_path / "weights.txt").write_text("")
    torch.save([1, 2], tmp_path / "numbers.pth")
    (tmp_path / "folder").mkdir()
    for source, message in (
        (tmp_path / "cut.safetensors", "cannot be read"),
        (tmp_path / "cut.pth", "cannot be read"),
        (tmp_path / "list.pth", "cannot be read"),
        (tmp_path / "weights.txt", "checkpoints end in"),
        (tmp_path / "numbers.pth", "not a state dict"),
        (tmp_path / "folder", "no weights there"),
        (tmp_path / "absent.pth", "no such file or folder"),
        ("someone/no-such-videomae", "give the path of the folder"),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            import_weights(build_model(FIXTURE), source)
        assert "\n" not in str(caught.value)


def test_sharded_folder(tmp_path: Path) -> None:
    state = released()
    first = dict(list(state.items())[:20])
    rest = dict(list(state.items())[20:])
    safetensors.torch.save_file(first, tmp_path / "model-1.safetensors")
    safetensors.torch.save_file(rest, tmp_path / "model-2.safetensors")
    shards = {name: f"model-{1 if name in first else 2}.safetensors" for name in state}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    a, b = build_model(FIXTURE), build_model(FIXTURE)
    import_weights(a, tmp_path)
    import_state(b, state, "memory")
    assert equal(a, b)
