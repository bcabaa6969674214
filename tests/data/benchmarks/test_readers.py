"""Every reader on files in the official format, and on files that are changed, broken or contradict
themselves.
"""

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
from simvtp.data.benchmarks.records import Benchmark, Moment, Question, Span
from simvtp.data.clips import Clip
from simvtp.errors import ConfigError, DataError
from tests.data.benchmarks.made import (
    MADE,
    MSRVTT_TEST,
    MSRVTT_TRAIN,
    MSRVTT_VAL,
    TRAIN,
    lines,
    movie_clip,
    msrvtt,
    msrvtt_mc,
    tabbed,
    write,
    write_json,
)

VARIANTS = [
    (name, protocol) for name, reader in BENCHMARKS.items() for protocol in reader.protocols
]
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


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a benchmark, made once. Tests that change files copy it."""
    folder = tmp_path_factory.mktemp("benchmarks")

    def get(name: str) -> Path:
        if not (folder / name).exists():
            MADE[name](folder / name)
        return folder / name

    return get


def records(benchmark: Benchmark) -> tuple:
    return benchmark.questions or benchmark.moments or benchmark.actions or benchmark.clips


# ---- as they are ---------------------------------------------------------------------------------


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
    table = ["VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description"]
    table += [
        f"{name.rsplit('_', 2)[0]},{name.split('_')[-2]},{name.split('_')[-1]},1,clean,9,English,{text}"
        for name, text in pairs
    ]
    table.append("-4wsuP,0,10,1,clean,9,German,ein Film")
    for name, text in (
        (
            "captions_msvd.json",
            json.dumps(
                {name: [" ".join(words) for words in several] for name, several in captions.items()}
            ),
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


def test_right_answers_of_multiple_choice(made: Callable[[str], Path], tmp_path: Path) -> None:
    by_split = {
        q.split: q for q in reversed(open_benchmark("lsmdc_mc", made("lsmdc_mc")).questions)
    }
    assert by_split["train"].answer == by_split["train"].candidates[0]
    tests = open_benchmark("lsmdc_mc", made("lsmdc_mc")).split("test").questions
    assert [q.candidates.index(q.answer) for q in tests] == [0, 1, 2, 3, 4, 0]
    questions = open_benchmark("msrvtt_mc", made("msrvtt_mc")).questions
    assert [q.candidates.index(q.answer) for q in questions] == [0, 1, 2, 3, 4, 0, 1] and questions[
        0
    ].video == "video7010"
    rows = [
        {
            "qid": n,
            "clip_name": q.video,
            "options": q.candidates,
            "answer": q.candidates.index(q.answer),
        }
        for n, q in enumerate(questions)
    ]
    write(tmp_path / "msrvtt_mc_test.jsonl", lines([json.dumps(row) for row in rows]))
    again = open_benchmark("msrvtt_mc", tmp_path).questions
    assert [(q.video, q.candidates, q.answer) for q in again] == [
        (q.video, q.candidates, q.answer) for q in questions
    ]


def test_multiple_choice_brings_captions_to_train_on(
    made: Callable[[str], Path], tmp_path: Path
) -> None:
    clips = open_benchmark("lsmdc_mc", made("lsmdc_mc")).clips
    assert [(clip.id, clip.captions, clip.split) for clip in (clips[0], clips[-1])] == [
        (movie_clip(0), ("sentence 0 0",), "train"),
        (movie_clip(15), ("sentence 15 0",), "val"),
    ]
    msrvtt_mc(tmp_path)
    alone = open_benchmark("msrvtt_mc", tmp_path)
    assert not alone.clips and any(
        "zero-shot choice only: " in note and "MSRVTT_data.json" in note for note in alone.notes
    )
    msrvtt(tmp_path)
    beside = open_benchmark("msrvtt_mc", tmp_path)
    assert {
        split: len([c for c in beside.clips if c.split == split])
        for split in ("train", "val", "test")
    } == {
        "train": len(MSRVTT_TRAIN),
        "val": len(MSRVTT_VAL),
        "test": 0,
    }
    assert beside.questions == alone.questions and beside.digest != alone.digest
    path = tmp_path / "MSR_MC_test.csv"
    path.write_text(path.read_text().replace("msr7012", "msr3"))
    with pytest.raises(
        DataError,
        match=(
            r"msrvtt_mc: 1 videos are in both the test and the train and val list \(a leak\): "
            r"video3"
        ),
    ):
        open_benchmark("msrvtt_mc", tmp_path)


def test_questions_of_all_kinds(made: Callable[[str], Path]) -> None:
    kinds = {
        name: {q.kind for q in open_benchmark("tgif_qa", made("tgif_qa"), name).questions}
        for name in ("action", "transition", "frame", "count")
    }
    assert kinds == {
        "action": {"choice"},
        "transition": {"choice"},
        "frame": {"open"},
        "count": {"count"},
    }
    assert {q.category for q in open_benchmark("tgif_qa", made("tgif_qa"), "frame").questions} == {
        "colour"
    }
    assert {q.category for q in open_benchmark("msrvtt_qa", made("msrvtt_qa")).questions} == {
        "what",
        "other",
    }


def test_msvd_qa_videos_have_their_youtube_names_or_numbers(
    made: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(made("msvd_qa"), tmp_path, dirs_exist_ok=True)
    write(tmp_path / "YouTubeClips/-4wsuP_30.avi", "")
    write(tmp_path / "YouTubeClips/vid31.avi", "")
    videos = open_benchmark("msvd_qa", tmp_path).videos
    assert [videos[name].name for name in ("vid30", "vid31", "vid32")] == [
        "-4wsuP_30.avi",
        "vid31.avi",
        "-4wsuP_32.avi",
    ]
    (tmp_path / "youtube_mapping.txt").unlink()
    assert open_benchmark("msvd_qa", tmp_path).videos["vid32"].name == "vid32.avi"


def test_moments_are_seconds_inside_the_video(made: Callable[[str], Path]) -> None:
    charades = open_benchmark("charades_sta", made("charades_sta"))
    assert {m.span.end_s for m in charades.moments} == {
        10.5,
        11.0,
    } and "train: 40 of 60 spans reach beyond the video" in " ".join(charades.notes)
    tacos = open_benchmark("tacos", made("tacos"))
    assert tacos.moments[1].span == Span(50 / 29.4, 10.0) and tacos.moments[
        1
    ].duration_s == pytest.approx(10)


def test_moments_that_cannot_be_found_are_left_out_and_counted(
    made: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(made("charades_sta"), tmp_path, dirs_exist_ok=True)
    with open(tmp_path / "charades_sta_train.txt", "a") as file:
        file.write(
            "00001 8.0 7.0##ends before it starts.\n00002 11.5 12.0##starts after the end.\n00003 "
            "1.0 2.0##\n"
        )
    benchmark = open_benchmark("charades_sta", tmp_path)
    assert (
        benchmark.read["train"] == TRAIN + 3
        and sum(m.split != "test" for m in benchmark.moments) == TRAIN
    )
    assert any(note.startswith("train: 3 of 63 sentences left out") for note in benchmark.notes)


def test_hmdb51_in_one_table(made: Callable[[str], Path], tmp_path: Path) -> None:
    rows = ["video_id,label,split1,split2,split3"]
    for path in sorted(made("hmdb51").glob("*_test_split1.txt")):
        for line in path.read_text().splitlines():
            file, mark = line.split()
            rows.append(
                f"{file},{path.name.removesuffix('1.txt').removesuffix('_split')},{mark},{mark},{mark}"
            )
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


# ---- changed, broken, contradictory --------------------------------------------------------------


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


RENAMED = [
    ("webvid", "results_2M_train.csv", "page_dir", "folder", r"results_2M_train.csv has no column page_dir \(found: videoid, name, page_idx, folder"),
    ("cc3m", "Train_GCC-training.tsv", "a boat number 3\t", "a boat number 3 ", r"Train_GCC-training.tsv has 1 TAB-separated columns in line 4"),
    ("msrvtt", "MSRVTT_JSFUSION_test.csv", "sentence", "caption", r"JSFUSION_test.csv has no column sentence \(found: key, vid_key, video_id, caption\)"),
    ("msrvtt", "MSRVTT_data.json", '"caption"', '"text"', r"MSRVTT_data.json has no 'caption' in a sentence \(found: text, video_id, sen_id\)"),
    ("msrvtt", "MSRVTT_data.json", '"sentences"', '"captions"', r"has no 'sentences' in the file \(found: info, videos, captions\)"),
    ("msrvtt", "MSRVTT_train.9k.csv", "video_id", "id", r"MSRVTT_train.9k.csv has no column video_id \(found: id\)"),
    ("didemo", "test_data.json", '"description"', '"text"', r"test_data.json has no 'description' in an annotation"),
    ("activitynet", "val_1.json", '"timestamps"', '"spans"', r"val_1.json has no 'timestamps' in v_val0 \(found: duration, spans, sentences\)"),
    ("lsmdc", "LSMDC16_annos_val.csv", "\t", ",", r"LSMDC16_annos_val.csv has 1 TAB-separated columns in line 1; expected 6: clip"),
    ("vatex", "vatex_training_v1.0.json", "enCap", "captions", r"vatex_training_v1.0.json has no 'enCap' in trai0000000"),
    ("msrvtt_mc", "MSR_MC_test.csv", "a5", "a6", r"MSR_MC_test.csv has no column a5"),
    ("lsmdc_mc", "LSMDC16_multiple_choice_test_randomized.csv", "\t4\n", "\t6\n", r"has '6' in row 4 where the answer should be 1 to 5"),
    ("msrvtt_qa", "test_qa.json", '"question"', '"q"', r"test_qa.json has no 'question' in question 1 \(found: answer, category_id, id, q, video_id\)"),
    ("msvd_qa", "val_qa.json", '"answer": "no"', '"answer": ""', r"val_qa.json has 5 questions without words or without an answer"),
    ("tgif_qa", "Test_action_question.csv", "a3", "a9", r"Test_action_question.csv has no column a3"),
    ("tgif_qa", "Test_action_question.csv", "\t4\tACTION104", "\t5\tACTION104", r"has answer '5' for ACTION104; it must be 0 to 4"),
    ("charades_sta", "charades_sta_test.txt", "##", "#", r"charades_sta_test.txt has a line 1 that is not 'VIDEO START END##SENTENCE'"),
    ("charades_sta", "charades_sta_test.txt", "2.5", "soon", r"charades_sta_test.txt has 'soon' where a time in line 1 should be a number"),
    ("tacos", "train.json", '"fps"', '"rate"', r"train.json has no 'fps' in s0-train.avi"),
    ("activitynet_grounding", "train.json", '"duration"', '"length"', r"train.json has no 'duration' in v_train0"),
    ("ucf101", "trainlist01.txt", "g08_c01.avi 1", "g08_c01.avi 2", r"trainlist01.txt has a line 'Archery/v_Archery_g08_c01.avi 2' that is not"),
    ("hmdb51", "run_test_split1.txt", " 2 ", " 5 ", r"run_test_split1.txt has mark '5'; it must be 0, 1 \(train\) or 2 \(test\)"),
    ("ssv2", "something-something-v2-train.json", "Holding [", "Dropping [", r"has class 'Dropping something' of video 0, which the labels file lacks"),
    ("kinetics", "kinetics-400_val.csv", "youtube_id", "id", r"kinetics-400_val.csv has no column youtube_id"),
    ("kinetics", "kinetics-400_train.csv", "class 7,", "class 8,", r""),
    ("flickr30k", "dataset_flickr30k.json", '"raw"', '"text"', r"dataset_flickr30k.json has no 'raw' in a sentence of 100000.jpg"),
    ("coco", "dataset_coco.json", '"restval"', '"extra"', r"dataset_coco.json has split 'extra' of COCO_val2014_000000000004.jpg"),
]  # fmt: skip


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
    """Some are optional, or another form steps in; none may end in anything but a DataError that
    says where it was looked for.
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
    """Half a file, no file content, a web page instead, bytes that are no text: a DataError, or it
    is not read at all.
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


# ---- records -------------------------------------------------------------------------------------


def test_records_that_contradict_themselves_are_refused() -> None:
    for start, end in (
        (2.0, 2.0),
        (3.0, 1.0),
        (-1.0, 2.0),
        (0.0, float("nan")),
        (0.0, float("inf")),
    ):
        with pytest.raises(DataError, match="a span from"):
            Span(start, end)
    with pytest.raises(DataError, match="is none of its 2 candidates"):
        Question("q", "v", "what?", "c", ("a", "b"), "choice")
    with pytest.raises(DataError, match="must be a number"):
        Question("q", "v", "how many?", "some", kind="count")


def test_a_split_of_a_benchmark_has_its_records_and_videos_only() -> None:
    moments = tuple(
        Moment(str(n), f"v{n}", "x", Span(0, 1), None, split)
        for n, split in enumerate(("train", "test", "test"))
    )
    benchmark = Benchmark(
        "b",
        "grounding",
        "p",
        {f"v{n}": Path(f"{n}.mp4") for n in range(3)},
        moments=moments,
        read={"train": 1, "test": 2},
    )
    test = benchmark.split("test")
    assert [m.video for m in test.moments] == list(test.videos) == ["v1", "v2"] and test.read == {
        "test": 2
    }
    with pytest.raises(DataError, match="choose one of train, val, test"):
        benchmark.split("dev")


def test_made_files_exist_for_every_benchmark() -> None:
    assert set(MADE) == set(BENCHMARKS) and MSRVTT_TEST
