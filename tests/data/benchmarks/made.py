"""Tiny annotation files in the official formats, written by hand; nothing is copied."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.data.benchmarks.annotation_texts import (
    TIMES,
    TRAIN,
    commas,
    lines,
    movie_clip,
    tabbed,
    videos,
    write,
    write_json,
)
from tests.data.benchmarks.made_questions import lsmdc_mc, msrvtt_mc, msrvtt_qa, msvd_qa, tgif_qa

# ---- retrieval and pre-training ------------------------------------------------------------------

MSRVTT_TRAIN, MSRVTT_VAL, MSRVTT_TEST = (
    videos(0, TRAIN),
    videos(TRAIN, TRAIN + 6),
    videos(7000, 7010),
)


def msrvtt(root: Path) -> None:
    everything = MSRVTT_TRAIN + MSRVTT_VAL + MSRVTT_TEST
    kinds = {
        name: "train" if name in MSRVTT_TRAIN else "validate" if name in MSRVTT_VAL else "test"
        for name in everything
    }
    write_json(
        root / "MSRVTT_data.json",
        {
            "info": {},
            "videos": [
                {"category": 1, "video_id": name, "split": kinds[name], "start time": 0.0}
                for name in everything
            ],
            "sentences": [
                {"caption": f"{name} caption {i}", "video_id": name, "sen_id": 20 * n + i}
                for n, name in enumerate(everything)
                for i in range(20)
            ],
        },
    )
    rows = [
        (f"ret{n}", name.replace("video", "msr"), name, f"the sentence of {name}")
        for n, name in enumerate(MSRVTT_TEST[:5])
    ]
    write(
        root / "MSRVTT_JSFUSION_test.csv",
        commas([("key", "vid_key", "video_id", "sentence"), *rows]),
    )
    write(
        root / "MSRVTT_train.9k.csv",
        lines(["video_id", *MSRVTT_TRAIN, *MSRVTT_VAL, *MSRVTT_TEST[5:]]),
    )
    write(root / "MSRVTT_train.7k.csv", lines(["video_id", *MSRVTT_TRAIN, *MSRVTT_VAL]))
    write(root / "train_list_miech.txt", lines(MSRVTT_TRAIN))
    write(root / "test_list_miech.txt", lines(MSRVTT_TEST[2:]))


def msvd(root: Path) -> None:
    names = [f"-4wsuP_{n}_{n + 10}" for n in range(12)]
    captions = {name: [["a", "clip", name, str(i)] for i in range(3)] for name in names}
    root.mkdir(parents=True, exist_ok=True)
    (root / "raw-captions.pkl").write_bytes(pickle.dumps(captions, protocol=2))
    for split, part in (("train", names[:8]), ("val", names[8:9]), ("test", names[9:])):
        write(root / f"{split}_list.txt", lines(part))


def didemo(root: Path) -> None:
    number = 0
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        rows = []
        for n in range(count):
            for text in ("a dog comes in.", "it leaves."):
                video = f"1{n}@N01_{split}.mov"
                rows.append(
                    {
                        "annotation_id": number,
                        "description": text,
                        "video": video,
                        "num_segments": 6,
                        "times": [[0, 1]] * 4,
                    }
                )
                number += 1
        write_json(root / f"{split}_data.json", rows)
        write(root / f"{split}_list.txt", lines([row["video"] for row in rows[::2]][: count - 1]))


def activitynet(root: Path) -> None:
    def entry(n: int) -> dict[str, Any]:
        return {
            "duration": 30.5,
            "timestamps": [[0, 9.5], [9, 30.5 + n % 2]],
            "sentences": ["Somebody enters.", " They dance."],
        }

    write_json(root / "train.json", {f"v_train{n}": entry(n) for n in range(TRAIN)})
    write_json(root / "val_1.json", {f"v_val{n}": entry(n) for n in range(6)})
    write_json(root / "val_2.json", {f"v_val{n}": entry(n) for n in range(5)})


def lsmdc(root: Path) -> None:
    parts = {"annos_training": (0, 8), "annos_val": (10, 12), "challenge_1000_publictect": (20, 24)}
    for name, numbers in parts.items():
        rows = [(movie_clip(n), *TIMES, f'SOMEONE says "go" {n}.') for n in range(*numbers)]
        if name == "annos_training":
            rows.append((movie_clip(0), *TIMES, "SOMEONE leaves."))
        write(root / f"LSMDC16_{name}.csv", tabbed(rows))


def vatex(root: Path) -> None:
    def rows(kind: str, count: int) -> list[dict[str, Any]]:
        return [
            {
                "videoID": f"{kind}{n:07d}_000010_000020",
                "enCap": [f"{kind} {n} {i}" for i in range(10)],
                "chCap": [],
            }
            for n in range(count)
        ]

    write_json(root / "vatex_training_v1.0.json", rows("trai", 6))
    write_json(root / "vatex_validation_v1.0.json", rows("vali", 4))
    write_json(root / "vatex_public_test_english_v1.1.json", rows("test", 5))
    names = [row["videoID"] for row in rows("vali", 4)]
    write(root / "val_list.txt", lines(names[:2]))
    write(root / "test_list.txt", lines(names[2:]))


def webvid(root: Path) -> None:
    header = ("videoid", "name", "page_idx", "page_dir", "duration", "contentUrl")
    for size, count in (("2M", 2000), ("10M", 3000)):
        for part, first, last in (("train", 0, count), ("val", count, count + 5)):
            rows = [
                (
                    n,
                    f'"A boat, number {n}"',
                    27732,
                    "027701_027750",
                    "PT00H00M17S",
                    f"https://example.org/{n}.mp4",
                )
                for n in range(first, last)
            ]
            write(root / f"results_{size}_{part}.csv", commas([header, *rows]))


def cc3m(root: Path) -> None:
    write(
        root / "Train_GCC-training.tsv",
        tabbed([(f"a boat number {n}", f"http://example.org/{n}.jpg") for n in range(2000)]),
    )
    write(
        root / "Validation_GCC-1.1.0-Validation.tsv",
        tabbed([(f"a tree {n}", f"http://example.org/v{n}.jpg") for n in range(5)]),
    )


# ---- grounding -----------------------------------------------------------------------------------


def charades_sta(root: Path) -> None:
    for split, first, count in (("train", 0, TRAIN), ("test", 500, 5)):
        rows = [
            f"{n:05d} 2.5 {10.5 + n % 3}##person opens a door." for n in range(first, first + count)
        ]
        write(root / f"charades_sta_{split}.txt", lines(rows))
        table = [
            ("id", "subject", "length"),
            *((f"{n:05d}", "AAAA", 11.0) for n in range(first, first + count)),
        ]
        write(root / f"Charades_v1_{split}.csv", commas(table))


def tacos(root: Path) -> None:
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        entry = {
            "timestamps": [[0, 100], [50, 294]],
            "sentences": ["He cuts.", "He cooks."],
            "fps": 29.4,
            "num_frames": 294,
        }
        write_json(root / f"{split}.json", {f"s{n}-{split}.avi": entry for n in range(count)})


# ---- actions -------------------------------------------------------------------------------------


def ucf101(root: Path) -> None:
    classes = ("Archery", "Biking")
    write(
        root / "classInd.txt", lines([f"{n} {label}" for n, label in enumerate(classes, start=1)])
    )
    for number in (1, 2, 3):
        for kind, groups in (("train", range(8, 60)), ("test", range(1, 8))):
            found = []
            for index, label in enumerate(classes, start=1):
                for group in groups:
                    for part in (1, 2):
                        name = f"{label}/v_{label}_g{group:02d}_c{part:02d}.avi"
                        found.append(f"{name} {index}" if kind == "train" else name)
            write(root / f"{kind}list0{number}.txt", lines(found))


def hmdb51(root: Path) -> None:
    for label in ("brush_hair", "run", *(f"act_{n}" for n in range(49))):
        for number in (1, 2, 3):
            marks = [1] * 4 + [2] * 2 + [0]
            write(
                root / f"{label}_test_split{number}.txt",
                lines([f"film{n}_{label}_u_0.avi {mark} " for n, mark in enumerate(marks)]),
            )


def ssv2(root: Path) -> None:
    write_json(
        root / "something-something-v2-labels.json",
        {"Holding something": "1", "Moving something up": "0"},
    )
    for name, first, count in (("train", 0, TRAIN), ("validation", 100, 4)):
        rows = [
            {
                "id": str(n),
                "label": "holding a cup",
                "template": ("Holding [something]", "Moving [something] up")[n % 2],
                "placeholders": ["a cup"],
            }
            for n in range(first, first + count)
        ]
        write_json(root / f"something-something-v2-{name}.json", rows)


def kinetics(root: Path) -> None:
    for size in (400, 600, 700):
        for name, copies in (("train", 2), ("val", 1)):
            rows = [
                (f"class {label}", f"{name[:2]}{size}{label:04d}{copy:02d}", 7, 17, name, 0)
                for label in range(size)
                for copy in range(copies)
            ]
            write(
                root / f"kinetics-{size}_{name}.csv",
                commas(
                    [("label", "youtube_id", "time_start", "time_end", "split", "is_cc"), *rows]
                ),
            )


# ---- images --------------------------------------------------------------------------------------


def _karpathy(
    root: Path, name: str, kinds: Sequence[str], place: Callable[[int], dict[str, str]]
) -> None:
    images = []
    for n, split in enumerate(kinds):
        sentences = [
            {"tokens": ["a", "tree"], "raw": f"A tree, {n} {i}.", "imgid": n, "sentid": 5 * n + i}
            for i in range(5)
        ]
        images.append(
            {"imgid": n, "split": split, "sentences": sentences, "sentids": [], **place(n)}
        )
    write_json(root / f"dataset_{name}.json", {"images": images, "dataset": name})


def flickr30k(root: Path) -> None:
    _karpathy(
        root,
        "flickr30k",
        ["train"] * 5 + ["val"] * 2 + ["test"] * 3,
        lambda n: {"filename": f"10000{n}.jpg"},
    )


def coco(root: Path) -> None:
    kinds = ["train"] * 4 + ["restval"] * 2 + ["val"] * 2 + ["test"] * 3
    _karpathy(
        root,
        "coco",
        kinds,
        lambda n: {
            "filename": f"COCO_val2014_{n:012d}.jpg",
            "filepath": "val2014",
            "cocoid": str(n),
        },
    )


MADE: dict[str, Callable[[Path], None]] = {
    **{
        f.__name__: f
        for f in (
            webvid,
            cc3m,
            msrvtt,
            msvd,
            didemo,
            activitynet,
            lsmdc,
            vatex,
            msrvtt_mc,
            lsmdc_mc,
            msrvtt_qa,
            msvd_qa,
        )
    },
    **{
        f.__name__: f
        for f in (tgif_qa, charades_sta, tacos, ucf101, hmdb51, ssv2, kinetics, flickr30k, coco)
    },
    "activitynet_grounding": activitynet,
}
