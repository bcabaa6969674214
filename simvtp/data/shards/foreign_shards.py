"""Indexes tar shards that others made (webdataset, img2dataset, video2dataset).

One pass over each tar file (`foreign_samples`) writes the index that `data shard` would write, next
to it: from then on any clip is read by its offset, and order, shuffling, ranks and resume are those
of any data set. The index holds captions, offsets, sizes and the sha256 of each video, so it stands
for the content of the data set; each clip is compared with its sha256 when a process first reads
it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from simvtp.data.progress import CancelCheck, LogFn, never_cancelled, wait_for_lock
from simvtp.data.shards.foreign_samples import CAPTION_KEYS, TarSample, samples_of
from simvtp.data.shards.tar_shards import FORMAT, PLAN, SUMMARY
from simvtp.data.video.tar_member import FRAME_RECORD, FRAMES_ENDING
from simvtp.errors import DataError, UserError
from simvtp.runs.atomic_files import read_json, read_json_or_none, write_atomically

DIGESTS = "sha256"  # of the members, in an index of this version; older ones had none
THREADS = 8  # at most: tar files that are read at once
SPLIT = re.compile(r"(train|val|test)(?:id|idation|ing)?(?![a-z])", re.IGNORECASE)


def is_foreign(path: Path) -> bool:
    """Returns whether a folder holds tar files of others without an index, or with an older one."""
    if not path.is_dir() or not any(path.glob("*.tar")):
        return False
    if not (path / PLAN).is_file():
        return True
    plan = read_json_or_none(path / PLAN, dict) or {}
    # what `data shard` writes names the manifest
    return "manifest" not in plan and plan.get("digests") != DIGESTS


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
    # names that say train for all files say nothing about validation and test
    has_splits = all(splits) and len(set(splits)) > 1
    listed, number = [], 0
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    for tar, named, index in zip(tars, splits, _indexes(tars, check), strict=True):
        split = named if has_splits else ""
        number = _store(tar, index, split, number)
        counts.update({name: index[name] for name in ("without_video", "empty", "silent")})
        twice = next((entry["id"] for entry in index["clips"] if entry["id"] in seen), None)
        if twice is not None:
            raise DataError(f"{tar}: the sample {twice} is in another tar file, too.")
        seen.update(entry["id"] for entry in index["clips"])
        file = tar.with_suffix(".json")
        listed.append(
            {
                "name": tar.stem,
                "split": split,
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
        "digests": DIGESTS,
        "has_splits": has_splits,
        "rows_without_caption": counts["empty"] + counts["silent"],
        "samples_without_video": counts["without_video"],
        "videos_without_caption": counts["empty"] + counts["silent"],
        "bytes": sum(shard["bytes"] for shard in listed),
        "shards": listed,
    }
    write_atomically(folder / SUMMARY, json.dumps(summary, indent=1))
    names = [shard["name"] for shard in listed]
    plan = {"format": FORMAT, "digests": DIGESTS, "shards": names}
    write_atomically(folder / PLAN, json.dumps(plan, indent=1))


def _split_of(tar: Path) -> str:
    found = SPLIT.match(tar.stem) or SPLIT.fullmatch(tar.parent.name)
    return found[1].lower() if found else ""


def _indexes(tars: Sequence[Path], check: CancelCheck) -> Iterator[dict[str, Any]]:
    """Yields the index of each tar file in order; several files are read at once, by threads."""
    count = min(THREADS, len(os.sched_getaffinity(0)), len(tars))
    remaining, running = iter(tars), deque[Future[dict[str, Any]]]()
    with ThreadPoolExecutor(count) as pool:
        try:
            while True:
                ahead = itertools.islice(remaining, 2 * count - len(running))
                running += [pool.submit(_index_of, tar) for tar in ahead]
                if not running:
                    return
                check()
                yield running.popleft().result()
        finally:
            for answer in running:
                answer.cancel()


def _index_of(tar: Path) -> dict[str, Any]:
    """Returns the index of a tar file; that which is there, if it is younger than the file."""
    file, size = tar.with_suffix(".json"), tar.stat().st_size
    if file.is_file():
        known = read_json(file)
        if not isinstance(known, dict) or "next" not in known:
            raise DataError(f"{file} is where the index of {tar.name} belongs: move it.")
        fresh = file.stat().st_mtime_ns >= tar.stat().st_mtime_ns
        if fresh and (known["bytes"], known.get("digests")) == (size, DIGESTS):
            return known
    counts = Counter({"without_video": 0, "empty": 0, "silent": 0})
    clips: list[dict[str, Any]] = []
    records = bytearray()
    for sample in samples_of(tar):
        if sample.useless:
            counts[sample.useless] += 1
            continue
        about = {"key": sample.key, "id": sample.key, "captions": sample.captions}
        clips.append({**about, "video": _video(sample, records)})
    if records:
        write_atomically(tar.with_suffix(FRAMES_ENDING), bytes(records))
    head = {"format": FORMAT, "shard": tar.name, "bytes": size, "digests": DIGESTS}
    return {**head, "clips": clips, "failed": [], **counts}


def _video(sample: TarSample, records: bytearray) -> dict[str, Any]:
    """Returns where the video of a sample lies; appends the records of frames."""
    if not sample.frames:
        (member,) = sample.media
        place = {"offset": member.offset, "length": member.length}
        return {"name": member.name, **place, "sha256": member.sha256}
    own = b"".join(
        FRAME_RECORD.pack(member.offset, member.length, bytes.fromhex(member.sha256))
        for member in sample.media
    )
    first = len(records) // FRAME_RECORD.size
    records += own
    sha256 = hashlib.sha256(own).hexdigest()
    name = sample.media[0].name
    return {"name": name, "first": first, "pictures": len(sample.media), "sha256": sha256}


def _store(tar: Path, index: dict[str, Any], split: str, number: int) -> int:
    """Writes an index whose first clip has that number; returns the next number."""
    following = number + len(index["clips"])
    place = {"split": split, "first": number, "next": following}
    if {key: index.get(key) for key in place} != place:
        for own, entry in enumerate(index["clips"], start=number):
            entry |= {"split": split, "number": own}
        index |= place
        write_atomically(tar.with_suffix(".json"), json.dumps(index))
    return following
