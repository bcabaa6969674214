"""Tar shards: many small clips in a few large files, read by offset.

    OUT/
      plan.json             which clips go into which shard, and how they are encoded; written first
      train-000000.tar      members <key>.mp4 and <key>.json {"id", "captions", "split", ...}, as
                            the `webdataset` package reads them; <key>.u8 in place of the video
                            where frames are stored uncompressed
      train-000000.json     index: offset, length and sha256 of each member; which clips failed and
                            why; written when the shard is complete
      failures.csv          every clip that failed
      summary.json          counts, and the sha256 of each index; written last: without it the
                            shards are not finished

A shard holds clips of one split (`clips-...` where the manifest has no splits). Nothing in these
files depends on when or where they were made, so the digest of the summary is that of the content,
wherever the folder lies. `simvtp.data.prepare.write_shards` writes them. Shards that others made
get the same index (`simvtp.data.shards.foreign_shards`).
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simvtp.data.clips import BenchmarkOrigin, Clip, Manifest, TableRows
from simvtp.data.video.tar_member import frames_path, member_path
from simvtp.errors import DamagedFile, DataError
from simvtp.runs.atomic_files import read_json

log = logging.getLogger(__name__)

FORMAT = 1
PLAN, SUMMARY, FAILURES = "plan.json", "summary.json", "failures.csv"
# Of a member that holds uncompressed frames: uint8 [frames, height, width, 3], RGB.
RAW_ENDING = ".u8"


def is_shards(path: Path) -> bool:
    """Returns whether this is a folder of shards, finished or not, or the summary of one."""
    return (_folder(path) / PLAN).is_file()


def _folder(path: Path) -> Path:
    return path.parent if path.name == SUMMARY else path


def read_summary(path: Path) -> dict[str, Any]:
    """Returns the content of `summary.json`.

    Raises:
        DataError: the shards are not finished or of another format.
    """
    folder = _folder(path)
    if not is_shards(path):
        raise DataError(
            f"{folder} holds no shards; make some with "
            f"`python -m simvtp data shard MANIFEST {folder}`."
        )
    if not (folder / SUMMARY).is_file():
        raise DataError(
            f"the shards in {folder} are not finished: run the command again that made them, "
            "and it resumes."
        )
    summary: dict[str, Any] = _json(folder / SUMMARY)
    if summary.get("format") != FORMAT:
        raise DataError(
            f"the shards in {folder} have format {summary.get('format')}, this version reads "
            f"{FORMAT}: make them again."
        )
    return summary


def read_shards(path: Path) -> Manifest:
    """Returns the clips of a folder of shards, in the order of the manifest they were made from.

    Clips that failed are not among them.

    Args:
        path: the folder, or the summary in it.

    Raises:
        DataError: it holds no shards, or unfinished ones, or an index is missing or damaged. A
            damaged shard is noticed when its clips are read.
    """
    folder, summary = _folder(path), read_summary(path)
    if summary.get("indexed"):
        _refuse_changed(folder, summary)
    clips = [clip for shard in summary["shards"] for clip in _clips_of(folder, shard)]
    if not clips:
        raise DataError(
            f"the shards in {folder} hold no clip: all {summary['clips']} failed, "
            f"see {folder / FAILURES}."
        )
    clips.sort(key=lambda numbered: numbered[0])
    failed = summary["clips"] - summary["written"]
    if failed:
        log.warning(
            "%s: %d of %d clips were left out when the shards were made, see %s",
            folder,
            failed,
            summary["clips"],
            FAILURES,
        )
    found = tuple(clip for _, clip in clips)
    if not summary.get("indexed"):
        return Manifest(folder, found, summary["has_splits"], 0, (), source=_source(summary))
    silent, bare = summary["rows_without_caption"], summary["samples_without_video"]
    rows = TableRows(len(found) + silent + bare, len(found))
    return Manifest(folder, found, summary["has_splits"], 0, (), rows=rows)


def _refuse_changed(folder: Path, summary: dict[str, Any]) -> None:
    """Raises DataError if shards that others made are not those that were indexed."""
    known = {f"{shard['name']}.tar": shard["bytes"] for shard in summary["shards"]}
    there = {tar.name: tar.stat().st_size for tar in folder.glob("*.tar")}
    changed = sorted(name for name in known | there if known.get(name) != there.get(name))
    if changed:
        raise DataError(
            f"{folder}: {len(changed)} tar files are not those that were indexed, the first is "
            f"{changed[0]}; remove {PLAN} and the indexes (*.json), and run the command again."
        )


def _clips_of(folder: Path, shard: dict[str, Any]) -> Iterator[tuple[int, Clip]]:
    """Yields (index in the manifest, clip) of one shard."""
    file = folder / f"{shard['name']}.json"
    index = _json(file)
    if hashlib.sha256(file.read_bytes()).hexdigest() != shard["index_sha256"]:
        raise DataError(
            f"{file} is not the one that {folder / SUMMARY} refers to: copy the folder of shards "
            "again, or make them again."
        )
    tar = folder.resolve() / f"{shard['name']}.tar"
    for entry in index["clips"]:
        video = entry["video"]
        sha256 = video.get("sha256", "")
        raw = None
        if video["name"].endswith(RAW_ENDING):
            raw = video["frames"], video["height"], video["width"]
        if "pictures" in video:
            path = frames_path(tar, video["first"], video["pictures"], sha256)
        else:
            path = member_path(tar, video["offset"], video["length"], sha256, raw)
        measured = None
        if "frames" in video:
            measured = video["frames"], video["fps"], video["height"], video["width"]
        captions = tuple(entry["captions"])
        yield (
            entry["number"],
            Clip(entry["id"], path, captions, entry["split"], measured=measured),
        )


def _source(summary: dict[str, Any]) -> BenchmarkOrigin | None:
    """Returns the benchmark of the shards; its notes say which splits are incomplete."""
    of = summary.get("benchmark")
    if of is None:
        return None
    lost: Counter[str] = Counter()
    for shard in summary["shards"]:
        lost[shard["split"]] += shard["failed"]
    notes = [
        f"{count} {split} videos were left out when the shards were made"
        for split, count in lost.items()
        if count
    ]
    return BenchmarkOrigin(of["name"], of["protocol"], (*of["notes"], *notes))


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, DamagedFile) as error:
        raise DataError(
            f"{path} cannot be read ({error}): copy the folder of shards again, or make them again."
        ) from error
