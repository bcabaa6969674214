"""Image-text retrieval on Flickr30k and COCO with the splits of Karpathy and Fei-Fei: images are one-frame clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from simvtp.data.benchmarks import files
from simvtp.data.records import Benchmark

FOLDERS = ("karpathy", "caption_datasets")
SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
PYAV = "images are read by data.reader=pyav; decord does not open them"


def open_karpathy(root: Path, name: str, protocol: str, names: Sequence[str], image_folders: Sequence[str]) -> Benchmark:
    """Read `dataset_*.json`; every caption of a test image is a query (five of each)."""
    path = files.find(root, names, (*FOLDERS, name))
    images = files.listed(files.get(files.read_json(path), "images", path, "the file"), path, "'images'")
    captions: dict[str, list[str]] = {}
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    places: dict[str, str] = {}
    for image in images:
        file = files.text(files.get(image, "filename", path, "an image"), path, "a filename")
        split = SPLITS.get(str(files.get(image, "split", path, file)))
        if split is None:
            files.refuse(path, f"has split '{image['split']}' of {file}; it must be one of {', '.join(SPLITS)}")
        sentences = files.listed(files.get(image, "sentences", path, file), path, f"'sentences' of {file}")
        stem = files.bare_name(file, files.IMAGES)
        if stem in captions:
            files.refuse(path, f"names {file} more than once")
        captions[stem] = [files.text(files.get(s, "raw", path, f"a sentence of {file}"), path, f"a sentence of {file}") for s in sentences]
        places[stem] = f"{image['filepath']}/{file}" if image.get("filepath") else file
        splits[split].append(stem)
    finder = files.VideoFinder(root, image_folders, files.IMAGES)
    paths = {stem: finder.path(stem, place) for stem, place in places.items()}
    clips = files.make_clips(splits, captions, paths, path)
    notes = ("every caption of a test image is a query (five each)", PYAV)
    return Benchmark(name, "image_text", protocol, paths, clips=clips, notes=notes, read=files.count_splits(clips))
