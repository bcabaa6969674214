"""Image-text retrieval on Flickr30k and COCO with the splits of Karpathy and Fei-Fei.

Images are one-frame clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from simvtp.data.benchmarks import annotation_files, video_files
from simvtp.data.benchmarks.records import Benchmark

FOLDERS = ("karpathy", "caption_datasets")
SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
PYAV = "images are read by data.reader=pyav; decord does not open them"


def open_karpathy(
    root: Path, name: str, protocol: str, names: Sequence[str], image_folders: Sequence[str]
) -> Benchmark:
    """Reads `dataset_*.json`; every caption of a test image is a query (five of each)."""
    path = annotation_files.find(root, names, (*FOLDERS, name))
    images = annotation_files.listed(
        annotation_files.get(annotation_files.read_json(path), "images", path, "the file"),
        path,
        "'images'",
    )
    captions: dict[str, list[str]] = {}
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    places: dict[str, str] = {}
    for image in images:
        file = annotation_files.text(
            annotation_files.get(image, "filename", path, "an image"), path, "a filename"
        )
        split = SPLITS.get(str(annotation_files.get(image, "split", path, file)))
        if split is None:
            annotation_files.refuse(
                path,
                f"has split '{image['split']}' of {file}; it must be one of {', '.join(SPLITS)}",
            )
        sentences = annotation_files.listed(
            annotation_files.get(image, "sentences", path, file), path, f"'sentences' of {file}"
        )
        stem = video_files.bare_name(file, video_files.IMAGES)
        if stem in captions:
            annotation_files.refuse(path, f"names {file} more than once")
        captions[stem] = [
            annotation_files.text(
                annotation_files.get(s, "raw", path, f"a sentence of {file}"),
                path,
                f"a sentence of {file}",
            )
            for s in sentences
        ]
        places[stem] = f"{image['filepath']}/{file}" if image.get("filepath") else file
        splits[split].append(stem)
    finder = video_files.VideoFinder(root, image_folders, video_files.IMAGES)
    paths = {stem: finder.path(stem, place) for stem, place in places.items()}
    clips = annotation_files.make_clips(splits, captions, paths, path)
    notes = ("every caption of a test image is a query (five each)", PYAV)
    return Benchmark(
        name,
        "image_text",
        protocol,
        paths,
        clips=clips,
        notes=notes,
        read=annotation_files.count_splits(clips),
    )
