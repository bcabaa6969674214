"""Files as they are published: other names, wrappers and prefixes around known weights."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from simvtp.config.model_config import MACConfig
from simvtp.errors import CheckpointError
from simvtp.methods import build_model
from simvtp.methods.exported_model import convert_foreign
from simvtp.models.common.layers import sine_cosine_table
from simvtp.models.mac.mac_model import MAC
from simvtp.models.weights.frozen_naming import to_frozen
from simvtp.models.weights.pretrained import import_state, import_weights
from tests.models.official_names import official_names
from tests.models.small_models import random_batch
from tests.models.test_image_vit import CONFIG, still
from tests.models.test_pixel_normalization import SIZES
from tests.models.weight_helpers import FIXTURE, equal, normalised, shaken, videomae_config

State = dict[str, Tensor]


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


@pytest.fixture(scope="module")
def classifier() -> Any:
    """A fine-tuned VideoMAE: the mean of the tokens, `fc_norm`, a linear layer."""
    from transformers import VideoMAEForVideoClassification

    settings = videomae_config(FIXTURE, num_labels=7)
    return shaken(VideoMAEForVideoClassification(settings)).eval()


FILES: dict[str, Callable[[State], Any]] = {
    "plain.pth": lambda state: state,
    "deepspeed.pt": lambda state: {"module": state, "global_steps": 3, "lr_scheduler": {}},
    "parallel.pth.tar": lambda state: {"state_dict": prefixed(state, "module.model."), "epoch": 9},
    "compiled.pyth": lambda state: {"model_state": prefixed(state, "_orig_mod."), "cfg": "..."},
    "average.pth": lambda state: {"model_ema": prefixed(state, "backbone."), "optimizer": {}},
    "both.pth": lambda state: {"model": state, "model_ema": {"x": torch.ones(1)}},
    "nested.ckpt": lambda state: {"state_dict": {"model": state}},
    "averaged_names.bin": lambda state: prefixed(state, "module.ema_model."),
}


@pytest.mark.parametrize("name", FILES)
def test_a_fine_tuned_videomae_in_any_wrapping(tmp_path: Path, classifier: Any, name: str) -> None:
    state = official_names(classifier.state_dict())
    torch.save(FILES[name](state), tmp_path / name)
    model, plain = build_model(FIXTURE, ("vtc",)), build_model(FIXTURE, ("vtc",))
    done = import_weights(model, tmp_path / name)
    import_state(plain, state, "memory")
    assert equal(model, plain)
    assert set(done.unused) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert set(done.names) | set(done.unused) == set(state)
    notes = " ".join(done.notes)
    assert "no final norm" in notes
    assert ("moving average" in notes) == (name in ("average.pth", "averaged_names.bin"))
    for word in {
        "deepspeed.pt": ["2 entries", "global_steps, lr_scheduler"],
        "parallel.pth.tar": [f"prefix 'module.model.' of {len(state)} names", "epoch"],
        "average.pth": ["'model_ema'", "'backbone.'", "optimizer"],
        "both.pth": ["1 entries of the file are not read: model_ema"],
    }.get(name, []):
        assert word in notes
    assert "4 keys not loaded (head of a classifier" in str(done)


def test_the_features_of_a_fine_tuned_videomae_are_its_own(classifier: Any) -> None:
    model = build_model(FIXTURE, ("vtc",)).eval()
    import_state(model, official_names(classifier.state_dict()), "memory")
    model.encoder.norm = torch.nn.Identity()  # its norm comes after the mean, as fc_norm
    clips = random_batch(FIXTURE, size=2).clips
    with torch.no_grad():
        ours = model.embed_video(clips)
        right = classifier.videomae(normalised(clips)).last_hidden_state.mean(dim=1)
    assert (ours - right).abs().max() / right.abs().max() < 1e-5


@pytest.mark.parametrize("prefix", ["", "encoder.", "module.encoder."])
def test_the_encoder_alone_has_the_features_of_transformers(tmp_path: Path, prefix: str) -> None:
    from transformers import VideoMAEModel

    theirs = shaken(VideoMAEModel(videomae_config(FIXTURE, use_mean_pooling=False))).eval()
    state = official_names(theirs.state_dict())
    torch.save({"model": prefixed(state, prefix)}, tmp_path / "encoder.pth")
    model = build_model(FIXTURE, ("vtc",)).eval()
    done = import_weights(model, tmp_path / "encoder.pth")
    assert not done.unused and all(name.startswith("text_embedding.") for name in done.kept)
    clips = random_batch(FIXTURE, size=2).clips
    with torch.no_grad():
        ours, right = model.embed_video(clips), theirs(normalised(clips)).last_hidden_state
    assert (ours - right.mean(dim=1)).abs().max() / right.abs().max() < 1e-5


def test_a_stored_table_of_fixed_positions_is_no_obstacle(classifier: Any) -> None:
    state = official_names(classifier.state_dict())
    table = sine_cosine_table(FIXTURE.tubes, FIXTURE.dim)[None]
    done = import_state(build_model(FIXTURE), {**state, "pos_embed": table}, "memory")
    assert "sine-cosine" in done.unused["pos_embed"]
    with pytest.raises(CheckpointError, match="pos_embed is a learned table"):
        import_state(build_model(FIXTURE), {**state, "pos_embed": table + 0.1}, "memory")


def test_two_names_that_become_one_are_refused(tmp_path: Path) -> None:
    state = {"module.a.weight": torch.ones(1), "a.weight": torch.ones(1)}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"two of its names mean a\.weight"):
        import_weights(build_model(FIXTURE), tmp_path / "a.pth")


# ---- image ViTs of transformers ------------------------------------------------------------------


@pytest.fixture(scope="module")
def vit() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    settings = ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=192,
        image_size=32,
        patch_size=8,
        layer_norm_eps=1e-6,
    )
    return shaken(ViTForImageClassification(settings)).eval()


def saved_vit(vit: Any, folder: Path, form: str) -> Path:
    """The folder that transformers writes, or a file with the names of its modules."""
    if form == "folder":
        vit.save_pretrained(folder)
        return folder
    torch.save(vit.state_dict(), folder / "vit.pth")
    return folder / "vit.pth"


@pytest.mark.parametrize("form", ["folder", "modules"])
def test_a_still_clip_has_the_features_of_transformers_vit_in_mac(
    tmp_path: Path, vit: Any, form: str
) -> None:
    model = MAC(MACConfig(**SIZES)).eval()
    model.initialise(0)
    done = import_weights(model, saved_vit(vit, tmp_path, form))
    assert done.kind == "image ViT of transformers"
    assert set(done.unused) >= {"classifier.weight", "classifier.bias"}
    assert {why.split()[0] for why in done.unused.values()} == {"head", "shifts"}
    clips, picture = still(CONFIG)
    with torch.no_grad():
        ours = model.video_tower(clips)
        right = vit.vit(picture).last_hidden_state[:, 0]
    assert (ours - right).abs().max() / right.abs().max() < 1e-5


def test_names_of_modules_and_of_files_are_the_same_weights(tmp_path: Path, vit: Any) -> None:
    models = []
    for form in ("folder", "modules"):
        (tmp_path / form).mkdir()
        models.append(build_model(CONFIG))
        done = import_weights(models[-1], saved_vit(vit, tmp_path / form, form))
        assert len(done.names) + len(done.unused) == len(vit.state_dict())
    assert equal(*models)


# ---- Frozen-in-Time ------------------------------------------------------------------------------


def test_frozens_published_file_into_mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names below `module.`, next to its settings, a class of its code, and a NumPy number."""
    config = MACConfig(**SIZES, text_depth=1, projection=16, text_projection="relu")
    source = MAC(config)
    source.initialise(0)
    source.video_tower.embedding.temporal.data.normal_(generator=torch.Generator().manual_seed(0))
    values = {name: value.detach() for name, value in source.named_parameters()}
    state = to_frozen(values, config.patch_size)
    state["video_model.cls_token"] = torch.zeros(1, 1, config.dim)  # its position has all of it
    code = types.ModuleType("parse_config")
    parser = type("ConfigParser", (), {"__module__": "parse_config"})
    code.ConfigParser = parser  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "parse_config", code)
    settings = parser()
    settings._config, settings._save_dir = {"arch": {"type": "FrozenInTime"}}, Path("exps")
    torch.save(
        {
            "arch": "FrozenInTime",
            "epoch": 3,
            "state_dict": prefixed(state, "module."),
            "monitor_best": numpy.float64(1.5),
            "config": settings,
        },
        tmp_path / "cc-webvid2m-4f_stformer_b_16_224.pth.tar",
    )
    monkeypatch.delitem(sys.modules, "parse_config")
    target = MAC(config)
    target.initialise(1)
    done = import_weights(target, tmp_path / "cc-webvid2m-4f_stformer_b_16_224.pth.tar")
    assert "Frozen" in done.kind and equal(source, target)
    assert any("arch, epoch, monitor_best, config" in note for note in done.notes)
    model, _ = convert_foreign(str(next(tmp_path.iterdir())), config)
    assert isinstance(model, MAC) and equal(source, model)
