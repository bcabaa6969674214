"""Manifests, splits and fractions."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.config.data_config import DataConfig, ShapesConfig
from simvtp.config.experiment_config import RuntimeConfig
from simvtp.data.clips import Clip
from simvtp.data.datasets import cache_dir, open_dataset
from simvtp.data.manifest import assign_splits, hash_unit, read_manifest, take_fraction
from simvtp.errors import ConfigError, DataError

HEADER = "videoid,path,caption\n"


def write(folder: Path, text: str, name: str = "clips.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    for video in re.findall(r"[\w/]+\.mp4", text):
        (folder / video).parent.mkdir(exist_ok=True)
        (folder / video).touch()
    return path


def clips_named(names: list[str]) -> list[Clip]:
    return [Clip(name, Path(f"{name}.mp4"), ("words",)) for name in names]


def test_rows_of_one_video_are_its_captions_and_paths_are_relative_to_the_manifest(
    tmp_path: Path,
) -> None:
    path = write(
        tmp_path, HEADER + 'a,clips/a.mp4,"one, two"\nb,b.mp4,1.#IND\na,clips/a.mp4,three\n'
    )
    first, second = read_manifest(path).clips
    assert first == Clip("a", tmp_path / "clips/a.mp4", ("one, two", "three"))
    assert second.captions == ("1.#IND",)  # a word, not a missing value as to pandas


def test_parquet_gives_the_same_clips_as_csv(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "1,a.mp4,one\n2,b.mp4,\n1,a.mp4,two\n3,c.mp4,x\n")
    table = pd.read_csv(path)  # ids as numbers, the empty caption as a missing value
    table.to_parquet(tmp_path / "clips.parquet")
    assert read_manifest(tmp_path / "clips.parquet").clips == read_manifest(path).clips


def test_empty_captions_are_dropped_and_counted(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, HEADER + "a,a.mp4,one\na,a.mp4,\nb,b.mp4,  \n"))
    assert [clip.id for clip in manifest.clips] == ["a"]
    assert (manifest.empty_captions, manifest.uncaptioned) == (2, ("b",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,path,caption\na,b,c\n", r"no column videoid \(found: id, path, caption\)"),
        ("", "cannot be read as a table"),
        (HEADER, "no rows"),
        (HEADER + "a,a.mp4,\n", "no row with a caption"),
        (HEADER + ",a.mp4,one\n", "line 2 has no videoid"),
        (HEADER + "a,,one\n", "line 2 has no path"),
        (HEADER + "a,a.mp4,one\na,b.mp4,two\n", r"'a' has two paths, a.mp4 and b.mp4"),
        ("videoid,path,caption,split\na,a.mp4,one,dev\n", "line 2 has split 'dev'"),
        ("videoid,path,caption,split\na,a.mp4,one,train\na,a.mp4,two,test\n", "two splits"),
        (
            "videoid,path,caption,start_s\na,a.mp4,one,1\na,a.mp4,two,2\n",
            "'a' has two start_s, 1 and 2",
        ),
    ],
)
def test_a_bad_manifest_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=message) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)


def test_a_missing_manifest_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read_manifest(tmp_path / "none.csv")


def test_hash_is_a_fixed_function() -> None:
    assert hash_unit("split", "video0") == pytest.approx(0.30175297125280265, abs=0)
    assert hash_unit("fraction", "video0") != hash_unit("split", "video0")


@given(
    names=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=60, unique=True),
    a=st.floats(0.01, 1),
    b=st.floats(0.01, 1),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_fractions_are_nested_exact_and_independent_of_order(
    names: list[str], a: float, b: float
) -> None:
    clips = clips_named(names)
    small, large = (take_fraction(clips, share) for share in sorted((a, b)))
    assert set(small) <= set(large)
    assert len(large) == max(1, round(max(a, b) * len(clips)))
    assert set(take_fraction(clips[::-1], max(a, b))) == set(large)
    assert list(large) == [clip for clip in clips if clip in set(large)]


def test_a_clip_keeps_its_split_when_others_come() -> None:
    names = [f"video{i}" for i in range(2000)]
    all_clips = {clip.id: clip.split for clip in assign_splits(clips_named(names), (0.8, 0.1, 0.1))}
    some = assign_splits(clips_named(names[::3]), (0.8, 0.1, 0.1))
    assert all(all_clips[clip.id] == clip.split for clip in some)
    shares = {
        split: sum(s == split for s in all_clips.values()) / 2000
        for split in ("train", "val", "test")
    }
    assert shares["train"] == pytest.approx(0.8, abs=0.03) and shares["val"] == pytest.approx(
        0.1, abs=0.025
    )


def test_fraction_is_independent_of_the_split() -> None:
    clips = assign_splits(clips_named([f"v{i}" for i in range(3000)]), (0.5, 0.25, 0.25))
    kept = take_fraction(clips, 0.2)
    assert sum(clip.split == "train" for clip in kept) / len(kept) == pytest.approx(0.5, abs=0.06)


def test_own_splits_are_kept_and_whole_whatever_the_fraction(tmp_path: Path) -> None:
    rows = [
        f"v{i},v{i}.mp4,words,{split}"
        for i, split in enumerate(["train"] * 10 + ["val"] * 4 + ["test"] * 3)
    ]
    path = write(tmp_path, "videoid,path,caption,split\n" + "\n".join(rows) + "\n")
    data = DataConfig(dataset="manifest", manifest=str(path), fraction=0.5)
    dataset = open_dataset(data, RuntimeConfig())
    assert {name: len(clips) for name, clips in dataset.splits.items()} == {
        "train": 10,
        "val": 4,
        "test": 3,
    }, "the share is of the pre-training; fine-tuning sees all"
    assert dataset.name == "clips"


def test_an_empty_split_is_one_clear_error(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "a,a.mp4,one\n")
    with pytest.raises(DataError, match="split of .* is empty"):
        open_dataset(DataConfig(dataset="manifest", manifest=str(path)), RuntimeConfig())
    with pytest.raises(ConfigError, match="no such data set"):
        open_dataset(replace(DataConfig(), dataset="films"), RuntimeConfig())


def test_the_embedded_data_set_opens(tmp_path: Path) -> None:
    data = DataConfig(shapes=ShapesConfig(train=3, val=2, test=2))
    dataset = open_dataset(data, RuntimeConfig(cache=str(tmp_path), workers=1))
    assert {name: len(clips) for name, clips in dataset.splits.items()} == {
        "train": 3,
        "val": 2,
        "test": 2,
    }
    assert all(
        clip.path.is_file() and clip.captions for clips in dataset.splits.values() for clip in clips
    )


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIMVTP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir(RuntimeConfig()) == tmp_path / "xdg" / "simvtp"
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path / "env"))
    assert cache_dir(RuntimeConfig()) == tmp_path / "env"
    assert cache_dir(RuntimeConfig(cache=str(tmp_path / "own"))) == tmp_path / "own"
