"""Tiny annotation files of question answering in the official formats."""

from __future__ import annotations

from pathlib import Path

from tests.data.benchmarks.annotation_texts import (
    TIMES,
    TRAIN,
    lines,
    movie_clip,
    tabbed,
    write,
    write_json,
)


def msrvtt_mc(root: Path) -> None:
    header = ("key", "vid_key", "a1", "a2", "a3", "a4", "a5", "answer")
    rows = [
        (f"ret{n}", f"msr{7010 + n}", *(f"sentence {n} {i}" for i in range(5)), n % 5)
        for n in range(7)
    ]
    write(root / "MSR_MC_test.csv", tabbed([header, *rows]))


def lsmdc_mc(root: Path) -> None:
    for name, first in (("train", 0), ("valid", 10), ("test_randomized", 20)):
        rows = [
            (movie_clip(n), *TIMES, *(f"sentence {n} {i}" for i in range(5)))
            for n in range(first, first + 6)
        ]
        if name == "test_randomized":
            rows = [(*row, n % 5 + 1) for n, row in enumerate(rows)]
        write(root / f"LSMDC16_multiple_choice_{name}.csv", tabbed(rows))


def _qa(root: Path, prefix: str) -> None:
    number = 0
    for split, first in (("train", 0), ("val", 20), ("test", 30)):
        rows = []
        for video in range(first, first + 5):
            for text, answer in (("what is shown?", "boat"), ("is it red?", "no")):
                rows.append(
                    {
                        "answer": answer,
                        "category_id": 3,
                        "id": number,
                        "question": text,
                        "video_id": video,
                    }
                )
                number += 1
        write_json(root / f"{split}_qa.json", rows)
    write(root / "youtube_mapping.txt", lines([f"{prefix}_{n} vid{n}" for n in range(40)]))


def msrvtt_qa(root: Path) -> None:
    _qa(root, "unused")


def msvd_qa(root: Path) -> None:
    _qa(root, "-4wsuP")


def tgif_qa(root: Path) -> None:
    options = ("a1", "a2", "a3", "a4", "a5")
    for split, first, last in (("Train", 0, TRAIN), ("Test", 100, 106)):
        for kind in ("action", "transition"):
            rows = [
                (
                    f"tumblr_{n}",
                    "What does the cat do ?",
                    *(f"act {n} {i}" for i in range(5)),
                    n % 5,
                    f"{kind.upper()}{n}",
                    n,
                )
                for n in range(first, last)
            ]
            write(
                root / f"{split}_{kind}_question.csv",
                tabbed([("gif_name", "question", *options, "answer", "vid_id", "key"), *rows]),
            )
        rows = [
            (f"tumblr_{n}", "How many times ?", n % 9, f"COUNT{n}", n) for n in range(first, last)
        ]
        write(
            root / f"{split}_count_question.csv",
            tabbed([("gif_name", "question", "answer", "vid_id", "key"), *rows]),
        )
        rows = [
            (f"tumblr_{n}", "what colour ?", "red", 2, f"FRAMEQA{n}", n, "a red cat .")
            for n in range(first, last)
        ]
        write(
            root / f"{split}_frameqa_question.csv",
            tabbed(
                [("gif_name", "question", "answer", "type", "vid_id", "key", "description"), *rows]
            ),
        )
