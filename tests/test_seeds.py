"""Seeds of single sources of chance: what each one changes, and what it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from simvtp.config.experiment_config import Experiment, SeedSource, from_dict
from simvtp.config.overrides import override
from simvtp.config.recipes import tiny
from simvtp.config.tree import to_dict
from simvtp.data.clips import Clip
from simvtp.data.manifest import take_fraction
from simvtp.experiment import run
from tests.small import small_experiment

SOURCES: tuple[SeedSource, ...] = ("init", "order", "masks", "data", "finetune")


@pytest.mark.parametrize("source", SOURCES)
def test_a_seed_is_its_own_or_that_of_the_experiment(source: SeedSource) -> None:
    plain = override(tiny(), ["seed=3"])
    own = override(plain, [f"seeds.{source}=7"])
    assert plain.seed_of(source) == 3 and own.seed_of(source) == 7
    assert all(own.seed_of(other) == 3 for other in SOURCES if other != source)
    assert own.fingerprint != plain.fingerprint, "another run"
    assert own.cell_fingerprint == plain.cell_fingerprint, "the same cell"


def test_runs_from_before_are_found_again() -> None:
    stored = to_dict(tiny())
    del stored["seeds"], stored["data"]["subset"]
    assert from_dict(stored) == tiny()


def test_a_drawn_subset_follows_its_seed() -> None:
    clips = tuple(Clip(f"v{i}", Path(f"v{i}.mp4"), ("a",)) for i in range(200))
    first, second = take_fraction(clips, 0.5, 0), take_fraction(clips, 0.5, 1)
    assert len(first) == len(second) == 100 and first != second
    assert set(take_fraction(clips, 0.2, 0)) < set(first)
    assert 30 < len(set(first) & set(second)) < 70, "as many in common as by chance"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def weights(experiment: Experiment, stage: str) -> dict[str, torch.Tensor]:
    """Returns the weights at the end of a stage."""
    run(experiment, say=lambda text: None, until=stage)
    return load_file(experiment.run_dir / "checkpoints" / f"{stage}.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.slow
def test_each_source_changes_its_own_stage_and_no_other(tmp_path: Path, cache: Path) -> None:
    settings = ("pretrain.max_steps=2", "finetune.train.max_steps=2", "finetune.evaluations=1")
    drawn = ("data.fraction=0.7", "data.subset=drawn", "model.text_dropout=0.1")
    base = small_experiment(tmp_path / "runs", cache, *settings, *drawn)
    tuned, pretrained = weights(base, "finetune"), weights(base, "pretrain")
    every = override(base, [f"seeds.{source}={base.seed}" for source in SOURCES])
    assert same(weights(every, "finetune"), tuned) and same(weights(every, "pretrain"), pretrained)
    for source in SOURCES[:-1]:
        other = override(base, [f"seeds.{source}={base.seed + 1}"])
        assert not same(weights(other, "pretrain"), pretrained), source
    other = override(base, [f"seeds.finetune={base.seed + 1}"])
    assert not same(weights(other, "finetune"), tuned)
    assert same(weights(other, "pretrain"), pretrained)
