"""UCF101: 101 classes, three official splits."""

from __future__ import annotations

from pathlib import Path

from simvtp.data.benchmarks import annotation_files, video_files
from simvtp.data.benchmarks.actions import make_benchmark
from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader, Source
from simvtp.data.benchmarks.records import Action, Benchmark

FOLDERS = (
    "ucfTrainTestlist",
    "ucfTrainTestlist/ucfTrainTestlist",
    "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist",
)
VIDEO_FOLDERS = ("UCF-101", "UCF101", "videos")


def open_ucf101(root: Path, protocol: str) -> Benchmark:
    labels = _read_classes(annotation_files.find(root, ["classInd.txt"], FOLDERS))
    numbers = {label: number for number, label in enumerate(labels, start=1)}
    actions: list[Action] = []
    places: dict[str, str] = {}
    for split in ("train", "test"):
        path = annotation_files.find(root, [f"{split}list0{protocol[-1]}.txt"], FOLDERS)
        lines = [line.split() for line in annotation_files.read_lines(path)]
        annotation_files.require_unique([words[0] for words in lines], path, "videos")
        for words in lines:
            label, _, file = words[0].rpartition("/")
            if (
                label not in numbers
                or len(words) > 2
                or (len(words) == 2 and words[1] != str(numbers[label]))
            ):
                annotation_files.refuse(
                    path,
                    f"has a line '{' '.join(words)}' that is not CLASS/VIDEO [NUMBER] with a "
                    "class of classInd.txt",
                )
            name = video_files.bare_name(file, video_files.VIDEOS)
            places[name] = words[0]
            actions.append(Action(name, label, split))
    finder = video_files.VideoFinder(root, VIDEO_FOLDERS)
    videos = {name: finder.path(name, place) for name, place in places.items()}
    return make_benchmark(
        "ucf101",
        protocol,
        actions,
        labels,
        videos,
        group=lambda name: name.rpartition("_c")[0] or name,
    )


def _read_classes(path: Path) -> list[str]:
    pairs = [line.split() for line in annotation_files.read_lines(path)]
    if [pair[0] for pair in pairs] != [str(number) for number in range(1, len(pairs) + 1)] or any(
        len(pair) != 2 for pair in pairs
    ):
        annotation_files.refuse(path, "must have lines 'NUMBER CLASS', numbered from 1")
    return [label for _, label in pairs]


UCF101 = BenchmarkReader(
    "ucf101",
    "action",
    ("split1", "split2", "split3"),
    open_ucf101,
    Source(
        where="UCF101 page of the University of Central Florida",
        files="classInd.txt, trainlist0N.txt, testlist0N.txt",
        folders=", ".join(VIDEO_FOLDERS),
        licence="not stated; videos are their uploaders'",
        size="6.5 GB",
    ),
)
