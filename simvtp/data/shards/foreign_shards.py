"""Indexes tar shards that others made (webdataset, img2dataset, video2dataset).

Members of one sample share their name up to the first dot: a video or picture (`mp4`, `webm`,
`jpg`, ...) with its caption in `txt`, or under a usual key of `json`. One pass over the headers of
each tar file writes the index that `data shard` would write, next to it: from then on any clip is
read by its offset, and order, shuffling, ranks and resume are those of any data set. The contents
are not read in that pass, so their checksums are not known; captions, names, offsets and sizes make
the digest of the data set.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simvtp.data.progress import CancelCheck, LogFn, never_cancelled, wait_for_lock
from simvtp.data.shards.tar_shards import FORMAT, PLAN, SUMMARY
from simvtp.data.text.placeholder_captions import says_nothing
from simvtp.errors import DataError, UserError
from simvtp.runs.atomic_files import read_json, write_atomically

VIDEOS = (
    "mp4", "webm", "mkv", "avi", "mov", "m4v", "mpg", "flv", "gif", "jpg", "jpeg", "png", "webp",
)  # fmt: skip
CAPTION_KEYS = ("caption", "captions", "text", "sentence", "sentences", "title")
SPLIT = re.compile(r"(train|val|test)(?:idation|ing)?(?![a-z])", re.IGNORECASE)


def is_foreign(path: Path) -> bool:
    """Returns whether a folder holds tar files without an index of ours."""
    return path.is_dir() and not (path / PLAN).is_file() and any(path.glob("*.tar"))


def index_foreign_shards(
    folder: Path, say: LogFn | None = None, check: CancelCheck = never_cancelled
) -> None:
    """Writes an index next to each tar file of a folder; goes on where an earlier call was killed.

    Args:
        folder: of the tar files.
        say: takes progress.
        check: called before each file; may raise to end the work.

    Raises:
        DataError: a tar file is damaged, or holds no videos with captions.
        UserError: the folder cannot be written.
    """
    try:
        with open(folder / ".index.lock", "w") as lock:
            wait_for_lock(lock, check)
            if is_foreign(folder):
                _index(folder, say, check)
    except OSError as error:
        raise UserError(
            f"cannot write an index into {folder} ({error.strerror or error}); make a folder of "
            "links to its tar files, and read that."
        ) from error


def _index(folder: Path, say: LogFn | None, check: CancelCheck) -> None:
    tars = sorted(folder.glob("*.tar"))
    splits = [_split_of(tar) for tar in tars]
    has_splits = all(splits)
    listed, number = [], 0
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    for tar, split in zip(tars, splits, strict=True):
        check()
        index = _index_of(tar, split if has_splits else "", number)
        number = index["next"]
        counts.update({name: index[name] for name in ("without_video", "empty", "silent")})
        twice = next((entry["id"] for entry in index["clips"] if entry["id"] in seen), None)
        if twice is not None:
            raise DataError(f"{tar}: the sample {twice} is in another tar file, too.")
        seen.update(entry["id"] for entry in index["clips"])
        file = tar.with_suffix(".json")
        listed.append(
            {
                "name": tar.stem,
                "split": split if has_splits else "",
                "clips": len(index["clips"]),
                "failed": 0,
                "bytes": index["bytes"],
                "index_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
        )
        if say:
            say(f"{tar.name}: {len(index['clips'])} clips indexed")
    if not seen:
        raise DataError(
            f"{folder} holds no videos with captions ({sum(counts.values())} samples lack one); "
            f"they must be members KEY.mp4 and KEY.txt, or KEY.json with "
            f"{', '.join(CAPTION_KEYS)}."
        )
    summary = {
        "format": FORMAT,
        "clips": len(seen),
        "written": len(seen),
        "failed": {},
        "indexed": True,
        "has_splits": has_splits,
        "rows_without_caption": counts["empty"] + counts["silent"],
        "samples_without_video": counts["without_video"],
        "videos_without_caption": counts["empty"] + counts["silent"],
        "bytes": sum(shard["bytes"] for shard in listed),
        "shards": listed,
    }
    write_atomically(folder / SUMMARY, json.dumps(summary, indent=1))
    plan = {"format": FORMAT, "shards": [shard["name"] for shard in listed]}
    write_atomically(folder / PLAN, json.dumps(plan, indent=1))


def _split_of(tar: Path) -> str:
    found = SPLIT.match(tar.stem) or SPLIT.fullmatch(tar.parent.name)
    return found[1].lower() if found else ""


def _index_of(tar: Path, split: str, number: int) -> dict[str, Any]:
    """Returns the index of one tar file; makes it unless it is there and as old as the file."""
    file = tar.with_suffix(".json")
    size = tar.stat().st_size
    if file.is_file():
        known = read_json(file)
        if not isinstance(known, dict) or "next" not in known:
            raise DataError(f"{file} is where the index of {tar.name} belongs: move it.")
        fresh = file.stat().st_mtime_ns >= tar.stat().st_mtime_ns
        if fresh and (known["bytes"], known["first"]) == (size, number):
            return known
    samples = list(_samples(tar))
    index: dict[str, Any] = {"format": FORMAT, "shard": tar.name, "bytes": size, "first": number}
    clips: list[dict[str, Any]] = []
    counts = Counter({"without_video": 0, "empty": 0, "silent": 0})
    for sample in samples:
        why = sample.useless
        if why:
            counts[why] += 1
            continue
        clips.append(
            {
                "key": sample.key,
                "number": number + len(clips),
                "id": sample.key,
                "captions": sample.captions,
                "split": split,
                "video": sample.video,
            }
        )
    index |= {"next": number + len(clips), "clips": clips, "failed": [], **counts}
    write_atomically(file, json.dumps(index))
    return index


@dataclass
class _Sample:
    """The members of one name."""

    key: str
    video: dict[str, Any] | None = None
    texts: dict[str, list[str]] = field(default_factory=dict)  # by ending

    @property
    def captions(self) -> list[str]:
        found = self.texts.get("txt") or self.texts.get("json") or []
        return [text for text in found if text and not says_nothing(text)]

    @property
    def useless(self) -> str:
        """Returns why the sample is left out; empty if it is not."""
        if self.video is None:
            return "without_video"
        if self.captions:
            return ""
        return "silent" if any(any(texts) for texts in self.texts.values()) else "empty"


def _samples(tar: Path) -> Iterator[_Sample]:
    sample: _Sample | None = None
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if sample is None or key != sample.key:
                    if sample is not None:
                        yield sample
                    sample = _Sample(key)
                _add(sample, archive, member, ending.lower())
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{tar} is damaged or cut off ({error}): copy it again.") from error
    if sample is not None:
        yield sample


def _add(sample: _Sample, archive: tarfile.TarFile, member: tarfile.TarInfo, ending: str) -> None:
    last = ending.rpartition(".")[2]
    if last in VIDEOS and sample.video is None:
        sample.video = {
            "name": member.name,
            "offset": member.offset_data,
            "length": member.size,
        }
    elif ending in ("txt", "json"):
        file = archive.extractfile(member)
        content = file.read().decode("utf-8", "replace") if file else ""
        sample.texts[ending] = [content.strip()] if ending == "txt" else _json_captions(content)


def _json_captions(content: str) -> list[str]:
    try:
        record = json.loads(content)
    except ValueError:
        return []
    for key in CAPTION_KEYS if isinstance(record, dict) else ():
        value = record.get(key)
        texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        if texts and all(isinstance(text, str) for text in texts):
            return [text.strip() for text in texts]
    return []
