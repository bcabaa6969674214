"""The model of any run directory: opened without its data, converted, and the same bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from simvtp.__main__ import main
from simvtp.batch import Batch
from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override
from simvtp.config.recipes import get_recipe
from simvtp.errors import CheckpointError, UserError
from simvtp.experiment import run
from simvtp.experiment.final_weights import load_final_weights
from simvtp.methods import build_model, method_of
from simvtp.methods.exported_model import from_pretrained
from simvtp.methods.model_kinds import settings_of
from simvtp.models.downstream.action_model import VideoClassifier
from simvtp.models.downstream.cross_encoder import PairModel
from simvtp.models.downstream.grounding_model import GroundingModel
from simvtp.models.downstream.retrieval_encoders import DualEncoder, SharedEncoder
from simvtp.models.mac.mac_model import MAC
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.runs.rundir import write_identity
from simvtp.tasks import open_task
from tests.small import small_experiment, small_mac_settings, small_settings
from tests.tasks.task_helpers import context_of, silent

SHORT = ("pretrain.max_steps=1", "finetune.train.max_steps=1", "finetune.evaluations=1")
TASKS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "retrieval": (DualEncoder, ("finetune.task.pooling=with_pads",)),
    "retrieval, one encoder": (SharedEncoder, ("finetune.task.encoder=shared",)),
    "retrieval of two encoders": (DualEncoder, ("model.encoders=two",)),
    "qa": (PairModel, ("finetune.task=qa", "finetune.task.baseline=true")),
    "count": (PairModel, ("finetune.task=qa", "finetune.task.questions=count")),
    "choice": (PairModel, ("finetune.task=choice", "finetune.task.drop_tubes=0.5")),
    "action": (VideoClassifier, ("finetune.task=action",)),
    "probe": (VideoClassifier, ("finetune.task=action", "finetune.task.probe=attentive")),
    "grounding": (
        GroundingModel,
        ("finetune.task=grounding", "finetune.task.segments=3", "data.stride=1"),
    ),
    "mac": (MAC, ("finetune.task.masks=true",)),
}
QUICK = ("qa", "mac")


def experiment_of(name: str, root: Path, cache: Path) -> Experiment:
    settings = (*TASKS[name][1], *SHORT, "evaluate.zero_shot=false")
    if name == "mac":
        return override(get_recipe("tiny_mac"), small_mac_settings(root, cache, *settings))
    return small_experiment(root, cache, *settings)


def as_the_run_had_it(experiment: Experiment, training: str) -> nn.Module:
    """The model that the experiment itself builds, on its data, with its final weights."""
    context = context_of(experiment, blind=training == "finetune_blind")
    settings = context.experiment
    model = build_model(settings.model, settings.losses.wanted, 1)
    if training != "pretrain":
        model = open_task(context).build(model)
    load_final_weights(model, experiment.run_dir, training)
    return model.eval()


@torch.no_grad()
def features(model: nn.Module) -> list[Tensor]:
    """Returns what the model computes of clips and captions of its own sizes."""
    config = (model.pair if isinstance(model, PairModel | GroundingModel) else model).config
    generator = torch.Generator().manual_seed(0)
    frames = config.frames * (model.segments if isinstance(model, GroundingModel) else 1)
    shape = (2, frames, config.image_size, config.image_size, 3)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    ids = torch.randint(4, 40, (2, config.text_length), generator=generator)
    mask = torch.arange(config.text_length) < torch.tensor([[5], [9]])
    if isinstance(model, PairModel | GroundingModel):
        return [model.score(clips, ids, mask)]
    if isinstance(model, VideoClassifier):
        return [model(Batch(clips, ids, mask, ids, ("a", "b")))["logits"]]
    return [model.embed_video(clips), model.embed_text(ids, mask)]


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    assert type(found) is type(expected) and not found.training
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for one, other in zip(features(found), features(expected), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TASKS],
)
def test_every_training_of_a_run_is_opened_and_converted(
    name: str, tmp_path: Path, shapes_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = experiment_of(name, tmp_path / "runs", shapes_cache)
    run(experiment, say=silent)
    folder = experiment.run_dir
    trainings = sorted(path.stem for path in (folder / "checkpoints").glob("*.safetensors"))
    assert trainings == sorted(
        ["finetune", "pretrain", *(["finetune_blind"] if name == "qa" else [])]
    )
    assert isinstance(from_pretrained(folder), TASKS[name][0])
    first = from_pretrained(folder, "pretrain")
    assert isinstance(first, MAC if name == "mac" else SimVTP)
    for training in trainings:
        expected = as_the_run_had_it(experiment, training)
        assert_same(from_pretrained(folder, training), expected)
        assert_same(from_pretrained(folder / "checkpoints" / f"{training}.safetensors"), expected)
        target = tmp_path / training
        chosen = [] if training == "finetune" else ["--training", training]
        assert main(["convert", str(folder), str(target), *chosen]) == 0
        assert_same(from_pretrained(target), expected)


@pytest.mark.parametrize("method", ["simvtp", "mac"])
def test_models_of_pictures_take_clips_of_one_token_in_time(
    method: str, tmp_path: Path, shapes_cache: Path
) -> None:
    """A run directory of image-text retrieval, with weights that were not trained."""
    recipe, sizes = (
        ("tiny_mac", small_mac_settings) if method == "mac" else ("tiny", small_settings)
    )
    settings = sizes(tmp_path, shapes_cache, "finetune.task=imagetext", "model.vocab_size=0")
    experiment = override(get_recipe(recipe), settings)
    config = replace(experiment.model, vocab_size=60)
    unified = build_model(config, experiment.losses.wanted, 1)
    pictures = replace(config, frames=config.tubelet_size)
    model = method_of(config).retrieval(unified, pictures, drop_path=0.0, pooling="content").eval()
    write_identity(experiment, experiment.run_dir)
    (experiment.run_dir / "checkpoints").mkdir()
    weights = experiment.run_dir / "checkpoints" / "finetune.safetensors"
    safetensors.torch.save_file(model.state_dict(), weights)
    found = from_pretrained(experiment.run_dir)
    assert settings_of(found).frames == config.tubelet_size
    assert_same(found, model)


def test_what_a_run_does_not_have_is_said(
    tmp_path: Path, shapes_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = experiment_of("retrieval", tmp_path / "runs", shapes_cache)
    run(experiment, say=silent, until="pretrain")
    folder = experiment.run_dir
    assert isinstance(from_pretrained(folder), SimVTP), "the last training that has ended"
    with pytest.raises(CheckpointError, match="no weights of finetune; it has pretrain"):
        from_pretrained(folder, "finetune")
    assert main(["convert", str(folder), str(tmp_path / "out"), "--recipe", "tiny"]) == 2
    assert "settings of its own" in capsys.readouterr().err
    weights = folder / "checkpoints" / "pretrain.safetensors"
    changed = safetensors.torch.load_file(weights)
    changed["encoder.norm.bias"] += 1
    safetensors.torch.save_file(changed, weights)
    with pytest.raises(CheckpointError, match="damaged"):
        from_pretrained(folder)
    (folder / "experiment.json").write_text('{"schema": 1, "experiment": {}}')
    with pytest.raises(UserError, match="another version"):
        from_pretrained(folder)
