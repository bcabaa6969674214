"""MSVD-QA: open-ended questions about the MSVD clips."""

from __future__ import annotations

from pathlib import Path

from simvtp.data.benchmarks import annotation_files, video_files
from simvtp.data.benchmarks.benchmark_reader import BenchmarkReader, Source
from simvtp.data.benchmarks.msvd import VIDEO_FOLDERS
from simvtp.data.benchmarks.open_questions import SPLITS, read_questions
from simvtp.data.benchmarks.records import Benchmark, videos_by_split

FOLDERS = ("MSVD-QA", "msvd_qa", "qa", "txt_labels", "msvd")
NAMES = {
    split: (f"{split}_qa.json", f"{split}.csv", f"{split}.jsonl", f"msvd_qa_{split}.jsonl")
    for split in SPLITS
}
MAPPING = "youtube_mapping.txt"


def open_msvd_qa(root: Path, protocol: str) -> Benchmark:
    names = _read_mapping(root)
    questions, notes = read_questions(root, FOLDERS, NAMES, _video)
    annotation_files.require_apart(videos_by_split(questions), "msvd_qa")
    asked = list(dict.fromkeys(q.video for q in questions))
    if names:
        unknown = [video for video in asked if video not in names]
        if unknown:
            annotation_files.refuse(
                annotation_files.find(root, [MAPPING], FOLDERS),
                f"does not name {len(unknown)} of {len(asked)} videos: "
                f"{annotation_files.few(unknown)}",
            )
    else:
        notes.append(f"there is no {MAPPING}, so the videos must be named vid1, vid2, ...")
    finder = video_files.VideoFinder(root, VIDEO_FOLDERS)
    videos = {
        video: finder.path(
            names.get(video, video), f"{names.get(video, video)}.avi", others=[video]
        )
        for video in asked
    }
    return Benchmark(
        "msvd_qa",
        "qa",
        protocol,
        videos,
        questions=questions,
        notes=tuple(notes),
        read=annotation_files.count_splits(questions),
    )


def _video(place: str, path: Path) -> str:
    """Returns the id; the files say 1451 or vid1451."""
    number = place.removeprefix("vid")
    return (
        f"vid{number}"
        if number.isdigit()
        else annotation_files.refuse(
            path, f"has video '{place}'; expected a number, or vid and a number"
        )
    )


def _read_mapping(root: Path) -> dict[str, str]:
    """Returns {"vid1": "-4wsuPCjDBc_5_15"} from the lines `-4wsuPCjDBc_5_15 vid1`.

    It is empty if there is no such file.
    """
    path = annotation_files.find_if_there(root, [MAPPING], FOLDERS)
    if path is None:
        return {}
    pairs = [line.split() for line in annotation_files.read_lines(path)]
    wrong = [pair for pair in pairs if len(pair) != 2]
    if wrong:
        annotation_files.refuse(
            path, f"has {len(wrong)} lines that are not 'NAME vidN': '{' '.join(wrong[0])}'"
        )
    annotation_files.require_unique([number for _, number in pairs], path, "videos")
    return {number: name for name, number in pairs}


MSVD_QA = BenchmarkReader(
    "msvd_qa",
    "qa",
    ("standard",),
    open_msvd_qa,
    Source(
        where="github.com/xudejing/video-question-answering; clips as msvd",
        files=(
            f"{{train,val,test}}_qa.json, else {{train,val,test}}.csv (HQGA), else "
            f"{{train,val,test}}.jsonl; {MAPPING} if clips have their YouTube names"
        ),
        folders=", ".join(VIDEO_FOLDERS),
        licence="as msvd",
        size="as msvd",
    ),
)
