"""The ablation of the video ratio with the batch that fits into the same memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ablations import batch_ratio
from ablations.cost import kept_values
from simvtp.batch import Batch
from simvtp.config.experiment_config import Experiment
from simvtp.config.overrides import override
from simvtp.config.recipes import get_recipe
from simvtp.methods import build_model, method_of
from simvtp.training.objectives import PretrainObjective

RECIPES = {
    "tiny_pair": [],
    "tiny": [],
    "tiny_mac": [],
    "base": ["data.dataset=shapes"],
    "tiny without a decoder": ["losses.mvm=0", "model.contrastive_video=clean"],
}


def recipe(name: str) -> Experiment:
    return override(get_recipe(name.split()[0]), RECIPES[name])


@pytest.mark.parametrize("name", RECIPES)
def test_batches_fill_the_same_memory_and_lengths_are_as_named(name: str) -> None:
    base = recipe(name)
    start, own = base.pretrain, base.masks.video_ratio
    budget = start.batch_size * kept_values(base)
    for point in batch_ratio.build(base, full=True).points():
        changed, ratio = point.experiment.pretrain, point.experiment.masks.video_ratio
        batch, cell = changed.batch_size, point.cell["batch_ratio"]
        unit = batch_ratio.batch_unit(base)
        if ratio == own:
            assert (changed, cell) == (start, f"video {own:g}, batch {batch}")
            continue
        assert batch % unit == 0
        assert batch * kept_values(point.experiment) <= budget * (1 + 1e-9)
        assert (batch + unit) * kept_values(point.experiment) > budget, "the largest"
        assert (batch > start.batch_size) == (ratio > own) or batch == start.batch_size
        if start.max_steps:
            lengths = {"samples": changed.max_steps * batch, "steps": changed.max_steps}
            wanted = {"samples": start.max_steps * start.batch_size, "steps": start.max_steps}
        else:
            lengths = {"samples": changed.epochs, "steps": changed.epochs / batch}
            wanted = {"samples": start.epochs, "steps": start.epochs / start.batch_size}
        arm = cell.rpartition(" ")[2]
        assert lengths[arm] == pytest.approx(wanted[arm], rel=0.01), cell


def saved_bytes(experiment: Experiment) -> int:
    """Bytes that a step of this batch keeps for its backward pass, weights left out."""
    config, size = experiment.model, experiment.pretrain.batch_size
    model = build_model(config, experiment.losses.wanted).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    g = torch.Generator().manual_seed(0)
    shape = (size, config.frames, config.image_size, config.image_size, 3)
    length = config.text_length
    ids = torch.randint(5, config.vocab_size, (size, length), generator=g)
    batch = Batch(
        torch.randint(0, 256, shape, dtype=torch.uint8, generator=g),
        ids,
        torch.ones_like(ids, dtype=torch.bool),
        torch.arange(-1, length - 1).where(torch.arange(length) < length - 1, -1).expand_as(ids),
        tuple(map(str, range(size))),
    )
    masks = method_of(config).draw(
        batch, config, experiment.masks, mask_id=4, seed=0, step=0, first_sample=0
    )
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses, _ = PretrainObjective(experiment.losses, config)(model(batch, masks))
    assert losses
    return sum(kept.values())


@pytest.mark.parametrize("name", ["tiny_pair", "tiny_mac"])
def test_a_step_of_each_cell_keeps_about_as_many_bytes(name: str) -> None:
    base = override(recipe(name), ["model.vocab_size=200"])
    cells = {point.name: point.experiment for point in batch_ratio.build(base, full=True).points()}
    samples = {cell: one for cell, one in cells.items() if not cell.endswith("same steps")}
    found = {cell: saved_bytes(one) for cell, one in samples.items()}
    own = next(found[cell] for cell in found if "same" not in cell)
    assert min(found.values()) > 0.75 * own and max(found.values()) < 1.1 * own, found
    # with one batch for all they differ by far
    masks = replace(base.masks, video_ratio=0.5 if name == "tiny_pair" else 0.0)
    assert saved_bytes(replace(base, masks=masks)) > 1.6 * own
