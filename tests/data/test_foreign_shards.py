"""Tar shards that others made are indexed once and then read like any data set."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from simvtp.config.data_config import DataConfig
from simvtp.config.experiment_config import Experiment, RuntimeConfig
from simvtp.config.model_config import SimVTPConfig
from simvtp.data.datasets import open_dataset
from simvtp.data.loading.train_loader import TrainLoader
from simvtp.data.manifest import read_manifest
from simvtp.data.prepare.check_manifest import check_manifest
from simvtp.data.prepare.write_shards import write_shards
from simvtp.data.shards import read_shards
from simvtp.data.text.tokenizer import load_tokenizer
from simvtp.data.video.readers import get_reader, read_frames
from simvtp.errors import DataError, UserError
from simvtp.resolve import finalise
from tests.data.compared_readers import READERS
from tests.data.numbered_films import FRAMES, film, numbered, numbers
from tests.data.test_film_kinds import loaded, sharded
from tests.data.test_frame_folders import picture

MODEL = SimVTPConfig(image_size=32, frames=4, patch_size=8, text_length=12)


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("videos")
    made = {}
    for name in ("a.mp4", "b.webm", "c.avi"):
        codec = {"webm": "libvpx"}.get(name[2:], "libx264")
        made[name[2:]] = film(
            folder / name, codec, options={"b": "2M"} if "vpx" in codec else None
        ).read_bytes()
    picture(folder / "p.jpg", 77)
    made["jpg"] = (folder / "p.jpg").read_bytes()
    return made


@pytest.fixture
def folder(videos: dict[str, bytes], tmp_path: Path) -> Path:
    """Three tar files as video2dataset, img2dataset and webdataset write them."""
    shards = tmp_path / "shards"
    shards.mkdir()
    record = json.dumps({"caption": "a film of webm", "duration": 2.4, "url": "x"}).encode()
    tar(
        shards / "00000.tar",
        {
            "000000000.mp4": videos["mp4"],
            "000000000.txt": b"a film of mp4\n",
            "000000000.json": b'{"caption": "not this one"}',
            "000000001.webm": videos["webm"],
            "000000001.json": record,
            "000000002.json": b'{"caption": "its download failed"}',
        },
    )
    tar(
        shards / "00001.tar",
        {
            "deep/er/one.v1.jpg": videos["jpg"],
            "deep/er/one.txt": b"a picture",
            "deep/two.avi": videos["avi"],
            "deep/two.json": b'{"captions": ["a film of avi", "another caption"]}',
            "deep/two.cls": b"7",
            "deep/three.mp4": videos["mp4"],
            "deep/three.cls": b"3",
            "deep/four.mp4": videos["mp4"],
            "deep/four.txt": b"nan",
        },
    )
    return shards


def test_samples_are_found_with_their_captions_and_frames(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert [(clip.id, clip.captions) for clip in manifest.clips] == [
        ("000000000", ("a film of mp4",)),
        ("000000001", ("a film of webm",)),
        ("deep/er/one", ("a picture",)),
        ("deep/two", ("a film of avi", "another caption")),
    ]
    for clip in manifest.clips:
        expected = [77] if clip.id == "deep/er/one" else list(range(FRAMES))
        for reader in READERS:
            frames = read_frames(clip.path, range(len(expected)), get_reader(reader))
            assert numbers(frames) == expected, (clip.id, reader)
        assert numbers(loaded(clip)) == expected
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["clips"], summary["samples_without_video"]) == (4, 1)
    assert summary["rows_without_caption"] == 2
    assert numbered(77).shape == (64, 96, 3)


def test_the_index_is_made_once_and_is_the_identity_of_the_data(folder: Path) -> None:
    data = DataConfig(dataset="shards", manifest=str(folder), splits="0.4/0.3/0.3")
    digest = finalise(Experiment(data=data)).data.manifest_digest
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert finalise(Experiment(data=data)).data.manifest_digest == digest
    assert read_shards(folder).clips == read_manifest(folder).clips
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times
    moved = folder.rename(folder.with_name("elsewhere"))
    data = DataConfig(dataset="shards", manifest=str(moved), splits="0.4/0.3/0.3")
    assert finalise(Experiment(data=data)).data.manifest_digest == digest


def test_check_training_and_shards_of_ours_take_them(folder: Path, tmp_path: Path) -> None:
    report = check_manifest(folder, workers=0, frames=1, say=lambda line: None)
    assert report.ok and report.videos == 4
    clips = read_manifest(folder).clips

    def batches(start: int) -> list[torch.Tensor]:
        loader = TrainLoader(
            clips,
            load_tokenizer("builtin"),
            data=DataConfig(stride=2),
            model=MODEL,
            runtime=RuntimeConfig(workers=0, device="cpu"),
            batch_size=2,
            seed=0,
        )
        found = itertools.islice(loader.batches(start), 4 - start)
        return [torch.as_tensor(np.array(batch.clips)) for batch in found]

    whole, resumed = batches(0), batches(3)
    assert torch.equal(whole[3], resumed[0])
    result = write_shards(folder, tmp_path / "out", workers=0, say=lambda line: None)
    assert result.written == 4


def test_names_of_files_say_the_splits(videos: dict[str, bytes], tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        name = {"val": "validation"}.get(split, split)
        members = {f"{split}.mp4": videos["mp4"], f"{split}.txt": b"words"}
        tar(tmp_path / f"{name}-00000.tar", members)
    data = DataConfig(dataset="shards", manifest=str(tmp_path))
    splits = open_dataset(data, RuntimeConfig()).splits
    assert {split: [clip.id for clip in clips] for split, clips in splits.items()} == {
        "train": ["train"],
        "val": ["val"],
        "test": ["test"],
    }


def test_damage_and_changes_are_one_sentence(folder: Path, videos: dict[str, bytes]) -> None:
    whole = (folder / "00001.tar").read_bytes()
    (folder / "00001.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="00001.tar is damaged or cut off"):
        read_manifest(folder)
    (folder / "00001.tar").write_bytes(whole)
    assert len(read_manifest(folder).clips) == 4
    tar(folder / "00002.tar", {"x.mp4": videos["mp4"], "x.txt": b"words"})
    with pytest.raises(DataError, match="1 tar files are not those that were indexed.*00002.tar"):
        read_manifest(folder)


def test_of_members_with_one_name_the_last_counts(videos: dict[str, bytes], tmp_path: Path) -> None:
    """`tar -r` appends a film and its caption in place of earlier ones."""
    folder = tmp_path / "shards"
    folder.mkdir()
    path = tar(folder / "0.tar", {"k.mp4": b"an earlier film", "k.txt": b"an earlier caption"})
    with tarfile.open(path, "a") as archive:
        for name, content in (("k.mp4", videos["mp4"]), ("k.txt", b"a film of mp4")):
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    [clip] = read_manifest(folder).clips
    assert clip.captions == ("a film of mp4",)
    assert numbers(loaded(clip)) == list(range(FRAMES))


TEXTS = {
    "a byte order mark": "\ufeffcafé".encode(),
    "UTF-16": "café".encode("utf-16"),
    "NUL bytes behind it": "café".encode() + bytes(7),
    "lines": "\n café \r\n".encode(),
}


def test_texts_of_other_encodings_are_read_or_left_out(
    videos: dict[str, bytes], tmp_path: Path
) -> None:
    members: dict[str, bytes] = {}
    for number, text in enumerate((*TEXTS.values(), "café".encode("latin-1"), b"\0\0\0")):
        members |= {f"k{number}.mp4": videos["mp4"], f"k{number}.txt": text}
    folder = tmp_path / "shards"
    folder.mkdir()
    tar(folder / "0.tar", members)
    clips = read_manifest(folder).clips
    assert [clip.captions for clip in clips] == [("café",)] * len(TEXTS)
    report = check_manifest(folder, workers=0, frames=1, say=lambda line: None)
    assert f"6 rows read, {len(TEXTS)} used, 2 left out" in report.lines()


def test_tar_files_without_captions_are_refused(videos: dict[str, bytes], tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"x.mp4": videos["mp4"], "y.txt": b"words"})
    with pytest.raises(DataError, match=r"holds no videos with captions \(2 samples lack one\)"):
        read_manifest(tmp_path)


def test_a_foreign_file_in_the_way_of_an_index_is_not_overwritten(folder: Path) -> None:
    (folder / "00000.json").write_text('{"mine": true}')
    with pytest.raises(UserError, match="00000.json is where the index of 00000.tar belongs"):
        read_manifest(folder)
    assert json.loads((folder / "00000.json").read_text()) == {"mine": True}


def frames_of(folder: Path, count: int, ending: str = "jpg") -> list[bytes]:
    """Returns pictures that show 0, 1, ..."""
    found = []
    for number in range(count):
        picture(folder / f"frame.{ending}", number)
        found.append((folder / f"frame.{ending}").read_bytes())
    return found


def test_frames_inside_tar_files_are_clips_for_all(
    videos: dict[str, bytes], tmp_path: Path
) -> None:
    pictures = frames_of(tmp_path, 20)
    order = [*range(10, 20), *range(10)]  # of the members: numbers count, not places
    members = {f"0001/frame_{n:05d}.jpg": pictures[n] for n in order}
    members |= {f"0002/{n}.jpg": pictures[n] for n in order}
    members |= {"0001.txt": b"a folder", "0002/caption.json": b'{"caption": "its own text"}'}
    members |= {f"set/0003/rgb/img_{n}.jpg": pictures[n] for n in order}
    members |= {"set/0003/words.txt": b"one level up"}
    members |= {f"0004.{n:03d}.jpg": pictures[n] for n in order} | {"0004.txt": b"one sample"}
    shards = tmp_path / "shards"
    shards.mkdir()
    tar(shards / "a.tar", members)
    manifest = read_manifest(shards)
    assert [(clip.id, *clip.captions) for clip in manifest.clips] == [
        ("0001", "a folder"),
        ("0002", "its own text"),
        ("set/0003/rgb", "one level up"),
        ("0004", "one sample"),
    ]
    for clip in manifest.clips:
        for reader in READERS:
            assert numbers(read_frames(clip.path, range(20), get_reader(reader))) == [*range(20)]
            assert numbers(read_frames(clip.path, [7, 3, 3], get_reader(reader))) == [7, 3, 3]
        assert numbers(loaded(clip)) == [*range(20)]
    assert check_manifest(shards, workers=0, say=lambda line: None).ok
    stored = sharded(shards, tmp_path / "out")
    assert [numbers(frames) for frames in stored] == [[*range(20)]] * 4
    summary = json.loads((shards / "summary.json").read_text())
    assert summary["samples_without_video"] == summary["rows_without_caption"] == 0


def test_the_member_that_is_meant_is_the_clip(videos: dict[str, bytes], tmp_path: Path) -> None:
    """A thumbnail before its video, a mask next to a picture, pictures with their own captions."""
    pictures = frames_of(tmp_path, 4)
    shards = tmp_path / "shards"
    shards.mkdir()
    members = {"a.jpg": pictures[1], "a.mp4": videos["mp4"], "a.txt": b"the film"}
    members |= {"b.jpg": pictures[2], "b.seg.jpg": pictures[3], "b.txt": b"the picture"}
    members |= {f"c/{n}.jpg": pictures[n] for n in range(2)}
    members |= {f"c/{n}.txt": b"picture %d" % n for n in range(2)} | {"c.txt": b"no clip"}
    members |= {"._a.mp4": b"x", "d/left.jpg": pictures[0], "d/right.jpg": pictures[1]}
    members |= {"d.txt": b"not numbered"}
    tar(shards / "a.tar", members)
    clips = read_manifest(shards).clips
    shown = {clip.id: numbers(loaded(clip)) for clip in clips}
    assert shown == {"a": [*range(FRAMES)], "b": [2], "c/0": [0], "c/1": [1]}
    summary = json.loads((shards / "summary.json").read_text())
    assert (summary["samples_without_video"], summary["rows_without_caption"]) == (2, 2)


def test_the_content_of_videos_and_frames_is_part_of_the_identity(
    videos: dict[str, bytes], tmp_path: Path
) -> None:
    """Same names, sizes and captions; one byte of a video or picture differs."""
    pictures = frames_of(tmp_path, 3)
    members = {"x.mp4": videos["mp4"], "x.txt": b"words"}
    members |= {f"y/{n}.jpg": pictures[n] for n in range(3)} | {"y.txt": b"words"}

    def digest(name: str, changed: str) -> str:
        (tmp_path / name).mkdir()
        content = members[changed]
        flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
        tar(tmp_path / name / "a.tar", members | ({changed: flipped} if name != "same" else {}))
        data = DataConfig(dataset="shards", manifest=str(tmp_path / name), splits="0.4/0.3/0.3")
        return finalise(Experiment(data=data)).data.manifest_digest

    assert len({digest("same", "x.mp4"), digest("film", "x.mp4"), digest("frame", "y/1.jpg")}) == 3


def test_bytes_that_changed_since_they_were_indexed_are_no_other_frames(
    videos: dict[str, bytes], tmp_path: Path
) -> None:
    pictures = frames_of(tmp_path, 3)
    shards = tmp_path / "shards"
    shards.mkdir()
    members = {"x.mp4": videos["mp4"], "x.txt": b"words"}
    members |= {f"y/{n}.jpg": pictures[n] for n in range(3)} | {"y.txt": b"words"}
    path = tar(shards / "a.tar", members)
    film_clip, frames_clip = read_manifest(shards).clips
    content = path.read_bytes()
    for part in (videos["mp4"], pictures[1]):
        content = content.replace(part, part[:-9] + bytes([part[-9] ^ 1]) + part[-8:])
    path.write_bytes(content)
    film_clip, frames_clip = read_manifest(shards).clips
    for clip, frames in ((film_clip, [0]), (frames_clip, [1])):
        for reader in READERS:
            with pytest.raises(DataError, match="another checksum"):
                read_frames(clip.path, frames, get_reader(reader))
    assert len(check_manifest(shards, workers=0, frames=1, say=lambda line: None).corrupt) == 2
    (shards / "a.frames").write_bytes(bytes((shards / "a.frames").stat().st_size))
    with pytest.raises(DataError, match=r"records in a\.frames are not those that were written"):
        read_frames(frames_clip.path, [0], get_reader("fast"))


def test_an_index_without_digests_is_made_again(folder: Path) -> None:
    """An older version knew names, sizes and offsets only."""
    expected = read_manifest(folder).clips
    for file in folder.glob("*.json"):
        content = json.loads(file.read_text())
        content.pop("digests")
        for clip in content.get("clips", ()) if file.stem.isdigit() else ():
            del clip["video"]["sha256"]
        file.write_text(json.dumps(content))
    assert read_manifest(folder).clips == expected
    assert all(":" in str(clip.path).partition("#")[2] for clip in expected)


def test_files_that_are_all_called_train_are_split_by_hash(
    videos: dict[str, bytes], tmp_path: Path
) -> None:
    for number in range(12):
        tar(
            tmp_path / f"train-{number}.tar",
            {f"{number}.mp4": videos["mp4"], f"{number}.txt": b"x"},
        )
    data = DataConfig(dataset="shards", manifest=str(tmp_path), splits="0.4/0.3/0.3")
    splits = open_dataset(data, RuntimeConfig()).splits
    assert sum(len(clips) for clips in splits.values()) == 12 and all(splits.values())
