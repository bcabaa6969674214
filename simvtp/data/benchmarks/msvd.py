"""MSVD retrieval: 1,970 clips of YouTube videos with about 40 captions each."""

from __future__ import annotations

import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any, NoReturn

from simvtp.data.benchmarks import annotation_files, video_files
from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader, Source
from simvtp.data.benchmarks.records import Benchmark

FOLDERS = ("msvd_data", "MSVD", "msvd", "txt_labels")
VIDEO_FOLDERS = ("YouTubeClips", "videos", "MSVD_Videos", "msvd_videos")
LISTS = {split: (f"{split}_list.txt",) for split in ("train", "val", "test")}
CAPTIONS = (
    "raw-captions.pkl",
    "captions_msvd.json",
    "raw-captions.json",
    "AllVideoDescriptions.txt",
    "video_corpus.csv",
)


def open_msvd(root: Path, protocol: str) -> Benchmark:
    path = annotation_files.find(root, CAPTIONS, FOLDERS)
    captions = _read_captions(path)
    splits = {}
    for split, names in LISTS.items():
        place = annotation_files.find(root, names, FOLDERS)
        splits[split] = annotation_files.read_lines(place)
        annotation_files.require_unique(splits[split], place, "clips")
        annotation_files.require_known(splits[split], captions, split, path)
    annotation_files.require_apart(splits, "msvd")
    finder = video_files.VideoFinder(root, VIDEO_FOLDERS)
    videos = {name: finder.path(name, f"{name}.avi") for ids in splits.values() for name in ids}
    clips = annotation_files.make_clips(splits, captions, videos, path)
    notes = (
        "every caption of a test clip is a query (about 41 each); a clip is found if any of its "
        "captions finds it",
    )
    return Benchmark(
        "msvd",
        "retrieval",
        protocol,
        videos,
        clips=clips,
        notes=notes,
        read=annotation_files.count_splits(clips),
    )


def _read_captions(path: Path) -> dict[str, list[str]]:
    if path.suffix == ".txt":
        return _read_descriptions(path)
    if path.suffix == ".csv":
        return _read_corpus(path)
    content = read_plain_pickle(path) if path.suffix == ".pkl" else annotation_files.read_json(path)
    if not isinstance(content, dict):
        annotation_files.refuse(
            path, f"holds {type(content).__name__} where captions by clip are expected"
        )
    return {
        annotation_files.text(name, path, "a name"): [
            _sentence(c, path) for c in _listed(several, path)
        ]
        for name, several in content.items()
    }


def _listed(value: Any, path: Path) -> list[Any]:
    return annotation_files.listed(
        list(value) if isinstance(value, tuple) else value, path, "the captions of a clip"
    )


def _sentence(caption: Any, path: Path) -> str:
    """Returns a caption, given as text or as a list of its words."""
    if isinstance(caption, (list, tuple)):
        return " ".join(annotation_files.text(word, path, "a word") for word in caption)
    return annotation_files.text(caption, path, "a caption")


def _read_descriptions(path: Path) -> dict[str, list[str]]:
    captions: defaultdict[str, list[str]] = defaultdict(list)
    for line in annotation_files.read_lines(path):
        name, blank, caption = line.partition(" ")
        if not line.startswith("#"):
            if not blank:
                annotation_files.refuse(path, f"has a line without a caption: '{line}'")
            captions[name].append(caption.strip())
    return dict(captions)


def _read_corpus(path: Path) -> dict[str, list[str]]:
    captions: defaultdict[str, list[str]] = defaultdict(list)
    for row in annotation_files.read_table(
        path, ["VideoID", "Start", "End", "Language", "Description"]
    ):
        if row["Language"] == "English" and row["Description"]:
            captions[f"{row['VideoID']}_{row['Start']}_{row['End']}"].append(row["Description"])
    return dict(captions)


class _PlainUnpickler(pickle.Unpickler):
    """Builds lists, dictionaries, numbers and text only.

    A file that names any class or function is refused, so none of its code runs.
    """

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(
            f"it names {module}.{name}; only lists, dictionaries and text are read"
        )


def read_plain_pickle(path: Path) -> Any:
    """Returns the content of a pickle that holds plain values.

    Raises:
        DataError: it holds others.
    """
    try:
        with open(path, "rb") as file:
            return _PlainUnpickler(file, encoding="utf-8", errors="strict").load()
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        IndexError,
        KeyError,
        AttributeError,
        TypeError,
        OSError,
        MemoryError,
    ) as error:
        annotation_files.refuse(
            path, f"cannot be read as a plain pickle ({str(error).strip() or type(error).__name__})"
        )


MSVD = BenchmarkReader(
    "msvd",
    "retrieval",
    ("standard",),
    open_msvd,
    Source(
        where=(
            "Microsoft Research Video Description Corpus (UT Austin page: YouTubeClips.tar); "
            "lists and captions come with Collaborative Experts"
        ),
        files="{train,val,test}_list.txt; captions: " + ", else ".join(CAPTIONS),
        folders=", ".join(VIDEO_FOLDERS),
        licence="research use only; videos are their uploaders'",
        size="1.7 GB",
    ),
)
