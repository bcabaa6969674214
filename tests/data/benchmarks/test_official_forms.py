"""Annotation files in their official forms are read as they are."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from simvtp.data.benchmarks import BENCHMARKS, open_benchmark
from simvtp.data.benchmarks.annotation_files import VAL_SHARE
from simvtp.data.clips import Clip
from simvtp.errors import DataError
from tests.data.benchmarks.annotation_helpers import VARIANTS, change, records
from tests.data.benchmarks.made import (
    TRAIN,
    lines,
    movie_clip,
    tabbed,
    write,
    write_json,
)

EXPECTED = {  # records in the test split, and in all splits
    ("webvid", "2M"): (5, 2005),
    ("webvid", "10M"): (5, 3005),
    ("cc3m", "standard"): (5, 2005),
    ("msrvtt", "1k-A"): (5, 76),
    ("msrvtt", "1k-A-7k"): (5, 71),
    ("msrvtt", "full"): (10, 76),
    ("msrvtt", "1k-B"): (8, 68),
    ("msvd", "standard"): (3, 12),
    ("didemo", "paragraph"): (2, 8),
    ("didemo", "paragraph-ce"): (1, 5),
    ("activitynet", "val_1"): (6, TRAIN + 6),
    ("activitynet", "val_2"): (5, TRAIN + 5),
    ("lsmdc", "standard"): (4, 14),
    ("vatex", "official"): (5, 15),
    ("vatex", "hgr"): (2, 10),
    ("msrvtt_mc", "standard"): (7, 7),
    ("lsmdc_mc", "standard"): (6, 18),
    ("msrvtt_qa", "standard"): (10, 30),
    ("msvd_qa", "standard"): (10, 30),
    **{("tgif_qa", kind): (6, TRAIN + 6) for kind in ("action", "transition", "frame", "count")},
    ("charades_sta", "standard"): (5, TRAIN + 5),
    ("tacos", "2d-tan"): (4, 14),
    ("activitynet_grounding", "val_2"): (10, 2 * TRAIN + 22),
    ("activitynet_grounding", "val_1"): (12, 2 * TRAIN + 12),
    **{("ucf101", f"split{n}"): (28, 236) for n in (1, 2, 3)},
    **{("hmdb51", f"split{n}"): (102, 306) for n in (1, 2, 3)},
    ("ssv2", "standard"): (4, TRAIN + 4),
    **{("kinetics", f"k{n}"): (n, 3 * n) for n in (400, 600, 700)},
    ("flickr30k", "karpathy-1k"): (3, 10),
    ("coco", "karpathy-5k"): (3, 11),
}


@pytest.mark.parametrize(("name", "protocol"), VARIANTS)
def test_official_files_are_read_as_they_are(
    made: Callable[[str], Path], name: str, protocol: str
) -> None:
    benchmark = open_benchmark(name, made(name), protocol)
    found = records(benchmark)
    assert (benchmark.name, benchmark.task, benchmark.protocol) == (
        name,
        BENCHMARKS[name].task,
        protocol,
    )
    assert (sum(r.split == "test" for r in found), len(found)) == EXPECTED[name, protocol]
    ids = {getattr(record, "id", None) or record.video for record in found}
    assert len(ids) == len(found)
    of = {record.id if isinstance(record, Clip) else record.video for record in found}
    assert of <= set(benchmark.videos) and all(
        made(name) in path.parents for path in benchmark.videos.values()
    )
    if name != "msrvtt_mc":  # no training questions are published
        assert {record.split for record in found} == {"train", "val", "test"}
    assert all(
        clip.captions and all(clip.captions) and clip.path == benchmark.videos[clip.id]
        for clip in benchmark.clips
    )
    assert {action.label for action in benchmark.actions} <= set(benchmark.labels)


@pytest.mark.parametrize(("name", "protocol"), VARIANTS)
def test_the_digest_knows_the_content_and_not_the_place(
    made: Callable[[str], Path], tmp_path: Path, name: str, protocol: str
) -> None:
    if name == "kinetics" and protocol != "k400":
        return
    shutil.copytree(made(name), tmp_path / "elsewhere" / "annotations")
    here, there = (
        open_benchmark(name, made(name), protocol),
        open_benchmark(name, tmp_path / "elsewhere", protocol),
    )
    assert here.digest == there.digest and re.fullmatch("[0-9a-f]{64}", here.digest)
    others = {
        open_benchmark(name, made(name), other).digest
        for other in BENCHMARKS[name].protocols
        if other != protocol and name != "kinetics"
    }
    assert here.digest not in others


def test_a_changed_caption_changes_the_digest(made: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(made("msrvtt"), tmp_path, dirs_exist_ok=True)
    before = open_benchmark("msrvtt", tmp_path).digest
    change(tmp_path / "MSRVTT_JSFUSION_test.csv", "the sentence of video7001", "another sentence")
    assert open_benchmark("msrvtt", tmp_path).digest != before


@pytest.mark.parametrize(
    "name", ["msrvtt", "activitynet", "ucf101", "tgif_qa", "charades_sta", "ssv2"]
)
def test_without_a_val_split_some_training_videos_are_held_out_and_it_is_said(
    made: Callable[[str], Path], name: str
) -> None:
    benchmark = open_benchmark(name, made(name))
    sets = {
        split: {
            getattr(r, "id", "") if benchmark.clips else r.video
            for r in records(benchmark.split(split))
        }
        for split in ("train", "val", "test")
    }
    assert not sets["train"] & sets["val"] and not sets["test"] & (sets["val"] | sets["train"])
    note = next(note for note in benchmark.notes if "no val split" in note)
    assert f"{VAL_SHARE:.1%}" in note and "never used" in note


def test_msrvtt_captions_and_places(made: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(made("msrvtt"), tmp_path, dirs_exist_ok=True)
    write(tmp_path / "videos/all/video7001.mp4", "")
    write(tmp_path / "videos/all/video7002.webm", "")
    benchmark = open_benchmark("msrvtt", tmp_path)
    clips = {clip.id: clip for clip in benchmark.clips}
    assert clips["video7001"].captions == ("the sentence of video7001",)
    assert clips["video3"].captions == tuple(f"video3 caption {i}" for i in range(20))
    assert (
        benchmark.videos["video7001"] == tmp_path / "videos/all/video7001.mp4"
        and benchmark.videos["video7002"].suffix == ".webm"
    )
    assert benchmark.videos["video7003"] == tmp_path / "videos/all/video7003.mp4", (
        "where it should lie"
    )


def test_msrvtt_from_the_files_of_the_challenge(
    made: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(made("msrvtt"), tmp_path, dirs_exist_ok=True)
    content = json.loads((tmp_path / "MSRVTT_data.json").read_text())
    digest = open_benchmark("msrvtt", tmp_path).digest
    for name, kept in (("train_val", ("train", "validate")), ("test", ("test",))):
        ids = {video["video_id"] for video in content["videos"] if video["split"] in kept}
        part = {
            key: [entry for entry in content[key] if entry["video_id"] in ids]
            for key in ("videos", "sentences")
        }
        write_json(tmp_path / f"{name}_videodatainfo.json", part)
    (tmp_path / "MSRVTT_data.json").unlink()
    assert open_benchmark("msrvtt", tmp_path).digest == digest
    (tmp_path / "test_videodatainfo.json").unlink()
    with pytest.raises(
        DataError,
        match=r"has no annotation of 5 of the 71 videos in the train list: video7005, video7006",
    ):
        open_benchmark("msrvtt", tmp_path)
    assert open_benchmark("msrvtt", tmp_path, "1k-A-7k").read == {"train": 66, "test": 5}, (
        "7k needs no captions of test videos"
    )


def test_msvd_captions_in_every_form(made: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(made("msvd"), tmp_path, dirs_exist_ok=True)
    captions = pickle.loads((tmp_path / "raw-captions.pkl").read_bytes())
    digests = {open_benchmark("msvd", tmp_path).digest}
    (tmp_path / "raw-captions.pkl").unlink()
    pairs = [(name, " ".join(words)) for name, several in captions.items() for words in several]
    joined = {name: list(map(" ".join, several)) for name, several in captions.items()}
    table = ["VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description"]
    for name, text in pairs:
        video, start, end = name.rsplit("_", 2)
        table.append(f"{video},{start},{end},1,clean,9,English,{text}")
    table.append("-4wsuP,0,10,1,clean,9,German,ein Film")
    for name, text in (
        (
            "captions_msvd.json",
            json.dumps(joined),
        ),
        (
            "AllVideoDescriptions.txt",
            "# VIDEO descriptions\n\n" + lines([f"{name} {text}" for name, text in pairs]),
        ),
        ("video_corpus.csv", lines(table)),
    ):
        write(tmp_path / name, text)
        digests.add(open_benchmark("msvd", tmp_path).digest)
        (tmp_path / name).unlink()
    assert len(digests) == 1


def test_a_pickle_that_would_run_code_is_refused(
    made: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(made("msvd"), tmp_path, dirs_exist_ok=True)
    target = tmp_path / "touched"

    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (target,)

    (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps({"a": Trap()}))
    with pytest.raises(
        DataError, match=r"raw-captions.pkl cannot be read as a plain pickle \(it names"
    ):
        open_benchmark("msvd", tmp_path)
    assert not target.exists()


def test_paragraphs_are_joined_in_order(made: Callable[[str], Path]) -> None:
    assert {clip.captions for clip in open_benchmark("activitynet", made("activitynet")).clips} == {
        ("Somebody enters. They dance.",)
    }
    assert {clip.captions for clip in open_benchmark("didemo", made("didemo")).clips} == {
        ("a dog comes in. it leaves.",)
    }


def test_lsmdc_clips_lie_by_movie_and_may_have_several_sentences(
    made: Callable[[str], Path],
) -> None:
    benchmark = open_benchmark("lsmdc", made("lsmdc"))
    first = benchmark.clips[0]
    assert first.captions == ('SOMEONE says "go" 0.', "SOMEONE leaves.")
    assert first.path == made("lsmdc") / f"LSMDC_Videos/1000_A_Movie/{movie_clip(0)}.avi"
    assert any(note.startswith("train: 9 sentences of 8 clips") for note in benchmark.notes)


def test_hmdb51_in_one_table(made: Callable[[str], Path], tmp_path: Path) -> None:
    rows = ["video_id,label,split1,split2,split3"]
    for path in sorted(made("hmdb51").glob("*_test_split1.txt")):
        for line in path.read_text().splitlines():
            file, mark = line.split()
            label = path.name.removesuffix("1.txt").removesuffix("_split")
            rows.append(f"{file},{label},{mark},{mark},{mark}")
    write(tmp_path / "hmdb51.csv", lines(rows))
    assert (
        open_benchmark("hmdb51", tmp_path, "split2").digest
        == open_benchmark("hmdb51", made("hmdb51"), "split2").digest
    )


def test_where_images_of_cc3m_lie(made: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(made("cc3m"), tmp_path, dirs_exist_ok=True)
    place = open_benchmark("cc3m", tmp_path).videos["train/7"]
    assert place == tmp_path / f"training/7_{zlib.crc32(b'http://example.org/7.jpg')}"
    write(tmp_path / "00000/000000007.jpg", "")
    assert open_benchmark("cc3m", tmp_path).videos["train/7"] == tmp_path / "00000/000000007.jpg"
    write(
        tmp_path / "cc3m_training_success_full.tsv",
        "caption\tfile\n" + tabbed([(f"a boat {n}", f"{n}_99") for n in range(2000)]),
    )
    listed = open_benchmark("cc3m", tmp_path)
    assert listed.videos["train/12_99"] == tmp_path / "training/12_99"


def test_webvid_lies_by_page(made: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(made("webvid"), tmp_path, dirs_exist_ok=True)
    benchmark = open_benchmark("webvid", tmp_path)
    assert benchmark.videos["7"] == tmp_path / "videos/027701_027750/7.mp4"
    assert benchmark.clips[7].captions == ("A boat, number 7",)
    write(tmp_path / "videos/7.mp4", "")
    assert open_benchmark("webvid", tmp_path).videos["7"] == tmp_path / "videos/7.mp4"


def test_coco_restval_is_training(made: Callable[[str], Path]) -> None:
    benchmark = open_benchmark("coco", made("coco"))
    assert benchmark.read == {"train": 6, "val": 2, "test": 3}
    assert benchmark.clips[0].path == made("coco") / "images/val2014/COCO_val2014_000000000000.jpg"
