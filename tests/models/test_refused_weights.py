"""Weights whose shapes fit and that still mean something else: refused with the true reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from simvtp.config.model_config import MACConfig
from simvtp.errors import CheckpointError
from simvtp.methods import build_model
from simvtp.models.mac.mac_model import MAC
from simvtp.models.weights.architecture_checks import BERT_EMBEDDINGS, VIDEOMAE, check_architecture
from simvtp.models.weights.pretrained import import_state, import_weights
from tests.models.test_image_vit import CONFIG, timm_state
from tests.models.test_pixel_normalization import SIZES
from tests.models.weight_helpers import FIXTURE, equal, released, shaken, videomae_config

TEXT: dict[str, Any] = {
    "vocab_size": FIXTURE.vocab_size,
    "hidden_size": FIXTURE.dim,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act=relu .* has gelu"),
        ({"hidden_act": "quick_gelu"}, "hidden_act=quick_gelu"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps=1e-05 .* 1e-06"),
        ({"model_type": "vivit"}, "model_type=vivit .* expected videomae"),
        ({"num_attention_heads": 6}, "num_attention_heads=6 .* model.heads=3"),
    ],
)
def test_a_videomae_of_another_architecture(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    from transformers import VideoMAEModel

    VideoMAEModel(videomae_config(FIXTURE)).save_pretrained(tmp_path)
    import_weights(build_model(FIXTURE), tmp_path)
    change_config(tmp_path, **values)
    model = build_model(FIXTURE)
    for source in (tmp_path, tmp_path / "model.safetensors"):  # the config in its folder counts
        with pytest.raises(CheckpointError, match=message):
            import_weights(model, source)
    assert equal(model, build_model(FIXTURE))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pad_token_id": 1}, "pad_token_id=1 .* has 0"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps=1e-05 .* 1e-12"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type=relative_key"),
        ({"model_type": "xlm-roberta"}, "RoBERTa's positions begin after its pad id"),
    ],
)
def test_a_bert_with_other_settings(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(**TEXT)).save_pretrained(tmp_path)
    import_weights(build_model(FIXTURE), tmp_path)
    change_config(tmp_path, **values)
    with pytest.raises(CheckpointError, match=message):
        import_weights(build_model(FIXTURE), tmp_path)


def test_a_roberta_folder_is_no_bert(tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaForMaskedLM, RobertaModel

    settings = RobertaConfig(**TEXT, type_vocab_size=1)
    RobertaModel(settings).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="model_type=roberta .* RoBERTa's positions"):
        import_weights(build_model(FIXTURE), tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="RoBERTa one: use BERT"):
        import_weights(build_model(FIXTURE), tmp_path)
    with pytest.raises(CheckpointError, match="this is RoBERTa"):
        import_state(build_model(FIXTURE), RobertaForMaskedLM(settings).state_dict(), "memory")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "vit_base_patch16_clip_224"}, "norm before its blocks"),
        ({"architecture": "vit_base_patch16_clip_quickgelu_224"}, "activation=quick_gelu"),
        ({"architecture": "vit_base", "model_args": {"act_layer": "relu"}}, "activation=relu"),
    ],
)
@pytest.mark.parametrize("method", ["simvtp", "mac"])
def test_a_timm_model_of_another_architecture(
    tmp_path: Path, settings: dict[str, Any], message: str, method: str
) -> None:
    model = MAC(MACConfig(**SIZES)) if method == "mac" else build_model(CONFIG)
    safetensors.torch.save_file(timm_state(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=message):
        import_weights(model, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_base_patch16_224"}))
    import_weights(model, tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"activation": "relu"}, "activation=relu"),
        ({"pad_token_id": 1}, "pad_token_id=1"),
        ({"n_heads": 4}, "n_heads=4 .* model.text_heads=3"),
        ({"model_type": "bert"}, "model_type=bert .* expected distilbert"),
    ],
)
def test_a_distilbert_with_other_settings(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    from transformers import DistilBertConfig, DistilBertModel

    sizes = {"vocab_size": 50, "dim": 48, "n_layers": 1, "n_heads": 3, "hidden_dim": 192}
    shaken(DistilBertModel(DistilBertConfig(**sizes))).save_pretrained(tmp_path)
    model = MAC(MACConfig(**SIZES, text_depth=1))
    import_weights(model, tmp_path)
    change_config(tmp_path, **values)
    with pytest.raises(CheckpointError, match=message):
        import_weights(model, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(value: float) -> None:
    state = released()
    name = "encoder.blocks.1.mlp.fc1.weight"
    state[name] = state[name].clone()
    state[name][3, :2] = value
    model = build_model(FIXTURE)
    with pytest.raises(CheckpointError, match=r"NaN or infinite.*blocks\.1\.mlp\.fc1.*\(2 of"):
        import_state(model, state, "memory")
    assert equal(model, build_model(FIXTURE))
    mac, image = MAC(MACConfig(**SIZES)), timm_state()
    image["blocks.0.attn.qkv.bias"][0] = value
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        import_state(mac, image, "memory")


def test_differences_without_effect_are_noted() -> None:
    settings = {"model_type": "videomae", "hidden_act": "gelu", "layer_norm_eps": 1e-12}
    assert "layer_norm_eps=1e-12" in check_architecture(settings, VIDEOMAE, "x")[0]
    assert check_architecture({"layer_norm_eps": 1e-6}, VIDEOMAE, "x") == ()
    assert check_architecture({}, BERT_EMBEDDINGS, "x") == ()
