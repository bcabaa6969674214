"""data.repeat: one decoding, several batches; resume, ranks, workers and bad clips as without."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from simvtp.batch import Batch
from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import Experiment, RuntimeConfig, identity
from simvtp.config.model_config import SimVTPConfig
from simvtp.config.validation import check
from simvtp.data.clips import Clip
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.text.tokenizer import load_tokenizer
from simvtp.data.video.pyav_reader import PyavReader
from simvtp.data.video.video_reader import VideoInfo
from simvtp.errors import ConfigError
from tests.data.helpers import damage, make_clips

MODEL = SimVTPConfig(image_size=32, frames=4, patch_size=8, text_length=12)
DATA = DataConfig(stride=2, max_corrupt_ratio=0.5, flip=0.5, repeat=3)
HERE = RuntimeConfig(workers=0, device="cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    return make_clips(tmp_path_factory.mktemp("clips"), 14, captions=4)


class Counting:
    """PyAV, with the files that were decoded."""

    name = "counting"

    def __init__(self) -> None:
        self.read_files: list[str] = []

    def probe(self, path: Path) -> VideoInfo:
        return PyavReader().probe(path)

    def read(self, path: Path, indices: Sequence[int], size: tuple[int, int] | None) -> np.ndarray:
        self.read_files.append(path.stem)
        return PyavReader().read(path, indices, size)


def take(clips: list[Clip], start: int, end: int, **changes: object) -> list[Batch]:
    values = {"data": DATA, "model": MODEL, "runtime": HERE, "batch_size": 4, "seed": 5, **changes}
    loader = TrainLoader(clips, load_tokenizer("builtin"), **values)  # type: ignore[arg-type]
    stream = loader.batches(start)
    try:
        return list(itertools.islice(stream, end - start))
    finally:
        stream.close()  # type: ignore[attr-defined]


def assert_same(found: Sequence[Batch], expected: Sequence[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.sample_ids == other.sample_ids
        assert torch.equal(one.clips, other.clips) and torch.equal(one.input_ids, other.input_ids)


def test_a_clip_is_decoded_once_for_samples_that_differ(clips: list[Clip]) -> None:
    reader = Counting()
    batches = take(clips, 0, 9, reader=reader)
    assert len(reader.read_files) == 12  # 3 groups of 4 clips; 36 samples
    for group in (batches[:3], batches[3:6], batches[6:]):
        assert (
            len({batch.sample_ids for batch in group}) == 1 and len(set(group[0].sample_ids)) == 4
        )
        shown = [
            len({batch.clips[place].numpy().tobytes() for batch in group}) for place in range(4)
        ]
        assert sum(shown) >= 10, "two crops in three may fall on the same box, but not often"
    assert any(
        not torch.equal(batches[0].input_ids, batch.input_ids) for batch in batches[1:3]
    )  # captions are drawn again, too
    assert reader.read_files == [name for batch in batches[::3] for name in batch.sample_ids]


def test_a_pass_shows_each_clip_equally_often(clips: list[Clip]) -> None:
    batches = take(clips[:12], 0, 9)
    names = [name for batch in batches for name in batch.sample_ids]
    assert sorted(names.count(clip.id) for clip in clips[:12]) == [3] * 12


def test_the_first_of_each_group_is_what_it_is_without_repeats(clips: list[Clip]) -> None:
    once = take(clips, 0, 1, data=replace(DATA, repeat=1))
    assert_same(take(clips, 0, 1), once)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_resume_at_any_step_and_workers_change_nothing(clips: list[Clip], workers: int) -> None:
    whole = take(clips, 0, 8)
    runtime = replace(HERE, workers=workers)
    for start in range(1, 8) if workers == 0 else (4,):
        assert_same(take(clips, start, 8, runtime=runtime), whole[start:])


def test_ranks_together_see_what_one_sees(clips: list[Clip]) -> None:
    alone = take(clips, 1, 6)
    parts = [take(clips, 1, 6, rank=rank, world=2) for rank in range(2)]
    for step, whole in enumerate(alone):
        assert torch.equal(torch.cat([part[step].clips for part in parts]), whole.clips)
        assert parts[0][step].sample_ids + parts[1][step].sample_ids == whole.sample_ids


def test_a_bad_clip_is_replaced_in_all_repeats_and_each_sample_is_counted(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 8)
    damage(clips[2].path)
    loader = TrainLoader(
        clips, load_tokenizer("builtin"), data=DATA, model=MODEL, runtime=HERE, batch_size=4, seed=5
    )
    batches = list(itertools.islice(loader.batches(), 6))
    assert all("clip2" not in batch.sample_ids for batch in batches)
    assert (loader.counters.replaced, loader.counters.corrupt) == (3, 1)
    assert_same(batches[4:], take(clips, 4, 6))


@pytest.mark.parametrize("repeat", [0, 17, -1])
def test_impossible_repeats_are_refused(repeat: int) -> None:
    with pytest.raises(ConfigError, match=f"data.repeat={repeat}: must be from 1 to 16"):
        check(Experiment(data=DataConfig(repeat=repeat)))


def test_repeated_clips_are_another_experiment() -> None:
    assert identity(Experiment())["data"]["repeat"] == 1
    assert identity(Experiment(data=DataConfig(repeat=2)))["data"]["repeat"] == 2
