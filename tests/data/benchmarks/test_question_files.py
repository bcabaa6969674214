"""Questions, choices and moments are read from their official files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from simvtp.data.benchmarks import open_benchmark
from simvtp.data.benchmarks.records import Span
from simvtp.errors import DataError
from tests.data.benchmarks.made import (
    MSRVTT_TRAIN,
    MSRVTT_VAL,
    TRAIN,
    lines,
    movie_clip,
    msrvtt,
    msrvtt_mc,
    write,
)


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
    with_captions = open_benchmark("msrvtt_mc", tmp_path)
    assert {
        split: len([c for c in with_captions.clips if c.split == split])
        for split in ("train", "val", "test")
    } == {
        "train": len(MSRVTT_TRAIN),
        "val": len(MSRVTT_VAL),
        "test": 0,
    }
    assert with_captions.questions == alone.questions and with_captions.digest != alone.digest
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
