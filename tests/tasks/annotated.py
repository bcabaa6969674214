"""Benchmarks in their official form about real clips.

A few videos of the embedded data set under other names, or frames of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from simvtp.config.experiment_config import Experiment
from simvtp.data.clips import Clip
from simvtp.data.datasets import open_dataset
from simvtp.data.video.pyav_reader import PyavReader


def clips_of(experiment: Experiment, split: str) -> tuple[Clip, ...]:
    """Clips of the embedded data set."""
    return open_dataset(experiment.data, experiment.runtime).splits[split]


def put(clip: Clip, folder: Path, name: str) -> None:
    """A copy of the clip's video."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(clip.path, folder / name)


def save_middle_frame(clip: Clip, path: Path) -> None:
    """The clip's middle frame as a picture, PNG or JPEG by the ending."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    reader = PyavReader()
    middle = (reader.probe(clip.path).frames - 1) // 2
    Image.fromarray(reader.read(clip.path, [middle], None)[0]).save(path)


def write_karpathy(root: Path, splits: dict[str, Sequence[Clip]], captions: int = 5) -> None:
    """`dataset_flickr30k.json` and pictures, every other one a JPEG."""
    images = []
    for split, clips in splits.items():
        for clip in clips:
            number = len(images)
            name = f"{1000 + number}.{'jpg' if number % 2 else 'png'}"
            save_middle_frame(clip, root / "flickr30k-images" / name)
            sentences = [
                {"raw": f"{clip.captions[0]} ({i})", "imgid": number, "sentid": i}
                for i in range(captions)
            ]
            images.append(
                {"imgid": number, "split": split, "filename": name, "sentences": sentences}
            )
    (root / "dataset_flickr30k.json").write_text(
        json.dumps({"images": images, "dataset": "flickr30k"})
    )


def halves(clip: Clip) -> tuple[str, str]:
    """A paragraph of two sentences that belongs to no other clip."""
    words = clip.captions[0].split()
    return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])


def write_didemo(root: Path, splits: dict[str, Sequence[Clip]]) -> None:
    number = 0
    for split, clips in splits.items():
        rows = []
        for clip in clips:
            name = f"{clip.id}@N01.mp4"
            put(clip, root / "videos", name)
            for sentence in halves(clip):
                rows.append(
                    {
                        "annotation_id": number,
                        "description": sentence,
                        "video": name,
                        "num_segments": 6,
                        "times": [[0, 1]],
                    }
                )
                number += 1
        (root / f"{split}_data.json").write_text(json.dumps(rows))


def write_activitynet(root: Path, train: Sequence[Clip], test: Sequence[Clip]) -> None:
    for name, clips in (("train", train), ("val_1", test)):
        content = {
            f"v_{clip.id}": {
                "duration": 1.0,
                "timestamps": [[0, 0.5], [0.5, 1.0]],
                "sentences": list(halves(clip)),
            }
            for clip in clips
        }
        (root / f"{name}.json").write_text(json.dumps(content))
        for clip in clips:
            put(clip, root / "videos", f"v_{clip.id}.mp4")


def write_msrvtt_mc(
    root: Path, train: Sequence[Clip], val: Sequence[Clip], test: Sequence[Clip]
) -> None:
    """MSRVTT_data.json with the captions of train and val, MSR_MC_test.csv about the test clips.

    The right one is number n % 5.
    """
    kinds = (
        [("train", clip) for clip in train]
        + [("validate", clip) for clip in val]
        + [("test", clip) for clip in test]
    )
    for number, (_, clip) in enumerate(kinds):
        put(clip, root / "videos", f"video{number}.mp4")
    videos = [{"video_id": f"video{n}", "split": kind} for n, (kind, _) in enumerate(kinds)]
    sentences = [
        {"video_id": f"video{n}", "caption": caption}
        for n, (_, clip) in enumerate(kinds)
        for caption in clip.captions
    ]
    (root / "MSRVTT_data.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
    rows = ["key\tvid_key\ta1\ta2\ta3\ta4\ta5\tanswer"]
    first = len(kinds) - len(test)
    for n, clip in enumerate(test):
        others = [test[(n + i) % len(test)].captions[0] for i in range(1, 5)]
        others.insert(n % 5, clip.captions[0])
        rows.append("\t".join([f"ret{n}", f"msr{first + n}", *others, str(n % 5)]))
    (root / "MSR_MC_test.csv").write_text("\n".join(rows) + "\n")


def write_lsmdc_mc(root: Path, splits: dict[str, Sequence[Clip]]) -> None:
    """The three TAB-separated files.

    The right sentence comes first but in the test file, which has its number.
    """
    times = ["00.00.01.000"] * 4
    for name, (split, clips) in zip(
        ("train", "valid", "test_randomized"), splits.items(), strict=True
    ):
        rows = []
        for n, clip in enumerate(clips):
            video = f"1000_A_Movie_{split}.{n:02d}"
            put(clip, root / "LSMDC_Videos", f"{video}.mp4")
            sentences = [clips[(n + i) % len(clips)].captions[0] for i in range(5)]
            if name == "test_randomized":
                sentences = [
                    *sentences[1 : 1 + n % 5],
                    sentences[0],
                    *sentences[1 + n % 5 :],
                    str(n % 5 + 1),
                ]
            rows.append("\t".join([video, *times, *sentences]))
        (root / f"LSMDC16_multiple_choice_{name}.csv").write_text("\n".join(rows) + "\n")
