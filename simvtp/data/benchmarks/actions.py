"""Common parts of the action recognition benchmarks.

They have classes, splits, and videos held out from training by the recording they were cut from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from simvtp.data.benchmarks import annotation_files
from simvtp.data.benchmarks.records import Action, Benchmark


def make_benchmark(
    name: str,
    protocol: str,
    actions: Sequence[Action],
    labels: Sequence[str],
    videos: Mapping[str, Path],
    notes: Sequence[str] = (),
    group: Callable[[str], str] = str,
) -> Benchmark:
    """Checks that splits are apart and gives the benchmark a val split if it has none.

    Args:
        group: recording that a video was cut from: parts of one recording are held out together,
            else selection would look at near copies of training videos.
    """
    splits = {
        split: [a.video for a in actions if a.split == split] for split in ("train", "val", "test")
    }
    annotation_files.require_apart(splits, f"{name} {protocol}")
    read = annotation_files.count_splits(actions)
    said = list(notes)
    if not splits["val"]:
        groups = {video: group(video) for video in splits["train"]}
        held = annotation_files.hold_out(groups.values())
        actions = [
            replace(a, split="val") if a.split == "train" and groups[a.video] in held else a
            for a in actions
        ]
        count = sum(a.split == "val" for a in actions)
        apart = (
            f", {len(held)} recordings with all their parts"
            if len(set(groups.values())) < len(groups)
            else ""
        )
        said.append(annotation_files.held_out_note(count, len(groups)) + apart)
    return Benchmark(
        name,
        "action",
        protocol,
        videos,
        actions=tuple(actions),
        labels=tuple(labels),
        notes=tuple(said),
        read=read,
    )
