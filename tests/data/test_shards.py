"""Shards: their content, and reading them like files."""

from __future__ import annotations

import hashlib
import itertools
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simvtp.batch import Batch
from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import Experiment
from simvtp.data.clips import Clip
from simvtp.data.datasets import open_dataset
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.loading.view_loader import ViewLoader
from simvtp.data.manifest import read_manifest
from simvtp.data.prepare.check_manifest import check_manifest
from simvtp.data.prepare.encode import encode_h264
from simvtp.data.prepare.shard_writer import key_of
from simvtp.data.prepare.transcode import TranscodeTarget
from simvtp.data.prepare.write_shards import parse_target
from simvtp.data.shards import read_shards
from simvtp.data.text.tokenizer import load_tokenizer
from simvtp.data.video.pyav_reader import PyavReader
from simvtp.data.video.readers import get_reader, probe, read_frames
from simvtp.data.video.tar_member import file_of, member_bytes
from simvtp.errors import ConfigError, DataError
from simvtp.resolve import finalise
from tests.data.helpers import make_clips, moving_square
from tests.data.shard_files import DATA, HERE, MODEL, shard, write_manifest

# ---- what is written -----------------------------------------------------------------------------


def test_the_webdataset_package_reads_them(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    clips = [
        replace(clip, id=name)
        for clip, name in zip(make_clips(tmp_path, 3), ("a.b/c.mp4", "v 2", "日本"), strict=True)
    ]
    shard(write_manifest(clips, tmp_path / "clips.csv"), tmp_path / "out")
    samples = list(
        webdataset.WebDataset(
            str(tmp_path / "out" / "clips-000000.tar"), shardshuffle=False, empty_check=False
        ).decode()
    )
    assert [sample["json"]["id"] for sample in samples] == [clip.id for clip in clips]
    assert [sample["json"]["captions"] for sample in samples] == [
        list(clip.captions) for clip in clips
    ]
    assert [sample["__key__"] for sample in samples] == [
        "00000000-a_b_c_mp4",
        "00000001-v_2",
        "00000002-__",
    ]
    for sample, clip in zip(samples, read_shards(tmp_path / "out").clips, strict=True):
        stored = member_bytes(clip.path)
        assert stored is not None and sample["mp4"] == stored.getvalue()
        assert sample["json"]["frames"] == probe(clip.path, PyavReader()).frames == 16


def test_the_index_says_where_each_member_lies(shards: Path) -> None:
    names = [f"train-{n:06d}" for n in range(3)] + ["val-000000", "test-000000"]
    assert sorted(path.stem for path in shards.glob("*.tar")) == sorted(names)
    for name in names:
        index = json.loads((shards / f"{name}.json").read_text())
        raw = (shards / f"{name}.tar").read_bytes()
        assert index["bytes"] == len(raw) and 1 <= len(index["clips"]) <= 3
        with tarfile.open(shards / f"{name}.tar") as archive:
            for entry in index["clips"]:
                for member in (entry["video"], entry["text"]):
                    found = raw[member["offset"] : member["offset"] + member["length"]]
                    file = archive.extractfile(member["name"])
                    assert file is not None and found == file.read()
                    assert hashlib.sha256(found).hexdigest() == member["sha256"]


def test_keys_are_unique_and_have_no_dot() -> None:
    assert key_of(3, "../a.b c") != key_of(4, "../a.b c")
    assert (
        key_of(3, "../a.b c" + "x" * 300).isascii()
        and "." not in key_of(3, "../a.b c")
        and "/" not in key_of(3, "../a.b c")
    )


@pytest.mark.parametrize(
    ("size", "height", "width", "expected"),
    [
        ("32", 48, 64, (32, 42)),
        ("256", 49, 63, (48, 62)),  # odd sides lose a pixel; nothing is enlarged
        ("64x48", 96, 96, (48, 64)),
        ("64x64", 32, 90, (64, 64)),
    ],
)
def test_sizes(
    tmp_path: Path, size: str, height: int, width: int, expected: tuple[int, int]
) -> None:
    encode_h264(
        moving_square(1, 16, height - height % 2, width - width % 2), tmp_path / "clip.mp4", 8
    )
    assert parse_target(size).sizes(height, width)[1] == expected
    if not height % 2 and not width % 2:
        shard(
            write_manifest([Clip("a", tmp_path / "clip.mp4", ("words",))], tmp_path / "m.csv"),
            tmp_path / "out",
            target=parse_target(size),
        )
        (clip,) = read_shards(tmp_path / "out").clips
        info = probe(clip.path, PyavReader())
        assert (info.height, info.width, info.frames) == (*expected, 16)


@pytest.mark.parametrize("size", ["0", "255", "64x", "axb", "64x47", "8"])
def test_sizes_that_cannot_be_are_refused(size: str) -> None:
    with pytest.raises(ConfigError, match="--size"):
        parse_target(size)


def test_frames_are_those_of_the_source_and_a_lower_rate_skips_some(
    manifest: Path, tmp_path: Path
) -> None:
    reader = PyavReader()
    for fps, stride in ((0, 1), (2, 4)):
        out = tmp_path / str(fps)
        shard(manifest, out, target=TranscodeTarget(short=48, fps=fps, crf=4))
        for clip, source in zip(read_shards(out).clips, read_manifest(manifest).clips, strict=True):
            made = read_frames(clip.path, range(probe(clip.path, reader).frames), reader)
            given = read_frames(source.path, range(0, 16, stride), reader)
            assert made.shape == given.shape and np.abs(made.astype(int) - given).mean() < 3


def test_only_the_wanted_part_is_kept(manifest: Path, tmp_path: Path) -> None:
    clips = list(read_manifest(manifest).clips)[:4]
    parts = write_manifest(
        clips,
        tmp_path / "parts.csv",
        start_s=["0.5", "", "1.5", "9"],
        end_s=["1.25", "0.5", "99", ""],
    )
    outcome = shard(parts, tmp_path / "out", target=TranscodeTarget(short=48, crf=4))
    assert (outcome.written, dict(outcome.failed)) == (3, {"outside": 1})
    reader = PyavReader()
    for clip, frames in zip(
        read_shards(tmp_path / "out").clips, (range(4, 10), range(4), range(12, 16)), strict=True
    ):
        source = next(c.path for c in clips if c.id == clip.id)
        made = read_frames(clip.path, range(probe(clip.path, reader).frames), reader).astype(int)
        everything = read_frames(source, range(16), reader)
        assert [int(np.abs(everything - frame).mean((1, 2, 3)).argmin()) for frame in made] == list(
            frames
        )


def test_parts_are_read_from_files_too(manifest: Path, tmp_path: Path) -> None:
    clips = list(read_manifest(manifest).clips)[:2]
    path = write_manifest(clips, tmp_path / "parts.csv", start_s=["0.5", "1"], end_s=["1", "1.001"])
    views = ViewLoader(
        read_manifest(path).clips,
        data=DATA,
        model=MODEL,
        runtime=HERE,
        segments=1,
        crops=1,
        batch_size=2,
    )
    ((shown, _),) = views.batches()
    everything = [
        read_frames(clip.path, range(16), get_reader("decord"), (32, 43))[:, :, 5:37].astype(int)
        for clip in clips
    ]
    found = [
        [int(np.abs(everything[i] - frame).mean((1, 2, 3)).argmin()) for frame in shown[i].numpy()]
        for i in range(2)
    ]
    assert found == [[4, 5, 6, 7], [8, 8, 8, 8]]


@pytest.mark.parametrize(
    ("start", "end"), [("2", "1"), ("-1", "3"), ("x", ""), ("", "0"), ("nan", ""), ("", "inf")]
)
def test_a_part_that_cannot_be_is_one_clear_error(tmp_path: Path, start: str, end: str) -> None:
    path = write_manifest(
        [Clip("a", tmp_path / "a.mp4", ("words",))],
        tmp_path / "m.csv",
        start_s=[start],
        end_s=[end],
    )
    with pytest.raises(DataError, match=r"videoid 'a' has start_s"):
        read_manifest(path)


# ---- reading -------------------------------------------------------------------------------------


def unpacked(shards: Path, folder: Path) -> list[Clip]:
    """The members as files."""
    folder.mkdir()
    clips = []
    for clip in read_shards(shards).clips:
        stored = member_bytes(clip.path)
        assert stored is not None
        (folder / f"{clip.id}.mp4").write_bytes(stored.getvalue())
        clips.append(replace(clip, path=folder / f"{clip.id}.mp4"))
    return clips


def batches(clips: Any, start: int, count: int, **changes: Any) -> list[Batch]:
    values: dict[str, Any] = {
        "data": DATA,
        "model": MODEL,
        "runtime": HERE,
        "batch_size": 4,
        "seed": 5,
        "flip": 0.5,
        **changes,
    }
    stream = TrainLoader(clips, load_tokenizer("builtin"), **values).batches(start)
    try:
        return list(itertools.islice(stream, count))
    finally:
        stream.close()  # type: ignore[attr-defined]


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    for a, b in zip(left, right, strict=True):
        assert a.sample_ids == b.sample_ids
        assert all(
            torch.equal(getattr(a, name), getattr(b, name))
            for name in ("clips", "input_ids", "attention_mask", "word_ids")
        )


@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_batches_are_those_of_the_files(shards: Path, tmp_path: Path, reader: str) -> None:
    clips, files = read_shards(shards).clips, unpacked(shards, tmp_path / "files")
    data = replace(DATA, reader=reader)
    expected = batches(files, 0, 6, data=data)
    assert_same(batches(clips, 0, 6, data=data), expected)
    assert_same(batches(clips, 3, 2, data=data, runtime=replace(HERE, workers=2)), expected[3:5])
    for rank in range(2):
        part = batches(clips, 1, 1, data=data, rank=rank, world=2)[0]
        assert torch.equal(part.clips, expected[1].clips[2 * rank : 2 * rank + 2])


def test_views_and_the_cache_of_frames_are_those_of_the_files(
    own_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simvtp.data.loading.clip_source.CACHE_FROM", 4)
    files, found = unpacked(own_shards, tmp_path / "files"), []
    for clips, cached in (
        (files, False),
        (read_shards(own_shards).clips, False),
        (read_shards(own_shards).clips, True),
    ):
        runtime = replace(HERE, cache=str(tmp_path / "cache"), decoded_cache=cached)
        views = ViewLoader(
            clips, data=DATA, model=MODEL, runtime=runtime, segments=2, crops=2, batch_size=8
        )
        found.append(torch.cat([part for part, _ in views.batches()]))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_they_are_a_data_set_and_their_place_does_not_matter(
    shards: Path, own_shards: Path
) -> None:
    experiments = []
    for folder in (shards, own_shards):
        data = DataConfig(dataset="shards", manifest=str(folder))
        dataset = open_dataset(data, HERE)
        assert {name: len(members) for name, members in dataset.splits.items()} == {
            "train": 8,
            "val": 1,
            "test": 1,
        }
        experiments.append(finalise(Experiment(data=data)))
        assert open_dataset(experiments[-1].data, HERE).splits == dataset.splits
    assert experiments[0].fingerprint == experiments[1].fingerprint
    assert (
        open_dataset(DataConfig(dataset="manifest", manifest=str(shards)), HERE).splits["val"][0].id
        == "clip8"
    )
    index = own_shards / "train-000001.json"
    index.write_text(index.read_text().replace("wording 0", "wording 7"))
    with pytest.raises(DataError, match="train-000001.json is not the one"):
        open_dataset(DataConfig(dataset="shards", manifest=str(own_shards)), HERE)


def test_a_folder_that_holds_none_is_one_clear_error(tmp_path: Path, own_shards: Path) -> None:
    with pytest.raises(DataError, match="holds no shards"):
        open_dataset(DataConfig(dataset="shards", manifest=str(tmp_path)), HERE)
    with pytest.raises(ConfigError, match="no finished shards"):
        finalise(Experiment(data=DataConfig(dataset="shards", manifest=str(tmp_path))))
    (own_shards / "train-000001.json").unlink()
    with pytest.raises(DataError, match="train-000001.json cannot be read"):
        read_shards(own_shards)


def test_changed_bytes_are_replaced_and_counted(
    own_shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # One member with a flipped bit deep in its pictures (which a decoder would paint over), one
    # shard cut off, one gone.
    clips = read_shards(own_shards).clips[:8]
    tar = own_shards / "train-000000.tar"
    raw = bytearray(tar.read_bytes())
    video = json.loads(tar.with_suffix(".json").read_text())["clips"][1]["video"]
    raw[video["offset"] + video["length"] // 2] ^= 4
    tar.write_bytes(raw)
    cut = own_shards / "train-000002.tar"
    second = json.loads(cut.with_suffix(".json").read_text())["clips"][1]["video"]
    cut.write_bytes(cut.read_bytes()[: second["offset"] - 100])
    loader = TrainLoader(
        clips, load_tokenizer("builtin"), data=DATA, model=MODEL, runtime=HERE, batch_size=8, seed=5
    )
    (batch,) = itertools.islice(loader.batches(), 1)
    lost = {clips[i].id for i in (1, 7)} | (
        {clips[6].id} if clips[6].id not in batch.sample_ids else set()
    )
    assert (
        lost.isdisjoint(batch.sample_ids)
        and loader.counters.corrupt == loader.counters.replaced == len(lost) >= 2
    )
    assert "another checksum" in caplog.text and "its shard ends after" in caplog.text
    report = check_manifest(own_shards, workers=0, say=lambda line: None)
    assert len(report.corrupt) == len(lost)
    cut.unlink()
    assert len(check_manifest(own_shards, workers=0, say=lambda line: None).missing) == sum(
        file_of(clip.path) == cut for clip in clips
    )
    with pytest.raises(DataError, match="does not decode"):
        batches(clips, 0, 1, data=replace(DATA, on_corrupt="raise"), batch_size=8)
