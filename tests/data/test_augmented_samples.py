"""Augmentation in the loader: reproducible, and without effect on other choices."""

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simvtp.config.experiment_config import RuntimeConfig
from simvtp.config.overrides import override
from simvtp.config.recipes import get_recipe
from simvtp.data.clips import Clip
from simvtp.data.datasets import Dataset
from simvtp.data.loading.augment import (
    BOX_UNIFORMS,
    Augment,
    erased_box,
)
from simvtp.data.loading.sample_order import uniforms
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.text.tokenizer import load_tokenizer
from simvtp.tasks.task import Context
from tests.data.helpers import make_clips
from tests.data.small_loaders import DATA, MODEL

many = settings(max_examples=60, deadline=None, derandomize=True)
ALWAYS = Augment(operations=4, erasing=1.0)


@given(seed=st.integers(-5, 2**63), number=st.integers(0, 2**40))
@many
def test_a_purpose_has_numbers_of_its_own(seed: int, number: int) -> None:
    purposes = ("sample", "rand_augment", "random_erasing", "noise")
    draws = [uniforms(seed, "finetune", number, 20, purpose) for purpose in purposes]
    assert len(np.unique(np.concatenate(draws))) == 80
    assert np.array_equal(
        uniforms(seed, "finetune", number, 20), draws[0]
    )  # as it was before there were purposes
    assert np.array_equal(uniforms(seed, "finetune", number, 5, "noise"), draws[3][:5])


def test_the_random_numbers_of_a_sample_are_fixed_for_good() -> None:
    found = (
        uniforms(0, "finetune", 7, 2).tolist()
        + uniforms(0, "finetune", 7, 2, "rand_augment").tolist()
    )
    assert found == [
        0.4295184811531064,
        0.07079575691140183,
        0.29674202315878595,
        0.4655273609268519,
    ]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    return make_clips(tmp_path_factory.mktemp("clips"), 12)


def batches(
    clips: list[Clip],
    augment: Augment | None,
    start: int = 0,
    count: int = 3,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    crop: str = "",
    flip: float = 0.5,
) -> list[Tensor]:
    loader = TrainLoader(
        clips,
        load_tokenizer("builtin"),
        data=DATA,
        model=MODEL,
        runtime=RuntimeConfig(workers=workers, device="cpu"),
        batch_size=4,
        seed=5,
        rank=rank,
        world=world,
        train_crop=crop,
        flip=flip,
        augment=augment,
        stage="finetune",
    )
    stream = loader.batches(start)
    try:
        return [batch.clips for batch in itertools.islice(stream, count)]
    finally:
        stream.close()  # type: ignore[attr-defined]


def test_resuming_ranks_and_workers_make_the_same_samples(clips: list[Clip]) -> None:
    whole = batches(clips, ALWAYS)
    assert all(map(torch.equal, batches(clips, ALWAYS, start=1, count=2), whole[1:]))
    assert all(map(torch.equal, batches(clips, ALWAYS, workers=2), whole))
    halves = [batches(clips, ALWAYS, rank=rank, world=2) for rank in range(2)]
    assert all(
        torch.equal(torch.cat(parts), full) for *parts, full in zip(*halves, whole, strict=True)
    )


def test_augmentation_shifts_no_other_choice(clips: list[Clip]) -> None:
    """Outside of the erased box a sample is what it is without erasing.

    The same clip, window, crop and flip.
    """
    plain = torch.cat(batches(clips, None))
    assert torch.equal(torch.cat(batches(clips, Augment())), plain)
    erased = torch.cat(batches(clips, Augment(erasing=1.0)))
    for number, (left, right) in enumerate(zip(plain, erased, strict=True)):
        draw = partial(uniforms, 5, "finetune", number)
        box = erased_box(
            MODEL.image_size, MODEL.image_size, 1.0, draw(BOX_UNIFORMS, "random_erasing")
        )
        assert box is not None
        top, start, h, w = box
        differs = (left != right).any(0).any(-1)
        assert differs[top : top + h, start : start + w].float().mean() > 0.9
        differs[top : top + h, start : start + w] = False
        assert not differs.any()
    assert not torch.equal(torch.cat(batches(clips, Augment(operations=4))), plain)


def test_a_clip_that_steps_in_for_a_corrupt_one_is_augmented_as_the_sample(
    clips: list[Clip], tmp_path: Path
) -> None:
    """The random numbers belong to the place in the training, not to the clip."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    some = [*clips[:3], Clip("broken", broken, ("nothing",))]
    assert all(map(torch.equal, batches(some, ALWAYS), batches(some, ALWAYS, workers=2)))


def test_each_task_trains_on_clips_as_finetune_says(clips: list[Clip]) -> None:
    start = get_recipe("tiny")
    tuned = [
        "finetune.train.batch_size=4",
        "runtime.workers=0",
        "runtime.decoded_cache=false",
        "runtime.device=cpu",
        "seed=5",
    ]

    def first(*assignments: str) -> Tensor:
        experiment = override(replace(start, model=MODEL, data=DATA), [*tuned, *assignments])
        tokenizer = load_tokenizer("builtin")
        dataset = Dataset("made up", {"train": tuple(clips)})
        loader = Context(experiment, dataset, tokenizer, torch.device("cpu")).train_loader(
            clips, experiment.finetune.train, "finetune"
        )
        stream = loader.batches()
        try:
            return next(stream).clips
        finally:
            stream.close()  # type: ignore[attr-defined]

    plain = batches(clips, None, count=1, crop="center", flip=0.0)[0]
    assert torch.equal(first(), plain)
    both = batches(clips, ALWAYS, count=1, crop="center", flip=0.0)[0]
    assert torch.equal(first("finetune.rand_augment=4", "finetune.random_erasing=1"), both)
    assert not torch.equal(
        first("finetune.rand_augment=4", "finetune.rand_magnitude=2", "finetune.random_erasing=1"),
        both,
    )
