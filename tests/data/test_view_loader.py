"""Views and texts for evaluation: all of them, in order."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from simvtp.config.model_config import SimVTPConfig
from simvtp.data.clips import Clip
from simvtp.data.loading.view_loader import GREY, text_batches
from simvtp.data.text.tokenizer import Tokenizer, load_tokenizer
from simvtp.errors import DataError
from tests.data.helpers import damage, make_clips
from tests.data.small_loaders import DATA, HERE, MODEL, train_loader, view_loader

many = settings(max_examples=100, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer("builtin")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    return make_clips(tmp_path_factory.mktemp("clips"), 14, captions=3)


@pytest.fixture
def own_clips(tmp_path: Path) -> list[Clip]:
    return make_clips(tmp_path, 14)


def collected(
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]], batch_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    parts = list(batches)
    assert all(len(views) == len(numbers) <= batch_size for views, numbers in parts)
    assert all(len(views) == batch_size for views, _ in parts[:-1])
    return torch.cat([views for views, _ in parts]), torch.cat([numbers for _, numbers in parts])


@pytest.mark.parametrize("batch_size", [1, 4, 6, 8, 100])
def test_each_clip_has_all_its_views_whatever_the_batch(clips: list[Clip], batch_size: int) -> None:
    views, numbers = collected(view_loader(clips[:5], batch_size=batch_size).batches(), batch_size)
    assert views.shape == (30, 4, 32, 32, 3) and views.dtype == torch.uint8
    assert numbers.tolist() == [i for i in range(5) for _ in range(6)]
    whole, _ = collected(view_loader(clips[:5], batch_size=1000).batches(), 1000)
    assert torch.equal(views, whole)
    assert not torch.equal(views[0], views[1]) and not torch.equal(
        views[0], views[3]
    )  # another crop, another segment


@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_parts_of_whole_batches_give_the_batches_of_the_whole(
    clips: list[Clip], batch_size: int
) -> None:
    whole = list(view_loader(clips, batch_size=batch_size).batches())
    parts = [range(0, 4), range(4, 12), range(12, 14)]  # of six views: 24, 48 and 12
    found = [
        batch
        for part in parts
        for batch in view_loader(clips, batch_size=batch_size, part=part).batches()
    ]
    assert len(found) == len(whole)
    for (views, numbers), (expected, of) in zip(found, whole, strict=True):
        assert torch.equal(views, expected) and torch.equal(numbers, of)


def test_views_do_not_depend_on_workers(clips: list[Clip]) -> None:
    alone, _ = collected(view_loader(clips).batches(), 8)
    shared, _ = collected(view_loader(clips, runtime=replace(HERE, workers=2)).batches(), 8)
    assert torch.equal(alone, shared)


def test_an_undecodable_test_clip_raises_or_is_scored_as_grey(
    own_clips: list[Clip], caplog: pytest.LogCaptureFixture
) -> None:
    damage(own_clips[1].path)
    with pytest.raises(DataError, match=r"clip1.mp4 does not decode"):
        list(view_loader(own_clips, data=replace(DATA, on_corrupt="raise")).batches())
    loader = view_loader(own_clips)
    with caplog.at_level(logging.WARNING):
        views, numbers = collected(loader.batches(), 8)
    assert (views[numbers == 1] == GREY).all() and (views[numbers == 0] != GREY).any()
    assert (
        len(numbers.unique()) == len(own_clips)
        and loader.counters.corrupt == 1
        and str(own_clips[1].path) in caplog.text
    )
    with pytest.raises(DataError, match="data.max_corrupt_ratio=0 allows"):
        list(view_loader(own_clips, data=replace(DATA, max_corrupt_ratio=0.0)).batches())


def test_captions_are_padded_to_the_longest_of_the_local_batch(
    own_clips: list[Clip], tokenizer: Tokenizer
) -> None:
    words = [f"{i}" for i in range(16)]
    clips = [replace(c, captions=(" ".join(words[: 1 + i // 2]),)) for i, c in enumerate(own_clips)]
    model = replace(MODEL, text_padding="longest", text_length=3, max_text_positions=12)
    batches = train_loader(clips, tokenizer, model=model).batches(0)
    widths = set()
    for _, batch in zip(range(4), batches, strict=False):
        lengths = batch.attention_mask.sum(dim=1)
        assert batch.input_ids.shape[1] == int(lengths.max()) <= 12
        widths.add(batch.input_ids.shape[1])
    assert len(widths) > 1, "each batch has its own length"
    ids, mask = next(text_batches([" ".join(words)], tokenizer, model, 3))
    assert ids.shape == (1, 12) and mask.all() and ids[0, -1] == tokenizer.sep_id


def test_texts_come_in_order(tokenizer: Tokenizer) -> None:
    captions = [f"caption {i}" for i in range(7)]
    parts = list(text_batches(captions, tokenizer, SimVTPConfig(text_length=8), 3))
    assert [len(ids) for ids, _ in parts] == [3, 3, 1]
    assert [tokenizer.decode(row) for ids, _ in parts for row in ids] == captions
