"""Files of the embedded data set: what is asked for is made, the same bytes every time."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from simvtp.config.data_config import ShapesConfig
from simvtp.data.shapes.generate import ensure_shapes, shapes_folder
from simvtp.data.shapes.plan_clips import Purpose, plan
from simvtp.data.shapes.render_scene import render
from simvtp.data.shapes.scene import (
    Draw,
)
from simvtp.errors import ConfigError, DataError
from tests.data.shapes.small_shapes import CALL, ROOT, SMALL, contents, decode, records, table


def test_every_clip_is_a_real_video_of_the_asked_size_that_shows_its_scene(made: Path) -> None:
    clips = plan(SMALL)
    assert len(clips) == 36
    for clip in clips[::5]:
        path = made / clip.path
        assert path.read_bytes()[4:8] == b"ftyp"
        frames = decode(path)
        assert frames.shape == (16, 64, 64, 3)
        drawn = render(
            clip.scene,
            64,
            SMALL.difficulty,
            Draw(SMALL.seed, clip.split, clip.index, 0, Purpose.PIXELS),
        )
        assert (
            np.abs(frames.astype(int) - drawn).mean() < 8
        )  # what the codec loses, mostly in colour


def test_decord_reads_the_clips(made: Path) -> None:
    decord = pytest.importorskip("decord")
    reader = decord.VideoReader(str(made / "clips/test/000000.mp4"), num_threads=1)
    assert (
        len(reader) == 16
        and reader.get_avg_fps() == 8
        and reader[15].asnumpy().shape == (64, 64, 3)
    )


def test_manifest_lists_each_clip_with_its_captions(made: Path) -> None:
    rows = table(made, "manifest.csv")
    assert list(rows[0]) == ["videoid", "path", "caption", "split"]
    by_split = {
        split: [row for row in rows if row["split"] == split] for split in ("train", "val", "test")
    }
    for split, count in (("train", 24), ("val", 5), ("test", 7)):
        assert len({row["videoid"] for row in by_split[split]}) == count
    assert 24 < len(by_split["train"]) <= 48  # one or two captions
    assert len(by_split["val"]) == 5 and len(by_split["test"]) == 7  # exactly one
    assert all((made / row["path"]).is_file() for row in rows)
    assert {row["caption"] for row in rows} == {
        said["caption"] for record in records(made).values() for said in record["captions"]
    }


def test_same_configuration_gives_the_same_bytes_whoever_makes_them(
    made: Path, tmp_path: Path
) -> None:
    calls: list[tuple[int, int]] = []
    again = ensure_shapes(
        SMALL, tmp_path, workers=2, progress=lambda done, total: calls.append((done, total))
    )
    assert again.parent.name == made.name
    assert contents(again.parent) == contents(made)
    assert calls[-1] == (36, 36) and [done for done, _ in calls] == sorted(
        done for done, _ in calls
    )


def test_configurations_do_not_collide(tmp_path: Path) -> None:
    changed = {
        "train": 25,
        "val": 6,
        "test": 8,
        "image_size": 96,
        "frames": 24,
        "difficulty": 0.25,
        "level": "pair",
        "seed": 1,
    }
    assert set(changed) == {field.name for field in dataclasses.fields(ShapesConfig)}
    others = [dataclasses.replace(SMALL, **{key: value}) for key, value in changed.items()]
    assert len({shapes_folder(config, tmp_path) for config in (SMALL, *others)}) == 1 + len(others)
    assert shapes_folder(dataclasses.replace(SMALL, difficulty=1), tmp_path) == shapes_folder(
        dataclasses.replace(SMALL, difficulty=1.0), tmp_path
    )


def test_other_sizes_and_lengths(tmp_path: Path) -> None:
    for size, frames in ((96, 24), (48, 8), (32, 1)):
        manifest = ensure_shapes(
            ShapesConfig(train=1, val=1, test=1, image_size=size, frames=frames),
            tmp_path,
            workers=1,
        )
        assert decode(manifest.parent / "clips/train/000000.mp4").shape == (frames, size, size, 3)


@pytest.mark.parametrize("size", [33, 16])
def test_frame_sizes_that_cannot_be_made_are_refused(size: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"image_size={size}"):
        ensure_shapes(dataclasses.replace(SMALL, image_size=size), tmp_path)


def test_a_cache_that_cannot_be_written_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match=r"cannot be written.*runtime\.cache"):
        ensure_shapes(SMALL, tmp_path / "file", workers=1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_takes_no_more_is_one_clear_sentence_and_leaves_nothing_partial(
    workers: int, tmp_path: Path
) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
    command = [sys.executable, "-c", limit + CALL, str(tmp_path), "24", str(workers)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ended.returncode != 0
    assert "DataError: the embedded data set cannot be written" in ended.stderr
    assert not list(tmp_path.rglob("*.mp4")) and not list(tmp_path.rglob("*.tmp"))
