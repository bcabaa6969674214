"""The loader: order, resume, ranks, workers and corrupt clips.

Decoders that hang or crash, and views for evaluation.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.batch import Batch
from simvtp.data.clips import Clip
from simvtp.data.loading.sample_order import SampleOrder, epoch_order, uniforms
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.text.tokenizer import Tokenizer, load_tokenizer
from simvtp.data.video.video_reader import VideoInfo
from simvtp.errors import DataError
from tests.data.helpers import TrickReader, damage, make_clips
from tests.data.small_loaders import DATA, HERE, train_loader, view_loader

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


def take(loader: TrainLoader, start: int, count: int) -> list[Batch]:
    batches = loader.batches(start)
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()  # type: ignore[attr-defined]


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.sample_ids == b.sample_ids
        for name in ("clips", "input_ids", "attention_mask", "word_ids"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name


# ---- order ---------------------------------------------------------------------------------------


@given(n=st.integers(1, 200), seed=st.integers(-5, 2**63), epoch=st.integers(0, 1000))
@many
def test_epoch_order_is_a_permutation_and_pure(n: int, seed: int, epoch: int) -> None:
    order = epoch_order(n, seed, epoch)
    assert sorted(order.tolist()) == list(range(n))
    assert np.array_equal(order, epoch_order(n, seed, epoch))


def test_orders_and_random_numbers_differ_by_seed_epoch_stage_and_sample() -> None:
    orders = [
        epoch_order(50, *key).tolist()
        for key in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"))
    ]
    assert len({tuple(order) for order in orders}) == 4
    draws = np.stack([uniforms(0, "a", number, 26) for number in range(500)])
    assert draws.min() >= 0 and draws.max() < 1 and abs(draws.mean() - 0.5) < 0.01
    assert len(np.unique(draws)) == draws.size
    assert epoch_order(6, 0, 0, "pretrain").tolist() == [
        0,
        4,
        2,
        3,
        1,
        5,
    ]  # fixed for good: it decides what a seed means


@given(
    n=st.integers(1, 60), batch=st.integers(1, 20), world=st.integers(1, 5), step=st.integers(0, 40)
)
@many
def test_ranks_share_a_batch_and_an_epoch_repeats_nothing(
    n: int, batch: int, world: int, step: int
) -> None:
    orders = [SampleOrder(n, batch, 0, rank=rank, world=world) for rank in range(world)]
    together = [number for order in orders for number in order.numbers(step)]
    assert together == list(range(step * batch, (step + 1) * batch))
    if n >= batch:
        order = orders[0]
        first = step // order.steps_per_epoch * order.steps_per_epoch * batch
        places = [
            order.epoch_position(number)
            for number in range(first, first + order.steps_per_epoch * batch)
        ]
        assert len({epoch for epoch, _ in places}) == 1
        assert [position for _, position in places] == list(range(order.steps_per_epoch * batch))


def test_every_clip_comes_once_in_an_epoch(clips: list[Clip], tokenizer: Tokenizer) -> None:
    loader = train_loader(clips, tokenizer, batch_size=7)
    assert loader.steps_per_epoch == 2
    names = [name for batch in take(loader, 0, 4) for name in batch.sample_ids]
    assert sorted(names[:14]) == sorted(names[14:]) == sorted(clip.id for clip in clips)
    assert names[:14] != names[14:]


# ---- the same samples, whoever makes them --------------------------------------------------------


def test_a_batch_has_the_promised_shapes_and_the_captions_of_its_clips(
    clips: list[Clip], tokenizer: Tokenizer
) -> None:
    (batch,) = take(train_loader(clips, tokenizer), 0, 1)
    assert batch.clips.shape == (4, 4, 32, 32, 3) and batch.clips.dtype == torch.uint8
    assert batch.input_ids.shape == batch.attention_mask.shape == batch.word_ids.shape == (4, 12)
    for name, ids in zip(batch.sample_ids, batch.input_ids, strict=True):
        assert tokenizer.decode(ids).startswith(
            f"square number {name.removeprefix('clip')} wording"
        )


def test_captions_are_chosen_among_all(clips: list[Clip], tokenizer: Tokenizer) -> None:
    texts = [
        tokenizer.decode(ids)
        for batch in take(train_loader(clips, tokenizer, batch_size=14), 0, 6)
        for ids in batch.input_ids
    ]
    assert {text[-1] for text in texts} == {"0", "1", "2"}


def test_continuing_at_any_step_gives_the_same_batches(
    clips: list[Clip], tokenizer: Tokenizer
) -> None:
    whole = take(train_loader(clips, tokenizer), 0, 9)
    for start in (1, 4, 7):
        assert_same(take(train_loader(clips, tokenizer), start, 2), whole[start : start + 2])


def test_the_number_of_workers_changes_nothing(clips: list[Clip], tokenizer: Tokenizer) -> None:
    alone = take(train_loader(clips, tokenizer), 2, 6)
    for workers in (1, 3):
        assert_same(
            take(train_loader(clips, tokenizer, runtime=replace(HERE, workers=workers)), 2, 6),
            alone,
        )


def test_two_ranks_together_see_what_one_sees(clips: list[Clip], tokenizer: Tokenizer) -> None:
    alone = take(train_loader(clips, tokenizer, batch_size=6), 0, 3)
    parts = [
        take(train_loader(clips, tokenizer, batch_size=6, rank=rank, world=2), 0, 3)
        for rank in range(2)
    ]
    for step, whole in enumerate(alone):
        assert torch.equal(torch.cat([part[step].clips for part in parts]), whole.clips)
        assert torch.equal(torch.cat([part[step].input_ids for part in parts]), whole.input_ids)
        assert parts[0][step].sample_ids + parts[1][step].sample_ids == whole.sample_ids


def test_global_random_states_are_left_alone(clips: list[Clip], tokenizer: Tokenizer) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    take(train_loader(clips, tokenizer, runtime=replace(HERE, workers=1)), 0, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_seed_and_stage_change_the_batches(clips: list[Clip], tokenizer: Tokenizer) -> None:
    first = [
        take(train_loader(clips, tokenizer, **change), 0, 1)[0].clips
        for change in ({}, {"seed": 6}, {"stage": "finetune"})
    ]
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


def test_fewer_clips_than_a_batch_wrap_around_and_say_so(
    clips: list[Clip], tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    loader = train_loader(clips[:3], tokenizer, batch_size=8)
    (batch,) = take(loader, 0, 1)
    assert loader.steps_per_epoch == 1 and len(batch) == 8
    assert sorted(batch.sample_ids.count(clip.id) for clip in clips[:3]) == [2, 3, 3]
    assert caplog.text.count("clips repeat within a batch") == 1


# ---- corrupt clips -------------------------------------------------------------------------------


def test_a_corrupt_clip_is_replaced_alike_logged_once_and_counted(
    own_clips: list[Clip], tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    damage(own_clips[2].path)
    own_clips[9].path.unlink()
    bad = {own_clips[2].id, own_clips[9].id}
    loader = train_loader(own_clips, tokenizer, batch_size=7)
    batches = take(loader, 0, 6)
    names = [name for batch in batches for name in batch.sample_ids]
    order = [epoch_order(14, 5, epoch).tolist() for epoch in range(3)]
    expected = []
    for epoch in range(3):
        for position in range(14):
            following = (own_clips[order[epoch][(position + k) % 14]].id for k in range(14))
            expected.append(next(name for name in following if name not in bad))
    assert names == expected
    assert (loader.counters.replaced, loader.counters.corrupt) == (6, 2)
    assert loader.counters.metrics()["data/corrupt"] == 2
    for clip in (own_clips[2], own_clips[9]):
        assert sum(str(clip.path) in record.getMessage() for record in caplog.records) == 1
    assert_same(
        take(
            train_loader(own_clips, tokenizer, batch_size=7, runtime=replace(HERE, workers=2)), 1, 5
        ),
        batches[1:],
    )


def test_too_many_corrupt_clips_stop_the_run(own_clips: list[Clip], tokenizer: Tokenizer) -> None:
    for clip in own_clips[:4]:
        damage(clip.path)
    loader = train_loader(
        own_clips, tokenizer, data=replace(DATA, max_corrupt_ratio=0.25), batch_size=7
    )
    with pytest.raises(
        DataError,
        match=r"4 of the 14 clips seen so far do not decode, more than data.max_corrupt_ratio=0.25",
    ):
        take(loader, 0, 4)
    take(
        train_loader(own_clips, tokenizer, data=replace(DATA, max_corrupt_ratio=0.3), batch_size=7),
        0,
        4,
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_raise_stops_at_the_first_corrupt_clip(
    own_clips: list[Clip], tokenizer: Tokenizer, workers: int
) -> None:
    damage(own_clips[3].path)
    loader = train_loader(
        own_clips,
        tokenizer,
        data=replace(DATA, on_corrupt="raise"),
        runtime=replace(HERE, workers=workers),
    )
    with pytest.raises(
        DataError, match=r"clip3.mp4 does not decode .* Remove it from the manifest"
    ):
        take(loader, 0, 6)


def test_when_nothing_decodes_the_error_says_so(
    own_clips: list[Clip], tokenizer: Tokenizer
) -> None:
    for clip in own_clips:
        clip.path.write_bytes(b"")
    with pytest.raises(DataError, match="14 clips in a row do not decode"):
        take(train_loader(own_clips, tokenizer), 0, 1)


@pytest.mark.parametrize("kind", ["hang", "crash"])
def test_a_decoder_that_hangs_or_crashes_costs_its_clip_only(
    own_clips: list[Clip], tokenizer: Tokenizer, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    tricky = own_clips[4].path.rename(own_clips[4].path.with_name(f"{kind}.mp4"))
    own_clips[4] = replace(own_clips[4], path=tricky)
    runtime = replace(HERE, workers=2, decode_timeout_s=3.0)
    loader = train_loader(own_clips, tokenizer, batch_size=7, runtime=runtime, reader=TrickReader())
    began = time.monotonic()
    survived = take(loader, 0, 6)
    assert time.monotonic() - began < 60
    assert (loader.counters.replaced, loader.counters.corrupt) == (3, 1)
    assert caplog.text.count(str(tricky)) == 1
    assert ("took longer than 3 s" if kind == "hang" else "exit status 3") in caplog.text
    damage(tricky)  # a clip that merely fails to decode must be replaced in the very same way
    assert_same(
        survived,
        take(
            train_loader(own_clips, tokenizer, batch_size=7, data=replace(DATA, reader="pyav")),
            0,
            6,
        ),
    )


def test_ending_a_loader_ends_its_workers(clips: list[Clip], tokenizer: Tokenizer) -> None:
    import psutil

    batches = train_loader(clips, tokenizer, runtime=replace(HERE, workers=2)).batches()
    next(batches)
    workers = [
        p
        for p in psutil.Process().children(recursive=True)
        if "forkserver" in " ".join(p.cmdline())
    ]
    before = len(workers)
    batches.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 60
    while (
        len([p for p in workers if p.is_running() and p.status() != psutil.STATUS_ZOMBIE])
        > before - 2
    ):
        assert time.monotonic() < deadline, "workers are still running"
        time.sleep(0.05)


class NumberedReader:
    """Frames whose pixels hold their number, their row and their column."""

    name = "numbered"

    def __init__(self, frames: int) -> None:
        self.frames = frames

    def probe(self, path: Path) -> VideoInfo:
        return VideoInfo(self.frames, 25.0, 40, 40)

    def read(self, path: Path, indices: Sequence[int], size: tuple[int, int] | None) -> np.ndarray:
        height, width = size or (40, 40)
        number, row, column = np.meshgrid(
            np.array(indices), np.arange(height), np.arange(width), indexing="ij"
        )
        return np.stack([number, row, column], axis=-1).astype(np.uint8)


def test_loaders_follow_equal_parts_and_the_smallest_area(
    own_clips: list[Clip], tokenizer: Tokenizer
) -> None:
    data = replace(DATA, frame_window="parts", train_crop="random_resized", crop_area=0.5)
    reader = NumberedReader(42)
    samples = take(train_loader(own_clips, tokenizer, data=data, reader=reader), 0, 60)
    seen = torch.cat([batch.clips[:, :, 0, 0, 0] for batch in samples]).T
    # 42 frames in 4 parts begin at 0, 10, 21 and 31
    assert [sorted(set(part.tolist())) for part in seen] == [
        list(range(first, last)) for first, last in ((0, 9), (10, 20), (21, 30), (31, 41))
    ]
    assert smallest_area(samples) > 0.8 * 0.5
    wide = replace(data, crop_area=0.08)
    assert (
        smallest_area(take(train_loader(own_clips, tokenizer, data=wide, reader=reader), 0, 60))
        < 0.3
    )
    views = torch.cat(
        [clips for clips, _ in view_loader(own_clips, data=data, reader=reader).batches()]
    )
    assert {tuple(view[:, 0, 0, 0].tolist()) for view in views} == {
        (2, 12, 23, 33),
        (6, 17, 27, 38),
    }


def smallest_area(batches: list[Batch]) -> float:
    """The smallest part of a frame that a sample shows, from its rows and columns."""
    places = torch.cat([batch.clips[:, 0, :, :, 1:] for batch in batches]).flatten(1, 2).int()
    sides = places.amax(dim=1) - places.amin(dim=1) + 1
    return float(sides.prod(dim=1).min()) / 40**2
