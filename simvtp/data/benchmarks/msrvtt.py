"""MSR-VTT retrieval: 10,000 videos, 20 captions each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simvtp.data.benchmarks import annotation_files, video_files
from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader, Source
from simvtp.data.benchmarks.records import Benchmark
from simvtp.data.clips import Clip
from simvtp.errors import DataError

FOLDERS = (
    "msrvtt_data",
    "MSRVTT",
    "msrvtt",
    "videodatainfo",
    "annotation",
    "high-quality/structured-symlinks",
    "ce_lists",
)
VIDEO_FOLDERS = (
    "videos/all",
    "videos",
    "MSRVTT_Videos",
    "TrainValVideo",
    "TestVideo",
    "train-video",
    "test-video",
    "all",
)
CAPTIONS = ("MSRVTT_data.json", "msrvtt_data.json")
OFFICIAL = (
    ("train_val_videodatainfo.json", "videodatainfo_2016.json"),
    ("test_videodatainfo.json", "test_videodatainfo_2016.json"),
)
TEST_1K_A = ("MSRVTT_JSFUSION_test.csv", "msrvtt_jsfusion_test.csv")
LISTS: dict[str, dict[str, tuple[str, ...]]] = {
    "1k-A": {"train": ("MSRVTT_train.9k.csv", "train_list_jsfusion.txt")},
    "1k-A-7k": {"train": ("MSRVTT_train.7k.csv",)},
    "1k-B": {"train": ("train_list_miech.txt",), "test": ("test_list_miech.txt",)},
    "full": {
        "train": ("MSRVTT_train.full.csv", "train_list_full.txt"),
        "val": ("MSRVTT_val.full.csv", "val_list_full.txt"),
        "test": ("MSRVTT_test.full.csv", "test_list_full.txt"),
    },
}
OFFICIAL_SPLITS = {"train": "train", "validate": "val", "val": "val", "test": "test"}


def video_finder(root: Path) -> video_files.VideoFinder:
    """Finds `video0` ... `video9999`, also for benchmarks with questions about them."""
    return video_files.VideoFinder(root, VIDEO_FOLDERS)


def open_msrvtt(root: Path, protocol: str) -> Benchmark:
    captions, official, annotations = _read_captions(root)
    sentences: Mapping[str, str] = {}
    if protocol.startswith("1k-A"):
        sentences = _read_test_pairs(root)
    splits: dict[str, list[str]] = {}
    for split, names in LISTS[protocol].items():
        if (
            protocol == "full"
            and annotation_files.find_if_there(root, names, FOLDERS) is None
            and set(official.values()) >= {"train", "val", "test"}
        ):
            splits[split] = [video for video, of in official.items() if of == split]
            continue
        path = annotation_files.find(root, names, FOLDERS)
        splits[split] = read_ids(path)
        annotation_files.require_known(splits[split], captions, split, annotations)
    if sentences:
        splits["test"] = list(sentences)
    annotation_files.require_apart(splits, f"msrvtt {protocol}")
    finder = video_finder(root)
    videos = {video: finder.path(video) for ids in splits.values() for video in ids}
    trained = {split: ids for split, ids in splits.items() if not (split == "test" and sentences)}
    clips = annotation_files.make_clips(trained, captions, videos, annotations)
    clips += tuple(
        Clip(video, videos[video], (sentence,), "test") for video, sentence in sentences.items()
    )
    read = annotation_files.count_splits(clips)
    notes = []
    if "val" not in splits:
        clips, note = annotation_files.select_from_train(clips)
        notes.append(note)
    notes.append(
        "test: one caption a video, the one that JSFusion drew"
        if sentences
        else "test: every caption of a video is a query (20 of each); figures do not compare with "
        "those of one caption a video"
    )
    return Benchmark(
        "msrvtt", "retrieval", protocol, videos, clips=clips, notes=tuple(notes), read=read
    )


def read_ids(path: Path) -> list[str]:
    """Returns the ids of a list: one a line, or the column `video_id` of a csv.

    Raises:
        DataError: one comes twice.
    """
    table = path.suffix == ".csv"
    ids = (
        [row["video_id"] for row in annotation_files.read_table(path, ["video_id"])]
        if table
        else annotation_files.read_lines(path)
    )
    annotation_files.require_unique(ids, path, "videos")
    return ids


def _read_test_pairs(root: Path) -> dict[str, str]:
    path = annotation_files.find(root, TEST_1K_A, FOLDERS)
    rows = annotation_files.read_table(path, ["video_id", "sentence"])
    annotation_files.require_unique([row["video_id"] for row in rows], path, "videos")
    bare = [row["video_id"] for row in rows if not row["sentence"]]
    if bare:
        annotation_files.refuse(
            path, f"has no sentence for {len(bare)} videos: {annotation_files.few(bare)}"
        )
    return {row["video_id"]: row["sentence"] for row in rows}


def _read_captions(root: Path) -> tuple[dict[str, list[str]], dict[str, str], Path]:
    """Returns captions by video, the official split of each if given, and the first file."""
    path = annotation_files.find_if_there(root, CAPTIONS, FOLDERS)
    if path is not None:
        return *_read_official([path]), path
    found = [
        path for names in OFFICIAL if (path := annotation_files.find_if_there(root, names, FOLDERS))
    ]
    if found:
        return *_read_official(found), found[0]
    path = annotation_files.find_if_there(root, ("MSR_VTT.json",), FOLDERS)
    if path is not None:
        return _read_coco_style(path), {}, path
    annotation_files.find(root, (*CAPTIONS, *OFFICIAL[0], "MSR_VTT.json"), FOLDERS)
    raise DataError(f"no captions below {root}.")


def _read_official(paths: list[Path]) -> tuple[dict[str, list[str]], dict[str, str]]:
    captions: defaultdict[str, list[str]] = defaultdict(list)
    official: dict[str, str] = {}
    for path in paths:
        content = annotation_files.read_json(path)
        videos = annotation_files.listed(
            annotation_files.get(content, "videos", path, "the file"), path, "'videos'"
        )
        ids = [
            annotation_files.text(
                annotation_files.get(video, "video_id", path, "a video"), path, "a video_id"
            )
            for video in videos
        ]
        annotation_files.require_unique(ids, path, "videos")
        for name, video in zip(ids, videos, strict=True):
            split = OFFICIAL_SPLITS.get(str(video.get("split", "")))
            if split:
                official[name] = split
        for sentence in annotation_files.listed(
            annotation_files.get(content, "sentences", path, "the file"), path, "'sentences'"
        ):
            name = annotation_files.text(
                annotation_files.get(sentence, "video_id", path, "a sentence"), path, "a video_id"
            )
            captions[name].append(
                annotation_files.text(
                    annotation_files.get(sentence, "caption", path, "a sentence"), path, "a caption"
                )
            )
    return dict(captions), official


def _read_coco_style(path: Path) -> dict[str, list[str]]:
    captions: defaultdict[str, list[str]] = defaultdict(list)
    content: Any = annotation_files.read_json(path)
    for row in annotation_files.listed(
        annotation_files.get(content, "annotations", path, "the file"), path, "'annotations'"
    ):
        name = annotation_files.text(
            annotation_files.get(row, "image_id", path, "an annotation"), path, "an image_id"
        )
        captions[name].append(
            annotation_files.text(
                annotation_files.get(row, "caption", path, "an annotation"), path, "a caption"
            )
        )
    return dict(captions)


MSRVTT = BenchmarkReader(
    "msrvtt",
    "retrieval",
    ("1k-A", "1k-A-7k", "full", "1k-B"),
    open_msrvtt,
    Source(
        where=(
            "MSR-VTT page of Microsoft Research (captions, videos); the lists come with CLIP4Clip "
            "(1k-A) and Collaborative Experts (1k-B)"
        ),
        files=(
            "captions: MSRVTT_data.json, else train_val_videodatainfo.json and "
            "test_videodatainfo.json, else MSR_VTT.json; "
            "1k-A: MSRVTT_JSFUSION_test.csv and MSRVTT_train.9k.csv (or train_list_jsfusion.txt); "
            "1k-A-7k: MSRVTT_train.7k.csv; "
            "full: MSRVTT_{train,val,test}.full.csv or {train,val,test}_list_full.txt (else the "
            "splits in the caption file); "
            "1k-B: {train,test}_list_miech.txt"
        ),
        folders=", ".join(VIDEO_FOLDERS),
        licence="research use only (Microsoft); check the terms of the page",
        size="—",
    ),
)
