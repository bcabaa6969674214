"""Changed, broken or contradictory annotation files are one clear error."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from simvtp.data.benchmarks import open_benchmark
from simvtp.errors import ConfigError, DataError
from tests.data.benchmarks.annotation_helpers import change
from tests.data.benchmarks.changed_files import RENAMED
from tests.data.benchmarks.made import (
    MADE,
    movie_clip,
    write,
    write_json,
)


@pytest.mark.parametrize(("name", "file", "old", "new", "words"), RENAMED)
def test_a_changed_file_is_one_clear_error(
    made: Callable[[str], Path],
    tmp_path: Path,
    name: str,
    file: str,
    old: str,
    new: str,
    words: str,
) -> None:
    shutil.copytree(made(name), tmp_path, dirs_exist_ok=True)
    change(tmp_path / file, old, new)
    if not words:
        assert open_benchmark(name, tmp_path).labels, (
            "a class that is left in the other list is still a class"
        )
        return
    with pytest.raises(DataError, match=words) as caught:
        open_benchmark(name, tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", MADE)
def test_each_missing_file_is_named(made: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    """Some are optional, or another form steps in.

    None may end in anything but a DataError that says where it was looked for.
    """
    shutil.copytree(made(name), tmp_path, dirs_exist_ok=True)
    refused = 0
    for path in sorted(tmp_path.iterdir()):
        path.rename(tmp_path / "hidden")
        try:
            open_benchmark(name, tmp_path)
        except DataError as error:
            refused += 1
            assert re.search(r"looked in|in both|lists of \d+ classes", str(error)) and str(
                tmp_path
            ) in str(error), error
        (tmp_path / "hidden").rename(path)
    assert refused


@pytest.mark.parametrize("name", MADE)
def test_a_broken_file_is_a_data_error(
    made: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """Half a file, no file content, a web page instead, bytes that are no text.

    A DataError, or it is not read at all.
    """
    shutil.copytree(made(name), tmp_path, dirs_exist_ok=True)
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        refused = []
        for broken in (
            whole[: len(whole) // 2 - 3],
            b"",
            b"<!DOCTYPE html>\n<html><body>Not found</body></html>",
            b"\xff\xfe\x00" + whole,
        ):
            path.write_bytes(broken)
            try:
                open_benchmark(name, tmp_path)
            except DataError as error:
                assert "\n" not in str(error)
                refused.append(str(error))
        assert refused == [] or any(path.name in text for text in refused), refused
        path.write_bytes(whole)


def test_a_test_video_in_the_training_list_is_a_leak(
    made: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(made("msrvtt"), tmp_path, dirs_exist_ok=True)
    with open(tmp_path / "MSRVTT_train.9k.csv", "a") as file:
        file.write("video7001\nvideo7003\n")
    with pytest.raises(
        DataError,
        match=(
            r"msrvtt 1k-A: 2 videos are in both the train and the test list \(a leak\): "
            r"video7001, video7003"
        ),
    ):
        open_benchmark("msrvtt", tmp_path)


LEAKS = [
    ("msvd", "train_list.txt", "-4wsuP_11_21\n"),
    ("charades_sta", "charades_sta_train.txt", "00500 1.0 2.0##person runs.\n"),
    ("ucf101", "trainlist01.txt", "Archery/v_Archery_g01_c01.avi 1\n"),
    (
        "lsmdc",
        "LSMDC16_annos_training.csv",
        "\t".join((movie_clip(20), "0", "1", "0", "1", "SOMEONE.")),
    ),
    ("tgif_qa", "Train_action_question.csv", "tumblr_100\tWhat ?\ta\tb\tc\td\te\t0\tACTIONX\t9\n"),
    ("webvid", "results_2M_train.csv", "2001,A boat,1,p,PT,u\n"),
    ("kinetics", "kinetics-400_train.csv", "class 0,va400000000,7,17,train,0\n"),
]


@pytest.mark.parametrize(("name", "file", "row"), LEAKS)
def test_leaks_are_found_in_every_kind_of_list(
    made: Callable[[str], Path], tmp_path: Path, name: str, file: str, row: str
) -> None:
    shutil.copytree(made(name), tmp_path, dirs_exist_ok=True)
    with open(tmp_path / file, "a") as stream:
        stream.write(row)
    with pytest.raises(DataError, match="1 videos are in both the train and the test list"):
        open_benchmark(name, tmp_path)


DUPLICATES = [
    (
        "msrvtt",
        "MSRVTT_train.9k.csv",
        "video3\n",
        r"MSRVTT_train.9k.csv names 1 videos more than once: video3",
    ),
    (
        "msrvtt",
        "MSRVTT_JSFUSION_test.csv",
        "ret9,msr7001,video7001,again\n",
        r"names 1 videos more than once: video7001",
    ),
    ("msvd", "test_list.txt", "-4wsuP_9_19\n", r"test_list.txt names 1 clips more than once"),
    (
        "lsmdc",
        "LSMDC16_challenge_1000_publictect.csv",
        "\t".join((movie_clip(20), "0", "1", "0", "1", "X.")),
        r"names 1 clips more than once",
    ),
    (
        "tgif_qa",
        "Test_action_question.csv",
        "tumblr_9999\tWhat ?\ta\tb\tc\td\te\t0\tACTION101\t9\n",
        r"names 1 questions \(vid_id\) more than once",
    ),
    (
        "ucf101",
        "testlist01.txt",
        "Biking/v_Biking_g01_c01.avi\n",
        r"testlist01.txt names 1 videos more than once",
    ),
    (
        "kinetics",
        "kinetics-400_val.csv",
        "class 3,va400000100,7,17,val,0\n",
        r"kinetics-400_val.csv names 1 clips more than once",
    ),
]


@pytest.mark.parametrize(("name", "file", "row", "words"), DUPLICATES)
def test_duplicates_are_named(
    made: Callable[[str], Path], tmp_path: Path, name: str, file: str, row: str, words: str
) -> None:
    shutil.copytree(made(name), tmp_path, dirs_exist_ok=True)
    with open(tmp_path / file, "a") as stream:
        stream.write(row)
    with pytest.raises(DataError, match=words):
        open_benchmark(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "protocol", "file"),
    [
        ("msrvtt", "1k-A", "MSRVTT_train.9k.csv"),
        ("msvd", "", "val_list.txt"),
        ("didemo", "paragraph-ce", "test_list.txt"),
        ("vatex", "hgr", "test_list.txt"),
    ],
)
def test_ids_that_the_annotation_lacks_are_named(
    made: Callable[[str], Path], tmp_path: Path, name: str, protocol: str, file: str
) -> None:
    shutil.copytree(made(name), tmp_path, dirs_exist_ok=True)
    with open(tmp_path / file, "a") as stream:
        stream.write("".join(f"unknown{n}\n" for n in range(7)))
    with pytest.raises(
        DataError,
        match=(
            r"has no annotation of 7 of the \d+ videos in the \w+ list: unknown0, .*unknown4, "
            r"\.\.\."
        ),
    ):
        open_benchmark(name, tmp_path, protocol)


def test_captions_of_any_script_and_length(made: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(made("msrvtt"), tmp_path, dirs_exist_ok=True)
    odd = {
        "video0": "🐿️ eats 🥜",
        "video1": "סנאי אוכל",
        "video2": "word " * 5000,
        "video3": "two\u2028lines",
    }
    content = json.loads((tmp_path / "MSRVTT_data.json").read_text())
    for sentence in content["sentences"]:
        sentence["caption"] = odd.get(sentence["video_id"], sentence["caption"])
    (tmp_path / "MSRVTT_data.json").write_text(
        json.dumps(content, ensure_ascii=False), encoding="utf-8"
    )
    clips = {clip.id: clip for clip in open_benchmark("msrvtt", tmp_path).clips}
    assert all(set(clips[name].captions) == {text.strip()} for name, text in odd.items())


def test_videos_without_any_caption_are_named(made: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(made("msrvtt"), tmp_path, dirs_exist_ok=True)
    content = json.loads((tmp_path / "MSRVTT_data.json").read_text())
    for sentence in content["sentences"]:
        sentence["caption"] = (
            " " if sentence["video_id"] in ("video1", "video2") else sentence["caption"]
        )
    write_json(tmp_path / "MSRVTT_data.json", content)
    with pytest.raises(DataError, match=r"has no caption for 2 videos: video1, video2"):
        open_benchmark("msrvtt", tmp_path)


def test_unknown_names_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no benchmark 'msrvt'; choose from webvid"):
        open_benchmark("msrvt", tmp_path)
    with pytest.raises(
        ConfigError, match="msrvtt has no protocol '1k'; choose one of 1k-A, 1k-A-7k, full, 1k-B"
    ):
        open_benchmark("msrvtt", tmp_path, "1k")
    with pytest.raises(DataError, match="there is no such folder"):
        open_benchmark("tacos", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no train.json below .*; looked in \., annotations,"):
        open_benchmark("tacos", tmp_path)


def test_linked_folders_that_lead_back_end(made: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(made("msvd"), tmp_path, dirs_exist_ok=True)
    write(tmp_path / "YouTubeClips/deep/-4wsuP_9_19.avi", "")
    (tmp_path / "YouTubeClips/deep/back").symlink_to(tmp_path / "YouTubeClips")
    assert (
        open_benchmark("msvd", tmp_path).videos["-4wsuP_9_19"]
        == tmp_path / "YouTubeClips/deep/-4wsuP_9_19.avi"
    )
